"""All recipes together: the shipped ones, a depot's, a site's. What would set the same key of the same file is refused
when they are read, never "the last one wins".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import combinations, product

from agent.errors import UsageError
from agent.model.recipe import PHASES
from agent.model.recipe_file import Recipe, load_recipe

WHOLE = "*"  # instead of a key: all of the file
_WILD = "*?["


@dataclass(frozen=True, slots=True)
class _Setting:
    recipe: Recipe
    path: str
    key: str
    line: int
    alone: bool = True  # the value is this and nothing else; False: one word among others


def load_all(
    files: Mapping[str, str], site: Mapping[str, str] | None = None, depot: Mapping[str, str] | None = None
) -> tuple[Recipe, ...]:
    """All recipes in phase and file order; one of the site replaces one of the depot, which replaces a shipped one.

    ``files``, ``site``, ``depot``: file name → text. Two recipes that set the same key of the same file are refused.
    """
    chosen: dict[str, Recipe] = {}
    for origin, group in (("shipped", files), ("depot", depot or {}), ("site", site or {})):
        seen: dict[str, str] = {}
        for name in sorted(group):
            recipe = load_recipe(group[name], name)
            if recipe.id in seen:
                raise UsageError(f"{name}: recipe {recipe.id} is also in {seen[recipe.id]}", "give one another id")
            seen[recipe.id] = name
            replaced = chosen[recipe.id].origin if recipe.id in chosen else ""
            chosen[recipe.id] = replace(recipe, origin=origin, replaces=replaced)
    order: dict[str, int] = {phase: number for number, phase in enumerate(PHASES)}
    recipes = tuple(sorted(chosen.values(), key=lambda r: (order[r.phase], r.file)))
    refuse_conflicts(recipes)
    return recipes


def refuse_conflicts(recipes: Sequence[Recipe]) -> None:
    """Raise UsageError naming both places. Recipes that can never apply to one restore do not collide."""
    by_path: dict[str, list[_Setting]] = {}
    for recipe in recipes:
        for setting in _settings(recipe):
            by_path.setdefault(setting.path, []).append(setting)
    for settings in by_path.values():
        for one, other in combinations(settings, 2):
            if one.recipe.id != other.recipe.id and _collide(one, other) and not _apart(one.recipe, other.recipe):
                key = one.key if other.key == WHOLE else other.key
                raise UsageError(
                    f"recipes {one.recipe.id} ({one.recipe.file}:{one.line}) and {other.recipe.id} "
                    f"({other.recipe.file}:{other.line}) both set {one.path}{'' if key == WHOLE else ' ' + key}",
                    "let one of them do it, or give yours the id of the other to replace it",
                )


def _settings(recipe: Recipe) -> Iterator[_Setting]:
    for action in recipe.actions:
        path, key = str(action.fields.get("path", "")), str(action.fields.get("key", ""))
        if action.verb == "set":
            section = action.fields.get("section", "")
            yield _Setting(recipe, path, f"{section}/{key}" if section else key, action.line)
        elif action.verb in ("add-to", "drop-from"):
            yield _Setting(recipe, path, key, action.line, alone=False)
        elif action.verb == "truncate" or (action.verb == "write" and action.fields.get("whole")):
            yield _Setting(recipe, path, WHOLE, action.line)


def _collide(one: _Setting, other: _Setting) -> bool:
    return (one.alone or other.alone) and (one.key == other.key or WHOLE in (one.key, other.key))


def _apart(one: Recipe, other: Recipe) -> bool:
    """Whether no restore can have both: other modes, other systems, or facts of a machine that exclude each other."""
    if one.mode and other.mode and one.mode != other.mode:
        return True
    if not _overlap(one.os, other.os):
        return True
    return any(
        not _overlap(value, facts[key])
        for mine, theirs in product(one.all, other.all)
        if mine.kind == theirs.kind and mine.kind in ("source", "target")
        for facts in (theirs.fields,)
        for key, value in mine.fields.items()
        if key in facts
    )


def _overlap(one: str, other: str) -> bool:
    """Whether a text can match both globs; where both have wildcards, as far as their beginnings tell."""
    if not any(char in one for char in _WILD):
        return fnmatchcase(one, other)
    if not any(char in other for char in _WILD):
        return fnmatchcase(other, one)
    heads = [glob[: min(glob.find(char) for char in _WILD if char in glob)] for glob in (one, other)]
    return heads[0].startswith(heads[1]) or heads[1].startswith(heads[0])
