"""Who gets the space of a larger disk."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import UsageError
from agent.model.grow import parse_grow
from agent.model.layout import Layout, fit
from agent.model.profile import Firmware
from tests.model.test_layout import GIB, MIB, check, gpt_image, gpt_source, mbr_image, profile, target
from tests.model.test_layout_of_blocks import image as image_of
from tests.model.test_layout_of_blocks import windows


def grown(policy: str, disk_bytes: int = 20 * GIB, *, firmware: Firmware = Firmware.BIOS) -> Layout:
    disk = target(disk_bytes)
    layout = fit(gpt_image(), profile(), firmware, disk, grow=parse_grow(policy))
    check(layout, disk)
    return layout


def added(layout: Layout) -> dict[int, int]:
    """MiB that each partition got, by its number; root is 2, /srv is 3, swap is 4."""
    source = {part.number: part.size_bytes for part in gpt_source().partitions}
    return {p.number: (p.size_bytes - source[p.number]) // MIB for p in layout.partitions if p.number in source}


def test_the_largest_is_the_default() -> None:
    assert grown("") == grown("largest")
    more = added(grown(""))
    assert more[2] > 10_000 and more[1] == more[3] == more[4] == 0


def test_the_last_that_can_grow_is_not_the_swap_behind_it() -> None:
    more = added(grown("last"))
    assert more[3] > 10_000 and more[1] == more[2] == more[4] == 0


def test_in_proportion_every_file_system_gets_its_share() -> None:
    more = added(grown("proportional"))
    assert more[1] == more[4] == 0
    assert more[2] == pytest.approx(2 * more[3], abs=2), "6 GiB and 3 GiB"
    assert more[2] + more[3] == added(grown("largest"))[2]


@pytest.mark.parametrize(("name", "number"), [("/srv", 3), ("srv", 3), ("/", 2), ("root", 2)])
def test_a_volume_is_named_by_its_place_or_its_id(name: str, number: int) -> None:
    more = added(grown(name))
    assert more[number] > 10_000 and sum(more.values()) == more[number]


def test_none_leaves_the_space_free() -> None:
    assert set(added(grown("none")).values()) == {0}


@pytest.mark.parametrize("size", [9 * GIB, 10 * GIB, 20 * GIB])
def test_a_name_that_nothing_has_is_refused_on_any_disk(size: int) -> None:
    with pytest.raises(UsageError, match=r"‘/var’ is no volume of the image; those that can: /, /srv"):
        grown("/var", size)
    with pytest.raises(UsageError, match=r"‘swap’ cannot grow"):
        grown("swap", size)


def test_words_that_are_none() -> None:
    with pytest.raises(UsageError, match="not understood"):
        parse_grow("a\nb")


def test_on_a_smaller_disk_no_policy_matters() -> None:
    assert added(grown("last", 8 * GIB)) == added(grown("largest", 8 * GIB))


def test_blocks_that_cannot_grow_move_behind_what_does() -> None:
    image = image_of(windows())
    disk = target(image.disks[0].size_bytes + 4 * GIB)
    layouts = {p: fit(image, profile(kernel=False), Firmware.UEFI, disk, grow=parse_grow(p)) for p in ("none", "last")}
    sizes = [part.size_bytes for part in image.disks[0].partitions]
    assert [part.size_bytes for part in layouts["none"].partitions] == sizes
    grew = [p.size_bytes - size for p, size in zip(layouts["last"].partitions, sizes, strict=True)]
    assert sorted(grew)[-1] == 4 * GIB and sum(grew) == 4 * GIB
    for before, after in pairwise(layouts["last"].partitions):
        assert before.start_bytes + before.size_bytes <= after.start_bytes


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["largest", "last", "proportional", "none", "/srv"]),
    st.integers(4, 64),
    st.sampled_from([512, 4096]),
)
def test_whatever_the_policy_the_layout_is_one(policy: str, gib: int, sector: int) -> None:
    disk = target(gib * GIB, sector)
    check(fit(gpt_image(), profile(), Firmware.UEFI, disk, grow=parse_grow(policy)), disk)


def test_an_mbr_grows_as_well() -> None:
    image = mbr_image(logical=True)
    disk = target(20 * GIB)
    layout = fit(image, profile(), Firmware.BIOS, disk, grow=parse_grow("/home"))
    check(layout, disk)
    home = next(part for part in layout.partitions if part.purpose == "home")
    assert layout.table == "mbr" and home.size_bytes > 10 * GIB
