"""Which recipes apply to a restore, with their placeholders filled in: pure, decided before anything is written.

Difference + Situation ──► [when] ──► matched items ──► operations and checks, concrete
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import msgspec

from agent.errors import PatchError, RefusedError
from agent.model.difference import Difference, Item, Tier
from agent.model.package_version import version_key
from agent.model.profile import Profile
from agent.model.recipe import AnyOperation, BoundRecipe, Check
from agent.model.recipe_file import PLACEHOLDER, Action, Condition, Recipe
from agent.model.references import command_lines
from agent.model.situation import Situation
from agent.model.tree import SAFE, Tree, read_text

# A file of the image (a NetworkManager profile may be called anything): its name is only opened, inside the root.
PATH = re.compile(r"/[^\x00-\x1f\x7f]*")
_OPENS = ("network", "replace", "move", "grep", "no-grep", "no-match", "exists")
_T = TypeVar("_T")
_TIER_RANK = {Tier.MUST: 2, Tier.SHOULD: 1, Tier.LATER: 0}

PROFILE_FIELDS: Mapping[str, Callable[[Profile], str]] = {
    "architecture": lambda p: p.platform.architecture,
    "codename": lambda p: p.os.codename,
    "cpu-vendor": lambda p: p.platform.cpu_vendor,
    "firmware": lambda p: p.platform.firmware.value,
    "initrd-tool": lambda p: p.os.initrd_tool,
    "loader": lambda p: p.os.loader,
    "os": lambda p: p.os.id,
    "package-format": lambda p: p.os.package_format,
    "product": lambda p: p.platform.product_name,
    "vendor": lambda p: p.platform.system_vendor,
    "version": lambda p: p.os.version,
    "virt": lambda p: p.platform.virtualization,
}


def bind(recipe: Recipe, difference: Difference, situation: Situation) -> BoundRecipe | None:
    """The recipe made concrete for this restore, or None when it does not apply."""
    if recipe.mode and recipe.mode != situation.mode:
        return None
    if not fnmatchcase(situation.source.os.id, recipe.os):
        return None
    outcomes = [(_holds(c, difference, situation), c) for c in recipe.all]
    if not all(holds for (holds, _), _ in outcomes):
        return None
    some = [(_holds(c, difference, situation), c) for c in recipe.any]
    if some and not any(holds for (holds, _), _ in some):
        return None
    matched = _in_order(difference, [(items, c) for (_, items), c in (*outcomes, *some)])
    handled = _in_order(difference, [(items, c) for (_, items), c in (*outcomes, *some) if c.handles])
    rank = _TIER_RANK[Tier(recipe.tier)]
    return BoundRecipe(
        id=recipe.id,
        title=recipe.title,
        tier=recipe.tier,
        phase=recipe.phase,
        why=recipe.why,
        # A recipe that may fail with a warning is no answer to something that must be.
        items=tuple(item.id for item in handled if _TIER_RANK[item.tier] <= rank),
        operations=_unique(_operations(recipe, matched, situation)),
        checks=_unique(_checks(recipe, matched, situation)),
        origin=recipe.origin,
    )


def bind_all(
    recipes: Sequence[Recipe], difference: Difference, situation: Situation
) -> tuple[tuple[BoundRecipe, ...], Difference]:
    """Every recipe that applies, in the order given (phases), and the difference with ``handled_by`` filled in."""
    found = (bind(recipe, difference, situation) for recipe in recipes)
    bound = tuple(recipe for recipe in found if recipe is not None)
    handlers: dict[str, list[str]] = {}
    for recipe in bound:
        for item in recipe.items:
            handlers.setdefault(item, []).append(recipe.id)
    items = tuple(replace(item, handled_by=(*item.handled_by, *handlers.get(item.id, ()))) for item in difference.items)
    return bound, replace(difference, items=items)


def describe(operation: AnyOperation) -> str:
    """One line for people and for golden tests: the verb, then its fields that say something."""
    table: dict[str, Any] = msgspec.to_builtins(operation)
    verb = table.pop("type")
    words = [" ".join(value) if isinstance(value, list | tuple) else str(value) for value in table.values() if value]
    return " ".join([verb, *words])


def matches_image(fields: Mapping[str, str], source: Profile, tree: Tree) -> bool:
    """Whether the image has the package, path, enabled unit or text that a condition names."""
    tests = {
        "package": lambda glob: any(fnmatchcase(package.name, glob) for package in source.packages),
        "path": lambda glob: bool(expand(tree, glob)),
        "unit": lambda glob: any(fnmatchcase(unit.name, glob) for unit in source.units if unit.state == "enabled"),
    }
    if "grep-path" in fields:
        found = any(fields["grep-text"] in read_text(tree, path) for path in expand(tree, fields["grep-path"]))
        return found and all(tests[key](glob) for key, glob in fields.items() if key in tests)
    return all(tests[key](glob) for key, glob in fields.items())


def expand(tree: Tree, pattern: str) -> tuple[str, ...]:
    """Paths of the tree that match a glob in their last part; the path itself when it has no wildcard."""
    if not re.search(r"[*?\[]", pattern):
        return (pattern,) if tree.exists(pattern) else ()
    folder, _, name = pattern.rpartition("/")
    return tuple(f"{folder}/{entry}" for entry in tree.list_dir(folder or "/") if fnmatchcase(entry, name))


def holds(condition: Condition, difference: Difference, situation: Situation) -> bool:
    """Whether one condition of a recipe is true of a restore."""
    return _holds(condition, difference, situation)[0]


def _holds(condition: Condition, difference: Difference, situation: Situation) -> tuple[bool, list[Item]]:
    fields = condition.fields
    match condition.kind:
        case "diff":
            items = [item for item in difference.items if _item_matches(item, fields)]
            return bool(items), items
        case "source" | "target":
            profile = situation.source if condition.kind == "source" else situation.target
            return all(fnmatchcase(PROFILE_FIELDS[key](profile), glob) for key, glob in fields.items()), []
        case "image":
            return matches_image(fields, situation.source, situation.tree), []
        case "component":
            return any(
                fnmatchcase(c.kind, fields.get("kind", "*")) and fnmatchcase(c.id, fields.get("id", "*"))
                for c in situation.components
            ), []
    assert condition.inner is not None
    return not _holds(condition.inner, difference, situation)[0], []


def _item_matches(item: Item, fields: Mapping[str, str]) -> bool:
    have = {
        "op": item.op.value,
        "kind": item.kind,
        "key": item.key,
        "tier": item.tier.value,
        "verdict": item.verdict.value,
        "from": item.source,
        "to": item.target,
    }
    return all(fnmatchcase(have[key], glob) for key, glob in fields.items())


def _in_order(difference: Difference, groups: Iterable[tuple[list[Item], Condition]]) -> list[Item]:
    wanted = {item.id for items, _ in groups for item in items}
    return [item for item in difference.items if item.id in wanted]


def _unique(values: Iterable[_T]) -> tuple[_T, ...]:
    found: list[_T] = []
    for value in values:
        if value not in found:
            found.append(value)
    return tuple(found)


def _looped(action: Action, items: Sequence[Item], situation: Situation) -> Iterable[dict[str, Any]]:
    """The action's fields, once for each item it loops over."""
    if not action.each:
        yield _filled(action, None, situation)
        return
    op, _, kind = action.each.partition(":")
    for item in items:
        if op in ("diff", item.op.value) and kind in ("", item.kind):
            yield _filled(action, item, situation)


