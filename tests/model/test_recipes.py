"""Reading and binding recipes: strictness with the place named, conditions, loops, tiers, conflicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import RefusedError, UsageError
from agent.model.difference import Difference, Item, Op, Tier
from agent.model.profile import Unit
from agent.model.recipe import Move, Replace, Request, Write
from agent.model.recipe_file import load_recipe
from agent.model.recipe_match import bind, bind_all
from agent.model.recipe_set import load_all
from agent.model.recipe_test import run_tests
from tests.model.machines_of_tests import situation, source

GOOD = """
id = "site.scale"
title = "The scale moves"
tier = "should"
phase = "site"
why = "It hangs on another port."
[when]
all = [ { diff = { op = "add", kind = "device" } } ]
[[do]]
write = { path = "/etc/scale", line = "port @to@", each = "diff" }
[[check]]
grep = { path = "/etc/scale", text = "@to@", each = "diff" }
[test]
diff = [ { op = "add", kind = "device", key = "usb:1", to = "ttyUSB0" } ]
expect = { "/etc/scale" = "port ttyUSB0\\n" }
"""


@pytest.mark.adapts("B22", "T1")
def test_caches_of_the_old_disks_are_forgotten() -> None:
    path = Path(__file__).resolve().parents[2] / "recipes/29-storage-caches.toml"
    recipe = load_recipe(path.read_text(), path.name)
    for result in run_tests([recipe]):
        assert result.ok, result.failures
    files = {"/etc/blkid.tab": "<device>/dev/sda1</device>"}
    items = (Item(id="d1", op=Op.MAP, kind="disk", key="sda", tier=Tier.MUST, reason="it is another"),)
    bound, _ = bind_all([recipe], Difference(source="a", target="b", items=items), situation(files))
    assert [each.id for each in bound] == ["storage.caches"]
    bound, _ = bind_all([recipe], Difference(source="a", target="b", items=items), situation())
    assert not bound, "without a cache there is nothing to do"


def test_a_good_recipe_loads_and_its_test_passes() -> None:
    (result,) = run_tests([load_recipe(GOOD, "scale.toml")])
    assert result.ok, result.failures


@pytest.mark.parametrize(
    ("find", "put", "says"),
    [
        ('id = "site.scale"', 'id = "Scale"', r"scale.toml:2: id: found 'Scale'"),
        ('id = "site.scale"', 'id = "site.scale"\nrows = ["b4"]', r"scale.toml:3: rows: found \['b4'\]"),
        ('tier = "should"', 'tier = "maybe"', r"tier: found 'maybe', expected one of must, should, later"),
        ('phase = "site"', 'phase = "late"', r"phase: found 'late'"),
        ('why = "It hangs on another port."', "", r"why: found 'nothing'"),
        ('why = "It', 'colour = "red"\nwhy = "It', r"colour: found 'colour', expected one of id"),
        ("[[do]]\nwrite", "[[do]]\nfrobnicate", r"do\[1\]\.frobnicate"),
        ('line = "port', 'linen = "port', r"do\[1\]\.write\.linen"),
        (', each = "diff" }\n[[check]]', " }\n[[check]]", r"do\[1\]\.write\.line: .*expected each"),
        ('each = "diff" }\n[[check]]', 'each = "all" }\n[[check]]', r"do\[1\]\.write\.each: found 'all'"),
        ('path = "/etc/scale", line', 'path = "etc/scale", line', r"write\.path: .*expected an absolute path"),
        ('path = "/etc/scale", line', 'path = "/etc/../../x", line', r"write\.path"),
        ('op = "add", kind = "device" } } ]\n[[do]]', 'opp = "add" } } ]\n[[do]]', r"when\.all\[1\]\.diff\.opp"),
        ("[[check]]\ngrep", "[[check]]\nfeels", r"check\[1\]\.feels"),
        ("[when]\nall = [ { diff", "[when]\nall = []\nany = []\n[x]\nall = [ { diff", r"x: found 'x'"),
        ("expect =", "expects =", r"scale.toml:15: test\.expects"),
        ("[when]", "[when", r"scale.toml:7: not TOML: .*column"),
        ('path = "/etc/scale", line', 'path = "/etc/scale", lines = [], line', "either line or lines"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_its_place(find: str, put: str, says: str) -> None:
    assert find in GOOD
    with pytest.raises(UsageError, match=says):
        load_recipe(GOOD.replace(find, put, 1), "scale.toml")


def test_a_recipe_needs_a_check_and_a_condition() -> None:
    with pytest.raises(UsageError, match="check: found 'nothing'"):
        load_recipe(GOOD.replace("[[check]]\ngrep = ", "[x]\ngrep = ").replace("[x]", "[test]\n", 1)
                    .replace('[test]\ndiff', 'diff'), "r.toml")  # fmt: skip
    with pytest.raises(UsageError, match="never applies everywhere"):
        load_recipe(GOOD.replace('all = [ { diff = { op = "add", kind = "device" } } ]', "all = []"), "r.toml")


def test_a_test_that_expects_something_else_fails() -> None:
    (result,) = run_tests([load_recipe(GOOD.replace("port ttyUSB0\\n", "port x\\n"), "r.toml")])
    assert result.failures[0].splitlines() == [
        "/etc/scale is not as expected (- expected, + found):", "@@ -1 +1 @@", "-port x", "+port ttyUSB0",
    ]  # fmt: skip
    (result,) = run_tests([load_recipe(GOOD.replace("ttyUSB0\\n", "ttyUSB0"), "r.toml")])
    assert "-port ttyUSB0  (no newline at the end)" in result.failures[0]
    other = GOOD.replace('op = "add", kind = "device", key', 'op = "map", kind = "nic", key')
    (result,) = run_tests([load_recipe(other, "r.toml")])
    assert result.failures == ("does not apply",)
    untested = load_recipe(GOOD[: GOOD.index("[test]")], "r.toml")
    assert not run_tests([untested])[0].ok


def test_older_files_call_the_second_form_of_move_rename() -> None:
    write = 'write = { path = "/etc/scale", line = "port @to@", each = "diff" }'
    keys = 'path = "/etc/*.conf", old = "@key@", new = "@to@", each = "diff"'
    items = (Item(id="d1", op=Op.ADD, kind="device", key="a", target="b", tier=Tier.MUST, reason="x"),)
    for verb in ("move", "rename"):
        recipe = load_recipe(GOOD.replace(write, f"{verb} = {{ {keys} }}"), "r.toml")
        bound = bind(recipe, Difference("a", "b", items), situation())
        assert bound is not None and bound.operations == (Move(path="/etc/*.conf", old="a", new="b"),)
    for fields in ('path = "/a"', 'path = "/a", old = "x"', 'path = "/a", to = "/b", new = "x"'):
        with pytest.raises(UsageError, match="either to or"):
            load_recipe(GOOD.replace(write, f"move = {{ {fields} }}"), "r.toml")


def test_a_site_recipe_replaces_the_shipped_one_of_its_id() -> None:
    (recipe,) = load_all({"a.toml": GOOD}, {"b.toml": GOOD.replace("The scale moves", "Ours")})
    assert (recipe.title, recipe.origin) == ("Ours", "site")
    with pytest.raises(UsageError, match=r"b\.toml: recipe site\.scale is also in a\.toml"):
        load_all({"a.toml": GOOD, "b.toml": GOOD})


SETTER = GOOD.replace('write = { path = "/etc/scale", line = "port @to@", each = "diff" }',
                      'set = { path = "/etc/s", format = "shell", key = "PORT", value = "1" }')  # fmt: skip


@pytest.mark.parametrize(
    "other",
    [
        SETTER,
        SETTER.replace('set = { path = "/etc/s", format = "shell", key = "PORT", value = "1" }', 'truncate = "/etc/s"'),
    ],
)
def test_two_recipes_that_set_one_key_are_refused(other: str) -> None:
    with pytest.raises(
        UsageError, match=r"recipes site\.scale \(a\.toml:10\) and site\.other \(b\.toml:10\) both set /etc/s"
    ):
        load_all({"a.toml": SETTER, "b.toml": other.replace("site.scale", "site.other")})
    apart = other.replace("site.scale", "site.other").replace('phase = "site"', 'phase = "site"\nmode = "clone"')
    assert (
        len(load_all({"a.toml": SETTER.replace('phase = "site"', 'phase = "site"\nmode = "restore"'), "b.toml": apart}))
        == 2
    )
    assert (
        len(load_all({"a.toml": SETTER, "b.toml": SETTER.replace("PORT", "BAUD").replace("site.scale", "site.b")})) == 2
    )


def item(**changes: object) -> Item:
    made = Item(id="d1", op=Op.ADD, kind="device", key="usb:1", tier=Tier.SHOULD, reason="", target="ttyUSB0")
    return replace(made, **changes)  # type: ignore[arg-type]


def difference(*items: Item) -> Difference:
    return Difference("a", "b", tuple(replace(one, id=f"d{n}") for n, one in enumerate(items, 1)))


def test_a_loop_makes_one_operation_an_item_and_equal_ones_once() -> None:
    items = difference(item(), item(target="ttyUSB1"), item(), item(kind="nic"))
    bound = bind(load_recipe(GOOD, "r.toml"), items, situation())
    assert bound is not None
    assert bound.operations == (
        Write(path="/etc/scale", lines=("port ttyUSB0",)),
        Write(path="/etc/scale", lines=("port ttyUSB1",)),
    )
    assert bound.items == ("d1", "d2", "d3")


def test_a_lesser_recipe_does_not_handle_a_must() -> None:
    _, after = bind_all([load_recipe(GOOD, "r.toml")], difference(item(tier=Tier.MUST)), situation())
    assert [one.id for one in after.blockers] == ["d1"]
    must = GOOD.replace('"should"', '"must"')
    _, after = bind_all([load_recipe(must, "r.toml")], difference(item(tier=Tier.MUST)), situation())
    assert after.blockers == () and after.items[0].handled_by == ("site.scale",)


def test_a_condition_may_trigger_without_handling() -> None:
    text = GOOD.replace('kind = "device" } } ]\n[[do]]', 'kind = "device", handles = false } } ]\n[[do]]')
    _, after = bind_all([load_recipe(text, "r.toml")], difference(item()), situation())
    assert after.items[0].handled_by == ()


@pytest.mark.parametrize("value", ['x"; rm -rf /', "a\nb", "$(id)", "`id`", "%n", "a'b", "x\\"])
def test_values_of_a_machine_never_become_more_than_a_word(value: str) -> None:
    with pytest.raises(RefusedError, match="has characters outside"):
        bind(load_recipe(GOOD, "r.toml"), difference(item(target=value)), situation())


def test_values_in_patterns_are_literal() -> None:
    text = GOOD.replace('write = { path = "/etc/scale", line = "port @to@", each = "diff" }',
                        'replace = { path = "/x", pattern = "@to@", text = "", each = "diff" }')  # fmt: skip
    bound = bind(load_recipe(text, "r.toml"), difference(item(target="a.b+c")), situation())
    assert bound is not None and bound.operations == (Replace(path="/x", pattern=r"a\.b\+c", text=""),)


@pytest.mark.parametrize(
    ("when", "applies"),
    [
        ('all = [ { image = { package = "kmod" } } ]', True),
        ('all = [ { image = { package = "open-vm-*" } } ]', False),
        ('any = [ { image = { package = "x" } }, { image = { path = "/etc/fst*" } } ]', True),
        ('all = [ { image = { path = "/etc/nothing" } } ]', False),
        ('all = [ { image = { unit = "ssh.service" } } ]', True),
        ('all = [ { image = { unit = "off.service" } } ]', False),
        ('all = [ { image = { grep = { path = "/etc/fstab", text = "ext4" } } } ]', True),
        ('all = [ { image = { grep = { path = "/etc/fstab", text = "btrfs" } } } ]', False),
        ('all = [ { source = { virt = "kvm", os = "deb*" } }, { target = { firmware = "uefi" } } ]', True),
        ('all = [ { source = { virt = "kvm" } }, { not = { target = { firmware = "uefi" } } } ]', False),
        ('all = [ { component = { kind = "kernel" } } ]', False),
    ],
)
def test_conditions_on_profiles_and_the_image(when: str, applies: bool) -> None:
    text = GOOD.replace('all = [ { diff = { op = "add", kind = "device" } } ]', when)
    text = text.replace('line = "port @to@", each = "diff"', 'line = "x"').replace(
        'text = "@to@", each = "diff"', 'text = "x"'
    )
    units = (Unit("ssh.service", "enabled"), Unit("off.service", "disabled"))
    bound = bind(load_recipe(text, "r.toml"), difference(), situation(source=source(units=units)))
    assert (bound is not None) == applies


def test_a_request_gathers_its_modules() -> None:
    text = GOOD.replace('write = { path = "/etc/scale", line = "port @to@", each = "diff" }',
                        'request = { what = "initramfs", modules = ["@to@"], each = "diff" }')  # fmt: skip
    bound = bind(load_recipe(text, "r.toml"), difference(item(target="b"), item(target="a")), situation())
    assert bound is not None and bound.operations == (Request(what="initramfs", modules=("a", "b")),)
