"""Recipes from TOML. Strict: an unknown key, a missing check or a placeholder that nothing fills is refused with
its place, so that a recipe that loads means what it says. Format of record: docs/recipes.md.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.errors import UsageError
from agent.model.difference import Op, Verdict
from agent.model.recipe import PHASES
from agent.model.recipe_place import Place
from agent.model.toml_lines import toml_lines

ID = re.compile(r"[a-z0-9][a-z0-9-]*(\.[a-z0-9][a-z0-9-]*)+")
ROW = re.compile(r"[A-Z]\d{1,2}")
PLACEHOLDER = re.compile(r"@(from|to|key|name)@")
EACH = re.compile(r"|(diff|add|remove|change|map)(:[a-z0-9-]+)?")
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}\.toml")
LIMIT_CHARACTERS = 1 << 20
LIMIT_PATH_CHARACTERS = 1000
TIERS = ("must", "should", "later")
OPS = tuple(op.value for op in Op)
VERDICTS = tuple(verdict.value for verdict in Verdict)
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
    "network": Verb({"action": str, "path": str, "name": str}, {"value": str}),
    "move": Verb({"path": str}, {"to": str, "old": str, "new": str}),
    "replace": Verb({"path": str, "pattern": str, "text": str}, {"before-lines": bool}),
    "move-aside": Verb({"path": str}, {"keep": bool}, alone="path"),
    "rename": Verb({"path": str, "old": str, "new": str}),  # what older files call the second form of move
    "truncate": Verb({"path": str}, alone="path"),
    "install": Verb({"component": str}, alone="component"),
    "remove": Verb({}, {"package": str, "packages": list, "on-failure": str}, alone="package"),
    "enable": Verb({"unit": str}, {"target": str}, alone="unit"),
    "disable": Verb({}, {"unit": str, "units": list}, alone="unit"),
    "mask": Verb({}, {"unit": str, "units": list}, alone="unit"),
    "cmdline": Verb({}, {"add": str, "drop": str}),
    "request": Verb({"what": str}, {"modules": list}, alone="what"),
    "run": Verb({"argv": list, "why": str}, {"on-failure": str}),
}
CHECKS: Mapping[str, Verb] = {
    "grep": Verb({"path": str, "text": str}),
    "no-grep": Verb({"path": str, "text": str}),
    "no-match": Verb({"path": str, "pattern": str}),
    "exists": Verb({"path": str}, alone="path"),
    "absent": Verb({"path": str}, alone="path"),
    "empty": Verb({"path": str}, alone="path"),
    "unit-on": Verb({"unit": str}, alone="unit"),
    "unit-off": Verb({}, {"unit": str, "units": list}, alone="unit"),
    "initrd-has": Verb({"module": str}, {"release": str}, alone="module"),
    "kernel-installed": Verb({"release": str}, alone="release"),
    "package-installed": Verb({"package": str}, alone="package"),
    "package-absent": Verb({"package": str}, alone="package"),
    "requested": Verb({"what": str}, alone="what"),
}
NETWORK_ACTIONS = ("rebind", "rename", "not-awaited")
CHOICES = (  # of these verbs and checks, either the one key or the other
    (("disable", "mask", "unit-off"), "unit", "units"),
    (("remove",), "package", "packages"),
    (("cmdline",), "add", "drop"),
    (("move",), "to", "old"),
    (("move",), "to", "new"),
)
# Words that become arguments of programs or names of links: never an option, never a path. Globs are allowed.
_WORD = re.compile(r"[A-Za-z0-9*?\[_][A-Za-z0-9*?\[\]!@:._+~-]*")
WORDS: Mapping[str, re.Pattern[str]] = {
    "unit": re.compile(r"[A-Za-z0-9*?\[_][A-Za-z0-9*?\[\]!@:._\\-]*"),
    "target": re.compile(r"[A-Za-z0-9_][A-Za-z0-9@:._\\-]*"),
    "package": _WORD,
    "component": _WORD,
    "module": _WORD,
    "modules": _WORD,
}
ALLOWED: Mapping[str, tuple[str, ...]] = {  # words that a key may say
    "what": ("initramfs", "bootloader", "relabel"),
    "on-failure": ("stop", "warn"),
    "format": ("ini", "keyfile", "shell"),
}


@dataclass(frozen=True, slots=True)
class Action:
    """One verb or check as written. ``each``: "" once, else over "diff", "diff:KIND" or "OP:KIND"."""

    verb: str
    fields: Mapping[str, Any]
    each: str = ""
    line: int = 0  # of the recipe's file


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
    units: tuple[str, ...] = ()
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
    origin: str = "shipped"  # shipped, depot (its bundle), site (a folder that was named)
    replaces: str = ""  # the origin of the recipe whose id this one took over
    rows: tuple[str, ...] = ()  # of docs/adaptation.md, which is made from them
    all: tuple[Condition, ...] = ()
    any: tuple[Condition, ...] = ()
    actions: tuple[Action, ...] = ()
    checks: tuple[Action, ...] = ()
    tests: tuple[Golden, ...] = ()


def load_recipe(text: str, name: str) -> Recipe:
    """Read one recipe; ``name`` is its file, for messages and for the order inside a phase."""
    table = _table(text, name)
    place = Place(name, toml_lines(text))
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


def _table(text: str, name: str) -> dict[str, Any]:
    if len(text) > LIMIT_CHARACTERS:
        raise UsageError(f"{name}: {len(text):,} characters, expected at most {LIMIT_CHARACTERS:,}", "split it")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        found = re.search(r" \(at line (\d+), column (\d+)\)", str(error))
        said = str(error).replace(found[0], f", column {found[2]}") if found else str(error)
        line = int(found[1]) if found else text.count("\n") + 1
        raise UsageError(f"{name}:{line}: not TOML: {said}", "correct the line named") from error


def _when(table: Any, place: Place) -> tuple[tuple[Condition, ...], tuple[Condition, ...]]:
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


def _condition(table: Any, place: Place) -> Condition:
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


def _actions(tables: Any, known: Mapping[str, Verb], place: Place) -> tuple[Action, ...]:
    if not isinstance(tables, list) or not tables:
        raise place.error("", tables, "at least one")
    return tuple(_action(table, known, place.at(number)) for number, table in enumerate(tables))


def _action(table: Any, known: Mapping[str, Verb], place: Place) -> Action:
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
    return Action(name, {key: value for key, value in fields.items() if key != "each"}, each, below.line)


def _typed(key: str, value: Any, wanted: type, place: Place) -> None:
    kind = type(value)
    if kind is not wanted:
        raise place.error(key, value, f"a {wanted.__name__}")
    if wanted is list and not all(isinstance(one, str) for one in value):
        raise place.error(key, value, "a list of texts")
    if key in ALLOWED:
        place.one_of(key, value, ALLOWED[key])
    if key in ("path", "to") and not _is_path(value):
        raise place.error(key, value, "an absolute path inside the restored system")
    if key == "mode" and not 0 <= value <= 0o7777:
        raise place.error(key, value, "a file mode from 0 to 0o7777")
    if key in WORDS:
        for word in value if isinstance(value, list) else [value]:
            if not WORDS[key].fullmatch(PLACEHOLDER.sub("x", word)):
                raise place.error(key, word, f"a word of the form {WORDS[key].pattern}")
    if key == "pattern":
        try:
            re.compile(PLACEHOLDER.sub("x", value))
        except re.error as error:
            raise place.error(key, value, f"a regular expression ({error})") from error


def _is_path(path: str) -> bool:
    rooted = path.startswith(("/", "@key@", "@to@"))
    return rooted and path.isprintable() and ".." not in path.split("/") and len(path) < LIMIT_PATH_CHARACTERS


def _restrictions(name: str, fields: Mapping[str, Any], place: Place) -> None:
    if name == "write" and ("line" in fields) == ("lines" in fields):
        raise place.error("", sorted(fields), "either line or lines")
    actions = {"mounts": ("set-device", "add-options", "comment-out", "add"), "network": NETWORK_ACTIONS}
    if name in actions:
        place.one_of("action", fields["action"], actions[name])
    if name == "network" and (fields["action"] == "not-awaited") == ("value" in fields):
        raise place.error("value", fields.get("value"), "the new value for rebind and rename, and none for not-awaited")
    for name_of, one, several in CHOICES:
        if name in name_of and (one in fields) == (several in fields):
            raise place.error("", sorted(fields), f"either {one} or {several}")
    if name == "run" and (not fields["argv"] or not fields["argv"][0].startswith(("/", "@from@"))):
        raise place.error("argv", fields["argv"], "a program by its absolute path, then its words")


def _tests(tables: Any, place: Place) -> tuple[Golden, ...]:
    if isinstance(tables, dict):
        return (_golden(tables, place, 0),)
    if not isinstance(tables, list):
        raise place.error("", tables, "a table, or several as [[test]]")
    return tuple(_golden(table, place.at(number), number) for number, table in enumerate(tables))


def _golden(table: Any, place: Place, number: int) -> Golden:
    place.keys(table, optional=("name", "tree", "diff", "source", "target", "packages", "units", "mode", "applies",
                                "expect", "absent", "does"))  # fmt: skip
    for key in ("source", "target"):
        (place / key).keys(table.get(key, {}), optional=PROFILE_KEYS)
    place.one_of("mode", table.get("mode", "restore"), ("restore", "clone"))
    if not isinstance(table.get("applies", True), bool):
        raise place.error("applies", table["applies"], "true or false")
    return Golden(
        name=place.text(table, "name") if "name" in table else f"test {number + 1}",
        tree=place.table_of_texts(table, "tree"),
        diff=_golden_items(table.get("diff", []), place / "diff"),
        source=place.table_of_texts(table, "source"),
        target=place.table_of_texts(table, "target"),
        packages=place.texts(table, "packages"),
        units=place.texts(table, "units"),
        mode=table.get("mode", "restore"),
        applies=table.get("applies", True),
        expect=place.table_of_texts(table, "expect"),
        absent=place.texts(table, "absent"),
        does=place.texts(table, "does"),
    )


def _golden_items(items: Any, place: Place) -> tuple[Mapping[str, str], ...]:
    if not isinstance(items, list):
        raise place.error("", items, "a list of items")
    for number, item in enumerate(items):
        below = place.at(number)
        below.keys(item, required=("op", "kind", "key"), optional=DIFF_KEYS)
        for key in item:
            below.text(item, key)
        for key, allowed in (("op", OPS), ("tier", TIERS), ("verdict", VERDICTS)):
            below.one_of(key, item.get(key, allowed[0]), allowed)
    return tuple(items)