def _is_whole_path(action: Action, key: str, text: str) -> bool:
    return action.verb in _OPENS and key in ("path", "to") and bool(PLACEHOLDER.fullmatch(text))


def _filled(action: Action, item: Item | None, situation: Situation) -> dict[str, Any]:
    values = {"name": situation.new_name}
    if item is not None:
        values |= {"from": item.source, "to": item.target, "key": item.key}

    def fill(text: str, *, pattern: bool, allowed: re.Pattern[str] = SAFE) -> str:
        def value(found: re.Match[str]) -> str:
            word = values[found[1]]
            if not allowed.fullmatch(word):
                raise RefusedError(
                    f"recipe value {word!r} for @{found[1]}@ has characters outside {allowed.pattern}",
                    "correct the name on the source machine or in the profile",
                )
            return re.escape(word) if pattern else word

        return PLACEHOLDER.sub(value, text)

    return {
        key: [fill(one, pattern=False) for one in text]
        if isinstance(text, list)
        else fill(text, pattern=key == "pattern", allowed=PATH if _is_whole_path(action, key, text) else SAFE)
        if isinstance(text, str)
        else text
        for key, text in action.fields.items()
    }


def _operations(recipe: Recipe, items: Sequence[Item], situation: Situation) -> Iterable[AnyOperation]:
    for action in recipe.actions:
        if action.verb == "request":
            yield _request(action, items, situation)
            continue
        for fields in _looped(action, items, situation):
            yield from _operation(action.verb, fields, situation)


