"""Recipes and differences that are malformed, contradictory or hostile: read, or refused by file, line and key. Nothing
else is ever raised, and nothing outside the restored system is touched."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from agent.errors import PatchError, RefusedError, RegraftError, UsageError
from agent.model.difference import Difference, Item, Op, Tier
from agent.model.profile_xml import dump_difference, load_difference
from agent.model.recipe_file import VERBS, load_recipe
from agent.model.recipe_match import bind
from agent.model.recipe_set import load_all
from agent.model.recipe_test import run_tests
from agent.restore.patch import UNDO, apply_recipe
from agent.restore.recipe_folder import SHIPPED
from agent.restore.sandbox import Sandbox
from tests.model.machines_of_tests import situation
from tests.model.test_recipes import GOOD
from tests.model.test_toml_lines import written

TEXTS = [path.read_text() for path in sorted(SHIPPED.glob("*.toml"))]
ODD = st.one_of(
    st.sampled_from(["", "/", "/../x", "/a/../../b", "a\0b", "$(id)", "-rf", "@to@", "@nothing@", "*" * 50, "(" * 50]),
    st.text(max_size=12),
    st.integers(-(2**80), 2**80),
    st.booleans(),
)
ANYTHING = st.recursive(
    ODD,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["path", "each", "diff", "not", "line", "x", *VERBS]), inner, max_size=3)
    ),
    max_leaves=6,
)


def dumped(table: dict[str, Any]) -> str:
    return "\n".join(f"{written(key, ' ')} = {written(value, ' ')}" for key, value in table.items())


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(*path, key) for key, _ in pairs] + [one for key, below in pairs for one in places(below, (*path, key))]


def read_or_refused(text: str) -> None:
    """It loads and its tests end, or it is refused with its file and line."""
    try:
        recipe = load_recipe(text, "r.toml")
    except UsageError as error:
        assert re.match(r"r\.toml:\d+: ", error.message) or "characters, expected at most" in error.message
        assert len(error.message) < 2000 and error.message.isprintable()
        line = re.match(r"r\.toml:(\d+)", error.message)
        assert line is None or 1 <= int(line[1]) <= text.count("\n") + 1
        return
    for result in run_tests([recipe]):
        assert isinstance(result.ok, bool)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_one_value_of_a_recipe_is_anything(data: st.DataObject) -> None:
    table = tomllib.loads(data.draw(st.sampled_from(TEXTS)))
    path = data.draw(st.sampled_from(places(table)))
    holder: Any = table
    for key in path[:-1]:
        holder = holder[key]
    if data.draw(st.booleans()):
        holder[path[-1]] = data.draw(ANYTHING)
    else:
        del holder[path[-1]]
    read_or_refused(dumped(table))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(TEXTS), st.integers(0), st.integers(0, 40), st.text(max_size=5))
def test_a_recipe_with_a_cut_or_a_splinter_in_it(text: str, at: int, length: int, put: str) -> None:
    place = at % (len(text) + 1)
    read_or_refused(text[:place] + put + text[place + length :])


@pytest.mark.parametrize(
    "text",
    ["x = " + "[" * 5000, "a." * 5000 + "b = 1", "x = " + "9" * 5000, 'x = """' + "a" * (2 << 20), "[" * 100, "\0",
     GOOD.replace("mode", "x") + "x = " + "{a=" * 3000],
)  # fmt: skip
def test_bombs_of_toml_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"r\.toml"):
        load_recipe(text, "r.toml")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('path = "/etc/scale", line', 'path = "/etc/a\\u0000b", line'),
        ('path = "/etc/scale", line', 'path = "/etc/a\\nb", line'),
        ('path = "/etc/scale", line', 'path = "/..", line'),
        ("line = \"port @to@\", each = \"diff\"", 'line = "x", mode = -1'),
        ("line = \"port @to@\", each = \"diff\"", 'line = "x", mode = 99999999999999999999'),
        ("line = \"port @to@\", each = \"diff\"", 'lines = ["x", 1]'),
        ('write = { path = "/etc/scale", line = "port @to@", each = "diff" }', 'disable = "../../x.service"'),
        ('write = { path = "/etc/scale", line = "port @to@", each = "diff" }', 'mask = "-x;y"'),
        ('write = { path = "/etc/scale", line = "port @to@", each = "diff" }', 'remove = "-o=x"'),
        ('write = { path = "/etc/scale", line = "port @to@", each = "diff" }', 'run = { argv = ["sh"], why = "x" }'),
        ('write = { path = "/etc/scale", line = "port @to@", each = "diff" }',
         'replace = { path = "/x", pattern = "(a", text = "" }'),
        ('write = { path = "/etc/scale", line = "port @to@", each = "diff" }',
         'request = { what = "initramfs", modules = ["x; reboot"] }'),
    ],
)  # fmt: skip
def test_values_that_would_do_more_than_they_say_are_refused_at_load(old: str, new: str) -> None:
    assert old in GOOD
    with pytest.raises(UsageError, match=r"scale\.toml:10: do\[1\]"):
        load_recipe(GOOD.replace(old, new, 1), "scale.toml")


