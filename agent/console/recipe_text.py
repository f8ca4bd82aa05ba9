"""Recipes in words: the list, one explained, and what it would do here. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from agent.console.table import table
from agent.model.difference import Difference
from agent.model.recipe import BoundRecipe
from agent.model.recipe_file import Action, Condition, Recipe
from agent.model.recipe_match import describe, holds
from agent.model.situation import Situation
from agent.model.wording import printable


def recipe_list(recipes: Sequence[Recipe]) -> str:
    """One line each, in the order in which they are applied."""
    return table(("id", "tier", "phase", "from", "what it does"), [
        (recipe.id, recipe.tier, recipe.phase, origin_text(recipe), printable(recipe.title)) for recipe in recipes
    ])  # fmt: skip


def origin_text(recipe: Recipe) -> str:
    return recipe.origin + (f", replaces {recipe.replaces}" if recipe.replaces else "")


def explained(recipe: Recipe) -> str:
    """What, why, when, and how it is checked."""
    restricted = [text for text in (f"mode {recipe.mode}" if recipe.mode else "", _os(recipe)) if text]
    parts: list[tuple[str, list[str]]] = [
        (recipe.id, [recipe.title]),
        ("file", [f"{recipe.file} ({origin_text(recipe)})"]),
        ("tier", [{"must": "must: a failure or a failed check stops the restore"}.get(
            recipe.tier, f"{recipe.tier}: a failure is a warning")]),
        ("phase", [recipe.phase]),
        ("why", [recipe.why]),
        ("only for", restricted),
        ("when all", [condition_text(one) for one in recipe.all]),
        ("when one of", [condition_text(one) for one in recipe.any]),
        ("does", [action_text(one) for one in recipe.actions]),
        ("checks", [action_text(one) for one in recipe.checks]),
        ("tests", [golden.name for golden in recipe.tests] or ["none"]),
        ("rows", [", ".join(recipe.rows)] if recipe.rows else []),
    ]  # fmt: skip
    return "\n".join(line for name, lines in parts for line in _block(name, lines))


def here(recipe: Recipe, bound: BoundRecipe | None, difference: Difference, situation: Situation) -> str:
    """What it would do in one restore, or what keeps it from it."""
    heading = f"{difference.source} -> {difference.target}"
    if bound is None:
        return "\n".join([f"\non {printable(heading)} it does not apply:", *_obstacles(recipe, difference, situation)])
    items = {item.id: item for item in difference.items}
    lines = [f"  handles {name}: {items[name].reason}" for name in bound.items]
    lines += [f"  {describe(operation)}" for operation in bound.operations] or ["  does nothing"]
    lines += [f"  then checks {check.kind} {check.path} {check.text}".rstrip() for check in bound.checks]
    return "\n".join(["", *(printable(line) for line in (f"on {heading} it applies:", *lines))])


def _obstacles(recipe: Recipe, difference: Difference, situation: Situation) -> Iterator[str]:
    if recipe.mode and recipe.mode != situation.mode:
        yield f"  it is for mode {recipe.mode}, this is {situation.mode}"
    for condition in recipe.all:
        if not holds(condition, difference, situation):
            yield f"  does not hold: {condition_text(condition)}"
    if recipe.any and not any(holds(condition, difference, situation) for condition in recipe.any):
        yield "  holds none of: " + "; ".join(condition_text(condition) for condition in recipe.any)
    if not fnmatchcase(situation.source.os.id, recipe.os):
        yield f"  it is {_os(recipe)}, the image’s is {printable(situation.source.os.id) or 'unknown'}"


def _os(recipe: Recipe) -> str:
    return f"for the system {recipe.os}" if recipe.os != "*" else ""


def condition_text(condition: Condition) -> str:
    """``the difference has an item: op add, kind device``."""
    heads = {
        "diff": "the difference has an item", "source": "the image’s machine has", "target": "this machine has",
        "image": "the image has", "component": "the depot has a component",
    }  # fmt: skip
    if condition.kind == "not":
        assert condition.inner is not None
        return f"not: {condition_text(condition.inner)}"
    more = "" if condition.handles else " (which it does not handle)"
    return printable(f"{heads[condition.kind]}: {_facts(condition.fields)}{more}")


def action_text(action: Action) -> str:
    loop = f", for each {action.each}" if action.each else ""
    return printable(f"{action.verb}: {_facts(action.fields)}{loop}")


def _facts(fields: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {_value(value)}" for key, value in fields.items())


def _value(value: object) -> str:
    return (
        " ".join(map(str, value))
        if isinstance(value, list)
        else str(value).lower()
        if value in (True, False)
        else str(value)
    )


def _block(name: str, lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        yield f"{name if not number else '':<12} {printable(line)}"