def _request(action: Action, items: Sequence[Item], situation: Situation) -> AnyOperation:
    """One request, whatever it loops over: it runs once, and its lists are joined."""
    rounds = list(_looped(action, items, situation))
    modules = sorted({module for fields in rounds for module in fields.get("modules", [])})
    return _convert("request", {"what": action.fields["what"], "modules": modules})


def _operation(verb: str, fields: dict[str, Any], situation: Situation) -> Iterable[AnyOperation]:
    match verb:
        case "write":
            lines = [fields.pop("line")] if "line" in fields else fields["lines"]
            yield _convert(verb, {**fields, "lines": lines})
        case "drop-from" | "add-to":
            # Boot entries are many; a path without a wildcard is kept even where nothing is there.
            paths = expand(situation.tree, fields["path"]) if "*" in fields["path"] else (fields["path"],)
            for path in paths:
                yield _convert(verb, {**fields, "path": path})
        case "rename":
            yield _convert("move", fields)
        case "install":
            for component in _components(fields["component"], situation):
                yield _convert(verb, {"component": component[0], "version": component[1]})
        case "remove":
            yield from _removals(fields, situation)
        case "mask" | "disable" if "units" in fields:
            for name in units_of_image(fields["units"], situation.source):
                yield _convert(verb, {"unit": name})
        case "cmdline":
            yield from _command_line_edits(fields, situation.tree)
        case _:
            yield _convert(verb, fields)


def _removals(fields: dict[str, Any], situation: Situation) -> Iterable[AnyOperation]:
    """``package``: each package that matches by itself; ``packages``: all that match in one go."""
    together = "packages" in fields
    globs = fields.pop("packages") if together else [fields.pop("package")]
    names = sorted({p.name for p in situation.source.packages if _any(p.name, globs)})
    for name in names[:1] if together else names:
        yield _convert("remove", {**fields, "package": name, "others": names[1:] if together else ()})


def _command_line_edits(fields: Mapping[str, str], tree: Tree) -> Iterable[AnyOperation]:
    verb, word = ("add-to", fields["add"]) if "add" in fields else ("drop-from", fields["drop"])
    for place in command_lines(tree):
        if verb == "drop-from" or place.main:
            yield _convert(verb, {"path": place.path, "key": place.key, "word": word})


def _any(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def units_of_image(globs: Iterable[str], source: Profile) -> tuple[str, ...]:
    """Units that the image has, whatever their state; those masked already need nothing."""
    globs = tuple(globs)
    return tuple(sorted({unit.name for unit in source.units if unit.state != "masked" and _any(unit.name, globs)}))


def _components(wanted: str, situation: Situation) -> Iterable[tuple[str, str]]:
    """The newest component of each id that matches, or the version that ``ID=VERSION`` names."""
    ident, _, version = wanted.partition("=")
    matching = [c for c in situation.components if fnmatchcase(c.id, ident) and version in ("", c.version)]
    found = {c.id: c.version for c in sorted(matching, key=lambda c: version_key(c.version))}
    if not found:
        raise RefusedError(f"no component ‘{wanted}’ in the depot", "add it with ‘regraft component add’")
    return found.items()


def _convert(verb: str, fields: Mapping[str, Any]) -> AnyOperation:
    table = {key.replace("-", "_"): value for key, value in fields.items()}
    try:
        # msgspec's stubs type what a class gives, not what a union does.
        return msgspec.convert({"type": verb, **table}, type=AnyOperation)  # type: ignore[no-any-return]
    except msgspec.ValidationError as error:
        raise PatchError(f"recipe verb ‘{verb}’: {error}", "correct the recipe") from error


_CHECKED = ("text", "pattern", "unit", "module", "package", "what")  # what a check looks for


def _checks(recipe: Recipe, items: Sequence[Item], situation: Situation) -> Iterable[Check]:
    for action in recipe.checks:
        for fields in _looped(action, items, situation):
            if "units" in fields:
                names = units_of_image(fields["units"], situation.source)
                yield from (Check(kind=action.verb, text=name) for name in names)
                continue
            text = next((str(fields[key]) for key in _CHECKED if key in fields), "")
            yield Check(kind=action.verb, path=fields.get("path", ""), text=text, release=fields.get("release", ""))
