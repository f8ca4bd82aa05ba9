"""What differs, what the operator leaves out of it, and the recipes that apply. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agent.model.choices import with_skipped, without_skipped
from agent.model.compare import compare
from agent.model.difference import Difference, Item, Op, Tier
from agent.model.recipe import BoundRecipe, Install
from agent.model.recipe_file import Recipe
from agent.model.recipe_match import bind_all
from agent.model.situation import Situation
from agent.restore.dependencies import resolve


@dataclass(frozen=True, slots=True)
class Adaptation:
    recipes: tuple[BoundRecipe, ...]
    difference: Difference
    notes: tuple[str, ...]  # what a person must know
    situation: Situation  # in which it was decided


def adapt(recipes: tuple[Recipe, ...], situation: Situation) -> Adaptation:
    """What differs, and the recipes that apply with all that their components need.

    A component that cannot be installed is passed over, and the decision made again without it, until what is left
    can be installed or nothing is.
    """
    while True:
        whole = compare(situation)
        bound, handled = bind_all(recipes, without_skipped(situation.choices, whole), situation)
        found = resolve(bound, situation)
        fresh = {name: why for name, why in found.unmet.items() if name not in situation.unmet}
        if not fresh:
            difference = with_unmet(with_skipped(situation.choices, whole, handled), bound, found.unmet)
            return Adaptation(found.recipes, difference, found.notes, situation)
        situation = replace(situation, unmet={**situation.unmet, **fresh})


def with_unmet(difference: Difference, bound: Sequence[BoundRecipe], unmet: Mapping[str, str]) -> Difference:
    """What recipes install by name although it cannot be installed: it blocks where the recipe must not fail."""
    items = list(difference.items)
    for recipe in bound:
        for operation in recipe.operations:
            if isinstance(operation, Install) and operation.component in unmet:
                must = recipe.tier == Tier.MUST
                items.append(Item(
                    id=f"d{len(items) + 1}", op=Op.BLOCK if must else Op.ADD, kind="component",
                    key=operation.component, tier=Tier(recipe.tier), target=operation.component,
                    reason=f"recipe {recipe.id} installs {operation.component}: {unmet[operation.component]}",
                ))  # fmt: skip
    return replace(difference, items=tuple(items))
