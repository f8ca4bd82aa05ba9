"""What an operator decides otherwise: read strictly, never a must, and never without effect."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.errors import NoImageError, RefusedError, UsageError
from agent.model.choices import (
    Choices,
    Skip,
    choice_lines,
    chosen_components,
    chosen_selector,
    key_of,
    read_choices,
    unused_components,
    wanted_recipes,
    with_skipped,
    without_skipped,
)
from agent.model.compare import compare
from agent.model.difference import SKIPPED, Difference, Item, Light, Op, Tier, Verdict, light_of
from agent.model.nic_map import NicWishes, map_nics
from agent.model.recipe_match import bind_all
from agent.model.situation import CLONE
from agent.restore.recipe_folder import read_recipes
from tests.model.machines_of_tests import (
    FULL,
    NEW_MAC,
    OLD_MAC,
    THIRD_MAC,
    component,
    metapackage,
    nic,
    situation,
    source,
    target,
)

FILE = """
[skip]
items = ["swap:UUID=1"]
recipes = ["console.serial-kept"]
[nics]
ens3 = "52:54:00:BB:00:02"
[disks]
vda = "serial=N1"
[components]
kernel = "linux-image-x"
"""


def test_a_file_is_read_and_told_line_by_line() -> None:
    choices = read_choices(FILE, "edits.toml")
    assert choices.nics == {"ens3": THIRD_MAC}
    assert choice_lines(choices) == (
        "skip swap:UUID=1",
        "skip recipe console.serial-kept",
        f"network: ens3 becomes card {THIRD_MAC}",
        "disk: vda goes to serial=N1",
        "component: kernel linux-image-x",
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[skips]\n", "skips"),
        ("[skip]\nitem = []\n", "item"),
        ("[skip]\nitems = 'd7'\n", "array"),
        ("[nics]\nens3 = 'eth0; reboot'\n", "no MAC address"),
        ("[nics\n", "line 1"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as told:
        read_choices(text, "edits.toml")
    assert "edits.toml" in str(told.value) and told.value.hint


# --- cards ------------------------------------------------------------------------------------------------------------


def two_cards() -> object:
    return replace(target().network, nics=(nic(NEW_MAC), nic(THIRD_MAC, link="down")))


@pytest.mark.parametrize("old", ["ens3", OLD_MAC])
def test_the_operators_card_goes_before_a_better_one(old: str) -> None:
    machine = target(network=two_cards())
    (found,) = map_nics(source(), machine)
    assert found.target is not None and found.target.mac == NEW_MAC
    (chosen,) = map_nics(source(), machine, NicWishes(((old, THIRD_MAC),)))
    assert chosen.target is not None and chosen.target.mac == THIRD_MAC and chosen.reason == "chosen by the operator"


@pytest.mark.parametrize("wrong", [{"ens9": THIRD_MAC}, {"ens3": "52:54:00:00:00:00"}])
def test_a_card_that_is_not_there_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="expected one of"):
        map_nics(source(), target(network=two_cards()), NicWishes(tuple(wrong.items())))


def test_the_mapping_reaches_the_difference() -> None:
    machine = target(network=two_cards())
    found = compare(situation(target=machine, choices=Choices(nics={"ens3": THIRD_MAC})))
    (mapped,) = (item for item in found.items if item.kind == "nic")
    assert mapped.target == THIRD_MAC and "chosen by the operator" in mapped.reason


# --- disks and components ---------------------------------------------------------------------------------------------


def test_a_disk_is_mapped_and_goes_before_the_selector() -> None:
    assert chosen_selector(Choices(), "only-eligible", ["vda"]) == "only-eligible"
    assert chosen_selector(Choices(disks={"vda": "serial=N1"}), "only-eligible", ["vda"]) == "serial=N1"
    with pytest.raises(UsageError, match="vdb; the image’s disks are vda"):
        chosen_selector(Choices(disks={"vdb": "serial=N1"}), "only-eligible", ["vda"])
    with pytest.raises(RefusedError, match="2 disks of the target"):
        chosen_selector(Choices(disks={"vda": "serial=N1", "vdb": "serial=N2"}), "", ["vda", "vdb"])


def test_a_kernel_and_a_version_are_chosen() -> None:
    one, other = component("linux-image-a"), component("linux-image-b", version="7")
    old, new = component("firmware-x", kind="firmware", version="1"), component("firmware-x", kind="firmware")
    left = chosen_components(Choices(components={"kernel": "linux-image-a", "firmware-x": "1"}), (one, other, old, new))
    assert left == (one, old)
    for wrong in ({"kernel": "linux-image-c"}, {"firmware-y": "1"}, {"firmware-x": "2"}):
        with pytest.raises(NoImageError, match="the depot has"):
            chosen_components(Choices(components=wrong), (one, other, old, new))


def test_the_chosen_kernel_is_the_one_installed() -> None:
    better, chosen = component(f"linux-image-{FULL}", version="6.1.9-9"), component("linux-image-own")
    found = compare(situation(components=(better, chosen)))
    assert next(item.target for item in found.items if item.kind == "kernel") == chosen.id  # of the image
    choices = Choices(components={"kernel": better.id})
    found = compare(situation(components=chosen_components(choices, (better, chosen)), choices=choices))
    assert next(item.target for item in found.items if item.kind == "kernel") == better.id


def test_a_component_that_nobody_needed_is_told() -> None:
    choices = Choices(components={"kernel": "linux-image-a", "firmware-x": "1"})
    assert list(unused_components(choices, ["linux-image-a"])) == [
        "component firmware-x was chosen, and this restore does not need it"
    ]


# --- skipping ---------------------------------------------------------------------------------------------------------


def decided(choices: Choices) -> tuple[Difference, set[str]]:
    """As prepare does it, for a clone with a kernel in the depot."""
    here = situation(
        {"/etc/machine-id": "1\n", "/etc/iscsi/initiatorname.iscsi": "InitiatorName=iqn\n"},
        mode=CLONE, components=(component(f"linux-image-{FULL}"), metapackage()),
    )  # fmt: skip
    found = compare(here)
    bound, handled = bind_all(wanted_recipes(choices, read_recipes()), without_skipped(choices, found), here)
    return with_skipped(choices, found, handled), {recipe.id for recipe in bound}


def test_a_should_is_skipped_and_stands_in_the_difference() -> None:
    before, recipes = decided(Choices())
    item = next(item for item in before.items if item.tier is Tier.SHOULD and not item.handled_by)
    after, same = decided(Choices(skip=Skip(items=(key_of(item),))))
    assert same == recipes
    skipped = next(each for each in after.items if each.id == item.id)
    assert skipped.handled_by == (SKIPPED,) and light_of(skipped) is Light.AMBER
    assert [each.id for each in after.items] == [each.id for each in before.items]


def test_a_should_recipe_is_skipped_and_a_must_recipe_is_not() -> None:
    shipped = read_recipes()
    should = next(recipe for recipe in shipped if recipe.tier == Tier.SHOULD)
    left = wanted_recipes(Choices(skip=Skip(recipes=(should.id,))), shipped)
    assert should not in left and len(left) == len(shipped) - 1
    must = next(recipe for recipe in shipped if recipe.tier == Tier.MUST)
    with pytest.raises(RefusedError, match="is a must"):
        wanted_recipes(Choices(skip=Skip(recipes=(must.id,))), shipped)
    with pytest.raises(UsageError, match="there is not"):
        wanted_recipes(Choices(skip=Skip(recipes=("no.such",))), shipped)


def test_a_must_an_unknown_item_and_one_that_needs_no_recipe_are_refused() -> None:
    must = Item("d1", Op.CHANGE, "machine-id", "/etc/machine-id", Tier.MUST, "a clone has its own")
    block = Item("d2", Op.BLOCK, "cpu", "level", Tier.SHOULD, "too old")
    kept = Item("d3", Op.MAP, "console", "tty0", Tier.SHOULD, "kept", handled_by=("preserved",))
    difference = Difference("a", "b", (must, block, kept))
    for key, error in (("machine-id:/etc/machine-id", RefusedError), ("cpu:level", RefusedError),
                       ("console:tty0", UsageError), ("disk:sda", UsageError)):  # fmt: skip
        with pytest.raises(error):
            without_skipped(Choices(skip=Skip(items=(key,))), difference)


# --- lights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "light"),
    [
        (Item("d", Op.BLOCK, "cpu", "x", Tier.SHOULD, "", handled_by=("layout",)), Light.RED),
        (Item("d", Op.ADD, "device", "x", Tier.MUST, ""), Light.RED),
        (Item("d", Op.ADD, "device", "x", Tier.MUST, "", handled_by=("kernel",)), Light.GREEN),
        (Item("d", Op.ADD, "device", "x", Tier.SHOULD, ""), Light.AMBER),
        (Item("d", Op.ADD, "device", "x", Tier.SHOULD, "", handled_by=(SKIPPED,)), Light.AMBER),
        (Item("d", Op.ADD, "device", "x", Tier.LATER, "", verdict=Verdict.ABSENT), Light.AMBER),
        (Item("d", Op.ADD, "device", "x", Tier.LATER, ""), Light.GREEN),
    ],
)
def test_lights(item: Item, light: Light) -> None:
    assert light_of(item) is light
    assert Difference("a", "b", (item, Item("e", Op.MAP, "nic", "y", Tier.LATER, ""))).light is light
