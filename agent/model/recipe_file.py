"""Recipes from TOML. Strict: an unknown key, a missing check or a placeholder that nothing fills is refused with
its place, so that a recipe that loads means what it says. Format of record: docs/recipes.md.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agent.errors import UsageError
from agent.model.recipe import PHASES

ID = re.compile(r"[a-z0-9][a-z0-9-]*(\.[a-z0-9][a-z0-9-]*)+")
ROW = re.compile(r"[A-Z]\d{1,2}")
PLACEHOLDER = re.compile(r"@(from|to|key|name)@")
EACH = re.compile(r"|(diff|add|remove|change|map)(:[a-z0-9-]+)?")
TIERS = ("must", "should", "later")
DIFF_KEYS = ("op", "kind", "key", "tier", "verdict", "from", "to")
PROFILE_KEYS = (
    "architecture", "codename", "cpu-vendor", "firmware", "initrd-tool", "loader", "os", "package-format", "product",
    "vendor", "version", "virt",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verb:
    """The keys of a verb's or check's table: name → type; ``alone`` is the key that a bare string stands for."""

    required: Mapping[str, type]
    optional: Mapping[str, type] = field(default_factory=dict)
    alone: str = ""


VERBS: Mapping[str, Verb] = {
    "write": Verb({"path": str}, {"line": str, "lines": list, "whole": bool, "mode": int}),
    "set": Verb({"path": str, "format": str, "key": str, "value": str}, {"section": str}),
    "drop-from": Verb({"path": str, "key": str, "word": str}),
    "add-to": Verb({"path": str, "key": str, "word": str}),
    "mounts": Verb({"action": str, "device": str}, {"path": str, "mountpoint": str, "value": str}),
    "replace": Verb({"path": str, "pattern": str, "text": str}),
    "move-aside": Verb({"path": str}, {"keep": bool}, alone="path"),
    "rename": Verb({"path": str, "old": str, "new": str}),
    "truncate": Verb({"path": str}, alone="path"),
    "install": Verb({"component": str}, alone="component"),
    "remove": Verb({"package": str}, {"on-failure": str}, alone="package"),
    "enable": Verb({"unit": str}, {"target": str}, alone="unit"),
    "disable": Verb({"unit": str}, alone="unit"),
    "mask": Verb({"unit": str}, alone="unit"),
    "request": Verb({"what": str}, {"modules": list}, alone="what"),
    "run": Verb({"argv": list, "why": str}),
}
CHECKS: Mapping[str, Verb] = {
    "grep": Verb({"path": str, "text": str}),
    "no-grep": Verb({"path": str, "text": str}),
    "exists": Verb({"path": str}, alone="path"),
    "absent": Verb({"path": str}, alone="path"),
    "empty": Verb({"path": str}, alone="path"),
    "unit-on": Verb({"unit": str}, alone="unit"),
    "unit-off": Verb({"unit": str}, alone="unit"),
    "initrd-has": Verb({"module": str}, {"release": str}, alone="module"),
    "kernel-installed": Verb({"release": str}, alone="release"),
    "package-installed": Verb({"package": str}, alone="package"),
    "package-absent": Verb({"package": str}, alone="package"),
    "requested": Verb({"what": str}, alone="what"),
}
ALLOWED: Mapping[str, tuple[str, ...]] = {  # words that a key may say
    "what": ("initramfs", "bootloader", "relabel"),
    "action": ("set-device", "add-options", "comment-out", "add"),
    "on-failure": ("stop", "warn"),
    "format": ("ini", "keyfile", "shell"),
}


@dataclass(frozen=True, slots=True)
class Action:
    """One verb or check as written. ``each``: "" once, else over "diff", "diff:KIND" or "OP:KIND"."""

    verb: str
    fields: Mapping[str, Any]
    each: str = ""


@dataclass(frozen=True, slots=True)
class Condition:
    """``kind``: diff, source, target, image, component, not (with ``inner``)."""

    kind: str
    fields: Mapping[str, str]
    inner: Condition | None = None
    handles: bool = True  # of diff: matching items count as handled by the recipe


@dataclass(frozen=True, slots=True)
class Golden:
    """A recipe's own test: a fake machine, and what must come out."""

    name: str
    tree: Mapping[str, str] = field(default_factory=dict)
    diff: tuple[Mapping[str, str], ...] = ()
    source: Mapping[str, str] = field(default_factory=dict)
    target: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    mode: str = "restore"
    applies: bool = True
    expect: Mapping[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    does: tuple[str, ...] = ()  # what is not done to files, one line each: "install X", "request initramfs a b"


@dataclass(frozen=True, slots=True)
class Recipe:
    id: str
    title: str
    tier: str
    phase: str
    why: str
    file: str
    os: str = "*"
    mode: str = ""  # restore, clone; "" for both
    origin: str = "shipped"
    rows: tuple[str, ...] = ()  # of docs/adaptation.md, which is made from them
    all: tuple[Condition, ...] = ()
    any: tuple[Condition, ...] = ()
    actions: tuple[Action, ...] = ()
    checks: tuple[Action, ...] = ()
    tests: tuple[Golden, ...] = ()


def load_recipe(text: str, name: str) -> Recipe:
    """Read one recipe; ``name`` is its file, for messages and for the order inside a phase."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{name}: not TOML: {error}", "correct the line named") from error
    place = _Place(name)
    place.keys(table, required=("id", "title", "tier", "phase", "why", "when", "do", "check"),
               optional=("os", "mode", "rows", "test"))  # fmt: skip
    head = {
        key: place.text(table, key) for key in ("id", "title", "tier", "phase", "why", "os", "mode") if key in table
    }
    if not ID.fullmatch(head["id"]):
        raise place.error("id", head["id"], "subject.purpose in lower case, e.g. net.keep-names")
    place.one_of("tier", head["tier"], TIERS)
    place.one_of("phase", head["phase"], PHASES)
    place.one_of("mode", head.get("mode", ""), ("", "restore", "clone"))
    rows = table.get("rows", [])
    if not isinstance(rows, list) or not all(isinstance(row, str) and ROW.fullmatch(row) for row in rows):
        raise place.error("rows", rows, "a list of rows of docs/adaptation.md, such as B4")
    every, some = _when(table["when"], place / "when")
    return Recipe(
        **head,
        file=name,
        rows=tuple(rows),
        all=every,
        any=some,
        actions=_actions(table["do"], VERBS, place / "do"),
        checks=_actions(table["check"], CHECKS, place / "check"),
        tests=_tests(table.get("test", []), place / "test"),
    )


def load_all(files: Mapping[str, str], site: Mapping[str, str] | None = None) -> tuple[Recipe, ...]:
    """All recipes in phase and file order; a site's recipe replaces the shipped one of the same id.

    ``files`` and ``site``: file name → text. Two recipes that set the same key of the same file are refused.
    """
    chosen: dict[str, Recipe] = {}
    for origin, group in (("shipped", files), ("site", site or {})):
        seen: dict[str, str] = {}
        for name in sorted(group):
            recipe = replace(load_recipe(group[name], name), origin=origin)
            if recipe.id in seen:
                raise UsageError(f"{name}: recipe {recipe.id} is also in {seen[recipe.id]}", "give one another id")
            seen[recipe.id] = name
            chosen[recipe.id] = recipe
    order = {phase: number for number, phase in enumerate(PHASES)}
    recipes = tuple(sorted(chosen.values(), key=lambda r: (order[r.phase], r.file)))  # type: ignore[index]
    _refuse_conflicts(recipes)
    return recipes


class _Place:
    """Where in a file we are; makes every refusal name it."""

    def __init__(self, file: str, path: str = "") -> None:
        self.file, self.path = file, path

    def __truediv__(self, key: str) -> _Place:
        return _Place(self.file, f"{self.path}.{key}" if self.path else key)

    def at(self, number: int) -> _Place:
        return _Place(self.file, f"{self.path}[{number + 1}]")

    def error(self, key: str, found: object, expected: str) -> UsageError:
        where = f"{self.path}.{key}" if self.path and key else self.path or key
        return UsageError(f"{self.file}: {where}: found {found!r}, expected {expected}", "see docs/recipes.md")

    def keys(self, table: Any, *, required: Iterable[str] = (), optional: Iterable[str] = ()) -> None:
        if not isinstance(table, dict):
            raise self.error("", table, "a table")
        required = tuple(required)
        known = (*required, *optional)
        for key in table:
            if key not in known:
                raise self.error(key, key, f"one of {', '.join(known)}")
        for key in required:
            if key not in table:
                raise self.error(key, "nothing", "this key")

    def text(self, table: Mapping[str, Any], key: str) -> str:
        value = table[key]
        if not isinstance(value, str) or not value:
            raise self.error(key, value, "a text")
        return value

    def one_of(self, key: str, found: str, allowed: Iterable[str]) -> None:
        if found not in tuple(allowed):
            raise self.error(key, found, f"one of {', '.join(allowed)}")


def _when(table: Any, place: _Place) -> tuple[tuple[Condition, ...], tuple[Condition, ...]]:
    place.keys(table, optional=("all", "any"))
    if not table.get("all") and not table.get("any"):
        raise place.error("", table, "conditions in all or any: a recipe never applies everywhere")
    groups = []
    for key in ("all", "any"):
        group = table.get(key, [])
        if not isinstance(group, list):
            raise place.error(key, group, "a list of conditions")
        groups.append(tuple(_condition(one, (place / key).at(n)) for n, one in enumerate(group)))
    return groups[0], groups[1]


def _condition(table: Any, place: _Place) -> Condition:
    known: dict[str, tuple[str, ...]] = {
        "diff": (*DIFF_KEYS, "handles"),
        "source": PROFILE_KEYS,
        "target": PROFILE_KEYS,
        "image": ("package", "path", "unit", "grep"),
        "component": ("kind", "id"),
        "not": ("diff", "source", "target", "image", "component"),
    }
    place.keys(table, optional=known)
    if len(table) != 1:
        raise place.error("", sorted(table), f"exactly one of {', '.join(known)}")
    ((kind, fields),) = table.items()
    if kind == "not":
        return Condition("not", {}, _condition(fields, place / "not"))
    below = place / kind
    below.keys(fields, optional=known[kind])
    if not fields:
        raise below.error("", fields, f"at least one of {', '.join(known[kind])}")
    handles = fields.get("handles", True)
    if not isinstance(handles, bool):
        raise below.error("handles", handles, "true or false")
    texts = {key: value for key, value in fields.items() if key != "handles"}
    if "grep" in texts:
        (below / "grep").keys(texts["grep"], required=("path", "text"))
        texts = {"grep-path": texts["grep"]["path"], "grep-text": texts["grep"]["text"]}
    return Condition(kind, {key: below.text(texts, key) for key in texts}, None, handles)


def _actions(tables: Any, known: Mapping[str, Verb], place: _Place) -> tuple[Action, ...]:
    if not isinstance(tables, list) or not tables:
        raise place.error("", tables, "at least one")
    return tuple(_action(table, known, place.at(number)) for number, table in enumerate(tables))


def _action(table: Any, known: Mapping[str, Verb], place: _Place) -> Action:
    place.keys(table, optional=known)
    if len(table) != 1:
        raise place.error("", sorted(table), f"exactly one of {', '.join(known)}")
    ((name, fields),) = table.items()
    verb, below = known[name], place / name
    if isinstance(fields, str) and verb.alone:
        fields = {verb.alone: fields}
    below.keys(fields, required=verb.required, optional=(*verb.optional, "each"))
    each = fields.get("each", "")
    if not EACH.fullmatch(each if isinstance(each, str) else "?"):
        raise below.error("each", each, '"diff", "diff:KIND" or "OP:KIND"')
    types = {**verb.required, **verb.optional}
    for key, value in fields.items():
        if key == "each":
            continue
        _typed(key, value, types[key], below)
        for text in value if isinstance(value, list) else [value]:
            filled = PLACEHOLDER.findall(text) if isinstance(text, str) else []
            if not each and set(filled) - {"name"}:
                raise below.error(key, text, 'each = "diff", which fills the placeholder')
    _restrictions(name, fields, below)
    return Action(name, {key: value for key, value in fields.items() if key != "each"}, each)


def _typed(key: str, value: Any, wanted: type, place: _Place) -> None:
    kind = type(value)
    if kind is not wanted:
        raise place.error(key, value, f"a {wanted.__name__}")
    if wanted is list and not all(isinstance(one, str) for one in value):
        raise place.error(key, value, "a list of texts")
    if key in ALLOWED:
        place.one_of(key, value, ALLOWED[key])
    if key == "path" and (not value.startswith(("/", "@key@")) or "/../" in f"{value}/"):
        raise place.error(key, value, "an absolute path inside the restored system")
    if key == "pattern":
        try:
            re.compile(PLACEHOLDER.sub("x", value))
        except re.error as error:
            raise place.error(key, value, f"a regular expression ({error})") from error


def _restrictions(name: str, fields: Mapping[str, Any], place: _Place) -> None:
    if name == "write" and ("line" in fields) == ("lines" in fields):
        raise place.error("", sorted(fields), "either line or lines")
    if name == "run" and (not fields["argv"] or not fields["argv"][0].startswith("/")):
        raise place.error("argv", fields["argv"], "a program by its absolute path, then its words")


def _tests(tables: Any, place: _Place) -> tuple[Golden, ...]:
    tables = [tables] if isinstance(tables, dict) else tables
    if not isinstance(tables, list):
        raise place.error("", tables, "a table, or several as [[test]]")
    return tuple(_golden(table, place.at(number), number) for number, table in enumerate(tables))


def _golden(table: Any, place: _Place, number: int) -> Golden:
    place.keys(table, optional=("name", "tree", "diff", "source", "target", "packages", "mode", "applies", "expect",
                                "absent", "does"))  # fmt: skip
    for item in table.get("diff", []):
        (place / "diff").keys(item, required=("op", "kind", "key"), optional=DIFF_KEYS)
    for key in ("source", "target"):
        (place / key).keys(table.get(key, {}), optional=PROFILE_KEYS)
    return Golden(
        name=table.get("name", f"test {number + 1}"),
        tree=table.get("tree", {}),
        diff=tuple(table.get("diff", [])),
        source=table.get("source", {}),
        target=table.get("target", {}),
        packages=tuple(table.get("packages", [])),
        mode=table.get("mode", "restore"),
        applies=table.get("applies", True),
        expect=table.get("expect", {}),
        absent=tuple(table.get("absent", [])),
        does=tuple(table.get("does", [])),
    )


def _writes(recipe: Recipe) -> Iterable[tuple[str, str]]:
    """(file, key) of everything a recipe sets; "*" is the whole file."""
    for action in recipe.actions:
        path = str(action.fields.get("path", ""))
        if action.verb == "set":
            yield path, f"{action.fields.get('section', '')}/{action.fields['key']}"
        elif action.verb == "truncate" or (action.verb == "write" and action.fields.get("whole")):
            yield path, "*"


def _refuse_conflicts(recipes: Sequence[Recipe]) -> None:
    writers: dict[tuple[str, str], Recipe] = {}
    for recipe in recipes:
        for path, key in set(_writes(recipe)):
            for (other_path, other_key), other in writers.items():
                same = path == other_path and (key == other_key or "*" in (key, other_key))
                apart = (recipe.mode and other.mode and recipe.mode != other.mode) or (
                    recipe.os != other.os and "*" not in (recipe.os, other.os)
                )
                if same and not apart and other.id != recipe.id:
                    what = f"{path} {key}" if key != "*" else path
                    raise UsageError(
                        f"recipes {other.id} ({other.file}) and {recipe.id} ({recipe.file}) both set {what}",
                        "let one of them do it",
                    )
            writers[path, key] = recipe