def test_recipes_that_contradict_each_other_are_refused_with_both_places() -> None:
    setting = GOOD.replace(
        'write = { path = "/etc/scale", line = "port @to@", each = "diff" }',
        'set = { path = "/etc/scale", format = "shell", key = "PORT", value = "1" }',
    )
    adding = setting.replace('set = { path = "/etc/scale", format = "shell", key = "PORT", value = "1" }',
                             'add-to = { path = "/etc/scale", key = "PORT", word = "2" }')  # fmt: skip
    with pytest.raises(UsageError, match=r"a\.toml:10\) and site\.other \(b\.toml:10\) both set /etc/scale PORT"):
        load_all({"a.toml": setting, "b.toml": adding.replace("site.scale", "site.other")})
    assert len(load_all({"a.toml": adding, "b.toml": adding.replace("site.scale", "site.other")})) == 2
    bios, uefi = (
        one.replace("all = [", f'all = [ {{ target = {{ firmware = "{name}" }} }},')
        for one, name in ((setting, "bios"), (setting.replace("site.scale", "site.other"), "uefi"))
    )
    assert len(load_all({"a.toml": bios, "b.toml": uefi})) == 2


# --- hostile machines ---------------------------------------------------------------------------------------------

MOVER = GOOD.replace(
    'write = { path = "/etc/scale", line = "port @to@", each = "diff" }',
    'write = { path = "@key@", line = "x", each = "diff" }\n[[do]]\nmove-aside = { path = "@key@", each = "diff" }\n'
    '[[do]]\nset = { path = "@key@", format = "shell", key = "A", value = "@to@", each = "diff" }',
).replace('grep = { path = "/etc/scale", text = "@to@", each = "diff" }', 'absent = "/nothing"')


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(["..", "etc", "out", "loop", "a", ".", "", "$(id)", "b c", "deep", "x" * 300]), max_size=6
    ),
    st.text(max_size=8),
)
def test_a_path_from_a_machine_never_leads_out_of_the_restored_system(parts: list[str], value: str) -> None:
    item = Item("d1", Op.ADD, "device", "/" + "/".join(parts), Tier.SHOULD, "", target=value)
    with TemporaryDirectory() as folder:
        outside, root = Path(folder) / "outside", Path(folder) / "root"
        (outside / "etc").mkdir(parents=True)
        (outside / "a").write_text("untouched\n")
        (root / "etc").mkdir(parents=True)
        for name, target in (("out", outside), ("loop", "loop"), ("deep", "../../../../outside"), ("up", "..")):
            (root / name).symlink_to(target)
        try:
            bound = bind(load_recipe(MOVER, "r.toml"), Difference("a", "b", (item,)), situation())
            assert bound is not None
            apply_recipe(root, bound, UNDO, Sandbox(root))
        except (RefusedError, PatchError):
            pass
        assert (outside / "a").read_text() == "untouched\n"
        assert sorted(path.name for path in outside.rglob("*")) == ["a", "etc"]
        assert sorted(path.name for path in Path(folder).iterdir()) == ["outside", "root"]


DIFFERENCE = dump_difference(
    Difference("a@2026-01-01T00:00:00Z", "b@2026-01-01T00:00:00Z", (
        Item("d1", Op.ADD, "device", "pci:1", Tier.MUST, "why", "old", "new", evidence=(("os", "x"),),
             handled_by=("layout",)),
    ))
)  # fmt: skip


def difference_or_refused(xml: bytes) -> None:
    try:
        load_difference(xml)
    except RegraftError as error:
        assert "difference" in error.message and error.message.isprintable() and len(error.message) < 3000


@given(st.integers(0), st.integers(0, 30), st.binary(max_size=6))
def test_a_difference_with_a_cut_or_a_splinter_in_it(at: int, length: int, put: bytes) -> None:
    place = at % (len(DIFFERENCE) + 1)
    difference_or_refused(DIFFERENCE[:place] + put + DIFFERENCE[place + length :])


@given(st.sampled_from(["op", "kind", "key", "tier", "verdict", "id", "source", "x"]), st.text(max_size=20))
def test_a_difference_with_any_value(name: str, value: str) -> None:
    root = etree.fromstring(DIFFERENCE)
    try:
        root[0].set(name, value)
    except ValueError:
        return  # XML has no such character
    difference_or_refused(etree.tostring(root))


@pytest.mark.parametrize(
    "xml",
    [
        b'<!DOCTYPE d [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><difference>&b;</difference>',
        b'<!DOCTYPE d SYSTEM "file:///etc/passwd"><difference/>',
        b"<difference/>",
        b"",
        b"\x00\xff" * 100,
        b"<a>" * 10_000,
        DIFFERENCE.replace(b'id="d1"', b'id="d1" more="1"'),
        DIFFERENCE.replace(b'tier="must"', b'tier="maybe"'),
        DIFFERENCE + b" " * (70 << 20),
    ],
)  # fmt: skip
def test_bombs_and_other_documents_are_refused(xml: bytes) -> None:
    with pytest.raises(RegraftError):
        load_difference(xml)
    difference_or_refused(xml)
