"""What differs, what the operator leaves out of it, and the recipes that apply. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from agent.model.choices import with_skipped, without_skipped
from agent.model.compare import compare
from agent.model.difference import Difference
from agent.model.recipe import BoundRecipe
from agent.model.recipe_file import Recipe
from agent.model.recipe_match import bind_all
from agent.model.situation import Situation


@dataclass(frozen=True, slots=True)
class Adaptation:
    recipes: tuple[BoundRecipe, ...]
    difference: Difference
    notes: tuple[str, ...]  # what a person must know


def adapt(recipes: tuple[Recipe, ...], situation: Situation) -> Adaptation:
    found = compare(situation)
    bound, handled = bind_all(recipes, without_skipped(situation.choices, found), situation)
    return Adaptation(bound, with_skipped(situation.choices, found, handled), ())
