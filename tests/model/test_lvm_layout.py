"""LVM on other disks: groups folded, grown and refused; what LVM's own text says."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest

from agent.errors import RefusedError, UsageError
from agent.model.boot_room import boot_volume_apart, is_short
from agent.model.lvm_metadata import metadata, segments
from agent.model.plan import MakeVolumeGroup, PlannedGroup, StackStep
from agent.model.storage import FileSystem, LogicalVolume, PhysicalVolume, Stack
from tests.model.stacks_of_tests import (
    EXTENT,
    GIB,
    HOME,
    MIB,
    ROOT,
    disk,
    ext4,
    group,
    guid,
    holds_together,
    image,
    laid,
    lvm_uuid,
    on_luks,
    on_lvm,
    sizes,
    the_group,
)


def test_a_larger_disk_grows_the_largest_volume_and_keeps_what_was_free_in_the_group_free() -> None:
    before, after = sizes(laid(on_lvm(), 20 * GIB)), sizes(laid(on_lvm(), 50 * GIB))
    grown = after["home"] - before["home"]
    assert abs(grown - 30 * GIB) <= 2 * EXTENT
    assert {name: after[name] for name in ("root", "swap_1")} == {name: before[name] for name in ("root", "swap_1")}
    planned = the_group(laid(on_lvm(), 50 * GIB))
    free = sum(p.extents for p in planned.physical) - sum(volume.extents for volume in planned.logical)
    assert free * EXTENT == pytest.approx(GIB, abs=2 * EXTENT)


def test_a_group_of_two_disks_is_folded_onto_one() -> None:
    first, second = disk(size=12 * GIB), disk("vdb", 12 * GIB, first=50)
    size = first.partitions[2].size_bytes
    vg = group("vda:3", size, PhysicalVolume(lvm_uuid(9), "vdb:3", size, MIB))
    layout = laid(image(Stack(groups=(vg,)), ("/", ROOT, GIB), ("/home", HOME, GIB), disks=(first, second)), 16 * GIB)
    holds_together(layout)
    assert [physical.uuid for physical in the_group(layout).physical] == [lvm_uuid(2)]
    assert len(layout.partitions) == 3
    assert any("had 2 physical volumes" in note for note in layout.notes)


def test_a_group_of_another_disk_alone_brings_its_partition_along() -> None:
    first, second = disk(size=4 * GIB), disk("vdb", 20 * GIB, first=50)
    vg = group("vdb:3", second.partitions[2].size_bytes)
    layout = laid(image(Stack(groups=(vg,)), ("/", ROOT, GIB), ("/home", HOME, GIB), disks=(first, second)), 30 * GIB)
    holds_together(layout)
    (physical,) = the_group(layout).physical
    moved = next(part for part in layout.partitions if part.number == physical.on)
    assert moved.part_uuid == guid(53)


@pytest.mark.parametrize("kind", ["thin,sparse", "thin,pool", "cache", "raid,raid1", "snapshot"])
def test_volumes_that_cannot_be_made_are_named(kind: str) -> None:
    source = on_lvm()
    (vg,) = source.stack.groups
    odd = replace(vg, logical=(*vg.logical[:2], replace(vg.logical[2], kind=kind)))
    with pytest.raises(RefusedError, match=rf"home \({kind}\); expected linear and striped"):
        laid(replace(source, stack=Stack(groups=(odd,))), 20 * GIB)


def test_volumes_lie_one_after_the_other_over_all_physical_volumes() -> None:
    planned = the_group(laid(on_lvm(), 20 * GIB))
    (only,) = planned.physical
    half = replace_extents(planned, (only.extents // 2, only.extents - only.extents // 2))
    pieces = segments(half)
    assert sum(count for piece in pieces.values() for _, _, count in piece) == sum(v.extents for v in half.logical)
    taken = sorted((number, first, count) for piece in pieces.values() for number, first, count in piece)
    for (number, first, count), after in pairwise(taken):
        assert after[0] > number or after[1] >= first + count
    assert all(first + count <= half.physical[number].extents for number, first, count in taken)
    text = metadata(half)
    assert re.search(r"home \{\n(?:.*\n)*?segment_count = 2\n", text)
    assert text.count("{") == text.count("}")


def replace_extents(planned: PlannedGroup, extents: tuple[int, ...]) -> PlannedGroup:
    (only,) = planned.physical
    made = tuple(
        msgspec.structs.replace(only, extents=count, uuid=lvm_uuid(70 + index)) for index, count in enumerate(extents)
    )
    return msgspec.structs.replace(planned, physical=made)


@pytest.mark.parametrize("name", ["a b", "..", "-x", "x{", 'x"', "snapshot1", "x_mimage", "", "x\n"])
def test_names_that_lvm_does_not_know_never_become_its_words(name: str) -> None:
    source = on_lvm()
    (vg,) = source.stack.groups
    bad = replace(vg, logical=(*vg.logical[:1], replace(vg.logical[1], name=name)))
    source = replace(source, stack=Stack(groups=(bad,)), volumes=source.volumes[:2])
    steps: tuple[StackStep, ...] = laid(source, 20 * GIB).stack
    (step,) = (each for each in steps if isinstance(each, MakeVolumeGroup))
    with pytest.raises(RefusedError, match="is no name or UUID that LVM allows"):
        metadata(step.group)


def test_the_policy_of_growing_decides_inside_of_a_group_too() -> None:
    before = sizes(laid(on_luks(), 20 * GIB))
    more = 10 * GIB
    assert sizes(laid(on_luks(), 30 * GIB)) == {**before, "home": before["home"] + more}
    assert sizes(laid(on_luks(), 30 * GIB, grow="/")) == {**before, "root": before["root"] + more}
    assert sizes(laid(on_luks(), 30 * GIB, grow="root")) == {**before, "root": before["root"] + more}
    assert sizes(laid(on_luks(), 30 * GIB, grow="last")) == {**before, "home": before["home"] + more}
    assert sizes(laid(on_luks(), 30 * GIB, grow="none")) == before
    shared = sizes(laid(on_luks(), 30 * GIB, grow="proportional"))
    assert shared["swap_1"] == before["swap_1"]
    assert sum(shared.values()) == sum(before.values()) + more
    whole = before["root"] + before["home"]
    assert abs(shared["root"] - before["root"] - more * before["root"] // whole) <= 2 * EXTENT
    boot = laid(on_luks(), 30 * GIB, grow="/boot")
    assert sizes(boot) == before
    assert {p.number: p.size_bytes for p in boot.partitions}[2] == 488 * MIB + more
    with pytest.raises(UsageError, match="is no volume of the image; those that can: /, /boot, /home"):
        laid(on_luks(), 30 * GIB, grow="/srv")


@pytest.mark.parametrize("size", [20 * GIB, 30 * GIB, 14 * GIB])
def test_a_boot_that_is_a_logical_volume_gets_room_for_a_larger_initramfs(size: int) -> None:
    source = on_lvm()
    (vg,) = source.stack.groups
    small = LogicalVolume("boot", lvm_uuid(6), 100 * MIB, "linear", ext4(14, 100 * MIB, "/boot"))
    source = replace(source, stack=Stack(groups=(replace(vg, logical=(*vg.logical, small)),)))
    at = "lv:debian-vg/boot"
    volume = replace(
        source.volumes[0], disk="", partition=0, device=at,
        filesystem=replace(ext4(14, 100 * MIB, "/boot"), used_bytes=60 * MIB), content_bytes=60 * MIB,
    )  # fmt: skip
    source = replace(source, volumes=(volume, *source.volumes[1:]))
    assert boot_volume_apart(source) == volume
    plain = laid(source, size)
    assert is_short(volume, [plain], 150 * MIB)
    layout = laid(source, size, boot_free_bytes=150 * MIB)
    assert not is_short(volume, [layout], 150 * MIB)
    holds_together(layout)
    assert sizes(layout)["boot"] >= 210 * MIB
    if size == 20 * GIB:
        assert {**sizes(layout), "boot": 0} == {**sizes(plain), "boot": 0}, "what was free in the group served"


def test_an_xfs_smaller_than_mkfs_makes_today_takes_more_extents() -> None:
    size = disk().partitions[2].size_bytes
    made = group("vda:3", size)
    log = FileSystem("xfs", guid(40), size_bytes=128 * MIB, mountpoint="/var/log")
    added = LogicalVolume("log", lvm_uuid(40), 128 * MIB, "linear", log)
    made = replace(made, logical=(*made.logical, added))
    volumes = (("/", ROOT, 2 * GIB), ("/home", HOME, GIB), ("/var/log", "lv:debian-vg/log", 20 * MIB))
    for room in (20 * GIB, 12 * GIB, 40 * GIB):
        layout = laid(image(Stack(groups=(made,)), *volumes), room)
        holds_together(layout)
        assert sizes(layout)["log"] >= 300 * MIB
