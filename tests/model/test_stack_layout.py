"""Stacks on other disks: LVM, LUKS and md RAID, and their nestings; what fits, what grows, what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest

from agent.errors import DoesNotFitError, RefusedError, UsageError
from agent.model.boot_room import boot_volume_apart, is_short
from agent.model.clashes import same_names
from agent.model.disk_layouts import layouts_of
from agent.model.grow import parse_grow
from agent.model.image import FORMAT, STACK_FORMAT, Manifest, ObjectRef, ProfileRef, Subvolume, Volume, format_of
from agent.model.layout import Layout, fit
from agent.model.lvm_metadata import metadata, segments
from agent.model.partition_types import ESP, LINUX
from agent.model.plan import FIRST_STACKED, MakeArray, MakeLuks, MakeVolumeGroup, PlannedGroup, StackStep
from agent.model.profile import (
    Array,
    Disk,
    FileSystem,
    Firmware,
    Kernel,
    LogicalVolume,
    Luks,
    OperatingSystem,
    Partition,
    PhysicalVolume,
    Profile,
    Stack,
    TableKind,
    VolumeGroup,
)
from agent.model.references import Planned
from agent.model.spread import NO_WISH, Wish, spread
from agent.model.stack import (
    all_below,
    bases,
    device_names,
    disks_of,
    mapped_name,
    on_disks,
    place_named,
    storeys,
    unsound,
)
from agent.model.stack_layout import KEEP, LVM_TYPES, PLAIN, RAID_TYPES, boot_modules

MIB, GIB = 1 << 20, 1 << 30
EXTENT = 4 * MIB
LUKS_UUID = "0c1f6a52-52d5-44c1-8d5e-4d4a6cb0a2a1"
ARRAY_UUID = "a3ba06fe:5cfe7bf4:e2581feb:df9a4a6a"
ROOT, HOME = "lv:debian-vg/root", "lv:debian-vg/home"


def lvm_uuid(number: int) -> str:
    return f"{number:06d}-AAAA-BBBB-CCCC-DDDD-EEEE-FFFFFF"


def guid(number: int) -> str:
    return f"11111111-2222-4333-8444-{number:012x}"


def ext4(number: int, size: int, mountpoint: str, used: int = 0) -> FileSystem:
    return FileSystem(
        "ext4", guid(100 + number), size_bytes=size, block_bytes=4096, inodes=size // 16384, mountpoint=mountpoint,
        features=("has_journal", "extent"), used_bytes=used,
    )  # fmt: skip


def disk(name: str = "vda", size: int = 20 * GIB, kind: str = LINUX, first: int = 0) -> Disk:
    """ESP, /boot, and the rest for the stack: Debian's installer."""
    parts, at = [], MIB
    for number, mib, type_ in ((1, 512, ESP), (2, 488, LINUX), (3, size // MIB - 1002, kind)):
        held = ext4(2, mib * MIB, "/boot") if number == 2 else None
        parts.append(Partition(number, at, mib * MIB, type_, guid(first + number), "", (), held))
        at += mib * MIB
    return Disk(name, size, 512, 512, role="boot" if name == "vda" else "", table=TableKind.GPT, table_id=guid(first),
                partitions=tuple(parts))  # fmt: skip


def group(on: str, size: int, *more: PhysicalVolume) -> VolumeGroup:
    """root 8 GiB, swap 1 GiB, home the rest but 1 GiB, which is free."""
    extents = (size - MIB) // EXTENT + sum((each.size_bytes - MIB) // EXTENT for each in more)
    home = extents * EXTENT - 10 * GIB
    return VolumeGroup(
        "debian-vg", lvm_uuid(1), EXTENT, extents,
        (PhysicalVolume(lvm_uuid(2), on, size, MIB), *more),
        (
            LogicalVolume("root", lvm_uuid(3), 8 * GIB, "linear", ext4(11, 8 * GIB, "/")),
            LogicalVolume("swap_1", lvm_uuid(4), GIB, "linear", FileSystem("swap", guid(12), size_bytes=GIB)),
            LogicalVolume("home", lvm_uuid(5), home, "linear", ext4(13, home, "/home")),
        ),
    )  # fmt: skip


def luks(size: int) -> Luks:
    return Luks(LUKS_UUID, "vda:3", 2, "", "vda3_crypt", "aes-xts-plain64", 64, 512, 16 * MIB, size - 16 * MIB,
                "argon2id", 1, ())  # fmt: skip


def array(*members: str, level: str = "raid1", size: int = 19 * GIB, holds: FileSystem | None = None) -> Array:
    return Array(ARRAY_UUID, members, level, "debian:0", "md0", 2, "1.2", 0, "", 16 * MIB, True, size, holds)


def image(stack: Stack, *volumes: tuple[str, str, int], disks: tuple[Disk, ...] = (disk(),)) -> Manifest:
    """``volumes``: (mount point, place, used bytes); /boot is on a partition."""
    held = {place: (fs, size) for place, fs, size in _storeys(stack)}
    made = [Volume("boot", "tree", ext4(2, 488 * MIB, "/boot", 60 * MIB), ObjectRef("0", 0), 300, MIB, (), "vda", 2)]
    for mountpoint, place, used in volumes:
        fs, size = held[place]
        known = replace(fs or ext4(40, size, mountpoint), mountpoint=mountpoint, used_bytes=used)
        name = mountpoint.strip("/") or "root"
        made.append(Volume(name, "tree", known, ObjectRef("0", 0), 1000, used, (), device=place))
    return Manifest(1, "m", "20260101T000000Z", "", "m", ProfileRef("", "ab", ""), disks, tuple(made), (), stack=stack)


def _storeys(stack: Stack) -> list[tuple[str, FileSystem | None, int]]:
    return list(storeys(stack))


def profile(*, kernel: bool = True) -> Profile:
    made = Profile("m", "", os=OperatingSystem(kernels=(Kernel("6.1"),) if kernel else ()))
    return replace(made, platform=replace(made.platform, firmware=Firmware.UEFI))


def laid(manifest: Manifest, size: int, arrays: str = PLAIN, grow: str = "", boot_free_bytes: int = 0) -> Layout:
    target = Disk("nvme0n1", size, 512, 512, serial="T1")
    return fit(
        manifest, profile(), Firmware.UEFI, target, headroom_bytes=512 * MIB, arrays=arrays, grow=parse_grow(grow),
        boot_free_bytes=boot_free_bytes,
    )  # fmt: skip


def on_luks() -> Manifest:
    size = disk().partitions[2].size_bytes
    vg = group(f"luks:{LUKS_UUID}", size - 16 * MIB)
    return image(Stack((luks(size),), (), (vg,)), ("/", ROOT, 2 * GIB), ("/home", HOME, GIB))


def on_lvm() -> Manifest:
    size = disk().partitions[2].size_bytes
    return image(Stack(groups=(group("vda:3", size),)), ("/", ROOT, 2 * GIB), ("/home", HOME, GIB))


def on_raid(*, lvm: bool) -> Manifest:
    first, second = disk(kind=RAID_TYPES[0]), disk("vdb", kind=RAID_TYPES[0], first=50)
    size = first.partitions[2].size_bytes - 16 * MIB
    made = array("vda:3", "vdb:3", size=size, holds=None if lvm else ext4(11, size, "/"))
    stack = Stack((), (made,), (group(f"array:{ARRAY_UUID}", size),) if lvm else ())
    volumes = (("/", ROOT, 2 * GIB), ("/home", HOME, GIB)) if lvm else (("/", f"array:{ARRAY_UUID}", 2 * GIB),)
    return image(stack, *volumes, disks=(first, second))


def the_group(layout: Layout) -> PlannedGroup:
    (found,) = (step.group for step in layout.stack if isinstance(step, MakeVolumeGroup))
    return found


def sizes(layout: Layout) -> dict[str, int]:
    return {volume.name: volume.extents * EXTENT for volume in the_group(layout).logical}


def holds_together(layout: Layout) -> None:
    """Every storey lies within the one below it, and everything has a place of its own."""
    room = {part.number: part.size_bytes for part in layout.partitions}
    for step in layout.stack:
        match step:
            case MakeLuks(place=place, on=on, luks=planned):
                room[place] = room[on] - planned.offset_bytes
            case MakeArray(place=place, on=ons, array=planned):
                room[place] = min(room[on] for on in ons) - planned.offset_bytes
            case MakeVolumeGroup(group=planned):
                assert all(p.offset_bytes + p.extents * planned.extent_bytes <= room[p.on] for p in planned.physical)
                used = sum(volume.extents for volume in planned.logical)
                assert used <= sum(p.extents for p in planned.physical)
                room |= {volume.place: volume.extents * planned.extent_bytes for volume in planned.logical}
    assert set(layout.filesystems) <= set(room)
    assert len(set(layout.volumes.values())) == len(layout.volumes)


# --- words of places ------------------------------------------------------------------------------------------------


def test_every_place_leads_down_to_its_partitions() -> None:
    stack = on_luks().stack
    assert all_below(stack, ROOT) == (ROOT, f"luks:{LUKS_UUID}", "vda:3")
    assert bases(on_raid(lvm=True).stack, ROOT) == ("vda:3", "vdb:3")
    assert disks_of(on_raid(lvm=True).stack, ROOT) == {"vda", "vdb"}
    assert on_disks(stack, ["vdb"]) == Stack()
    assert on_disks(stack, ["vda"]) == stack


def test_names_below_dev_are_those_that_udev_makes() -> None:
    stack = on_luks().stack
    assert mapped_name("debian-vg", "swap_1") == "debian--vg-swap_1"
    assert device_names(stack, ROOT) == ("/dev/mapper/debian--vg-root", "/dev/debian-vg/root")
    assert device_names(stack, f"luks:{LUKS_UUID}") == ("/dev/mapper/vda3_crypt",)
    assert "/dev/md/0" in device_names(on_raid(lvm=False).stack, f"array:{ARRAY_UUID}")
    assert place_named(stack, "/dev/mapper/debian--vg-home") == HOME
    assert place_named(stack, f"UUID={guid(0x6F).upper()}") == ROOT
    assert place_named(stack, "/dev/mapper/other") == ""


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [on_lvm, on_luks, lambda: on_raid(lvm=True), lambda: on_raid(lvm=False)])
@pytest.mark.parametrize("size", [9 * GIB, 20 * GIB, 20 * GIB + MIB, 100 * GIB])
@pytest.mark.parametrize("arrays", ["plain", "keep"])
def test_every_storey_lies_within_the_one_below(make: Callable[[], Manifest], size: int, arrays: str) -> None:
    holds_together(laid(make(), size, arrays=arrays))


def test_on_a_disk_of_the_same_size_nothing_changes() -> None:
    source = on_luks()
    layout = laid(source, 20 * GIB)
    (vg,) = source.stack.groups
    assert sizes(layout) == {volume.name: volume.size_bytes for volume in vg.logical}
    assert [(p.number, p.start_bytes, p.part_uuid) for p in layout.partitions] == [
        (p.number, p.start_bytes, p.part_uuid) for p in source.disks[0].partitions
    ]


def test_a_larger_disk_grows_the_largest_volume_and_keeps_what_was_free_in_the_group_free() -> None:
    before, after = sizes(laid(on_lvm(), 20 * GIB)), sizes(laid(on_lvm(), 50 * GIB))
    grown = after["home"] - before["home"]
    assert abs(grown - 30 * GIB) <= 2 * EXTENT
    assert {name: after[name] for name in ("root", "swap_1")} == {name: before[name] for name in ("root", "swap_1")}
    planned = the_group(laid(on_lvm(), 50 * GIB))
    free = sum(p.extents for p in planned.physical) - sum(volume.extents for volume in planned.logical)
    assert free * EXTENT == pytest.approx(GIB, abs=2 * EXTENT)


def test_a_smaller_disk_shrinks_every_storey_down_to_what_is_held() -> None:
    layout = laid(on_luks(), 8 * GIB)
    assert sizes(layout)["root"] >= 2 * GIB + 512 * MIB
    assert sizes(layout)["home"] >= GIB
    with pytest.raises(DoesNotFitError, match=r"LUKS vda3_crypt: needs"):
        laid(on_luks(), 4 * GIB)


def test_identities_of_every_storey_are_kept() -> None:
    layout = laid(on_luks(), 9 * GIB)
    (made,) = (step for step in layout.stack if isinstance(step, MakeLuks))
    planned = the_group(layout)
    assert (made.luks.uuid, made.luks.name, made.luks.cipher, made.luks.key_bytes) == (
        LUKS_UUID, "vda3_crypt", "aes-xts-plain64", 64,
    )  # fmt: skip
    assert (made.on, planned.physical[0].on) == (3, made.place)
    assert [planned.uuid, planned.physical[0].uuid] == [lvm_uuid(1), lvm_uuid(2)]
    assert [volume.uuid for volume in planned.logical] == [lvm_uuid(3), lvm_uuid(4), lvm_uuid(5)]
    assert layout.filesystems[layout.volumes["root"]].uuid == guid(0x6F)
    assert min(layout.volumes["root"], layout.volumes["home"]) >= FIRST_STACKED
    assert [fs.uuid for fs in layout.filesystems.values() if fs.kind == "swap"] == [guid(12)]


# --- several disks onto one -----------------------------------------------------------------------------------------


@pytest.mark.adapts("B9", "T1")
def test_a_mirror_becomes_what_lies_on_it_or_is_made_with_a_member_missing() -> None:
    plain, kept = laid(on_raid(lvm=False), 20 * GIB), laid(on_raid(lvm=False), 20 * GIB, arrays=KEEP)
    assert plain.stack == ()
    assert plain.volumes["root"] == 3
    assert plain.partitions[2].type == LINUX
    assert any("plainly on one partition" in note for note in plain.notes)
    (made,) = kept.stack
    assert isinstance(made, MakeArray)
    assert (made.on, made.array.uuid, made.array.name, made.array.devices) == ((3,), ARRAY_UUID, "debian:0", 2)
    assert kept.volumes["root"] == made.place
    assert kept.partitions[2].type == RAID_TYPES[0]
    assert laid(on_raid(lvm=True), 20 * GIB).partitions[2].type == LVM_TYPES["gpt"]


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


def test_striped_arrays_are_never_made_with_members_missing() -> None:
    source = on_raid(lvm=False)
    (made,) = source.stack.arrays
    source = replace(source, stack=replace(source.stack, arrays=(replace(made, level="raid0"),)))
    assert laid(source, 20 * GIB, arrays=KEEP).stack == ()


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["thin,sparse", "thin,pool", "cache", "raid,raid1", "snapshot"])
def test_volumes_that_cannot_be_made_are_named(kind: str) -> None:
    source = on_lvm()
    (vg,) = source.stack.groups
    odd = replace(vg, logical=(*vg.logical[:2], replace(vg.logical[2], kind=kind)))
    with pytest.raises(RefusedError, match=rf"home \({kind}\); expected linear and striped"):
        laid(replace(source, stack=Stack(groups=(odd,))), 20 * GIB)


@pytest.mark.adapts("B10", "T1")
def test_a_device_that_only_a_chip_opens_is_refused_and_one_with_a_passphrase_is_told_of() -> None:
    source = on_luks()
    (sealed,) = source.stack.luks
    sealed = replace(sealed, tokens=("systemd-tpm2",))
    layout = laid(replace(source, stack=replace(source.stack, luks=(sealed,))), 20 * GIB)
    assert any("systemd-tpm2" in note and "enrol it again" in note for note in layout.notes)
    alone = replace(sealed, passphrases=0)
    with pytest.raises(RefusedError, match="opened by systemd-tpm2 only"):
        laid(replace(source, stack=replace(source.stack, luks=(alone,))), 20 * GIB)


@pytest.mark.adapts("B11", "T1")
def test_an_encrypted_boot_is_refused_where_there_is_something_to_boot() -> None:
    source = on_luks()
    without = replace(source, volumes=tuple(v for v in source.volumes if v.id != "boot"))
    with pytest.raises(RefusedError, match="/boot lies in volume root, which is encrypted"):
        laid(without, 20 * GIB)


def test_an_array_that_cannot_be_read_back_is_refused() -> None:
    source = on_raid(lvm=False)
    (made,) = source.stack.arrays
    source = replace(source, stack=replace(source.stack, arrays=(replace(made, level="raid5"),)))
    with pytest.raises(RefusedError, match="md0 is raid5, expected"):
        laid(source, 20 * GIB)


# --- what files name ------------------------------------------------------------------------------------------------


@pytest.mark.adapts("B18", "T1")
@pytest.mark.adapts("B11", "T1")
def test_what_fstab_and_crypttab_name_is_planned() -> None:
    layout = laid(on_luks(), 20 * GIB)
    planned = Planned(layout.partitions, layout.filesystems, (), (), layout.stack)
    for device in ("/dev/mapper/debian--vg-root", "/dev/debian-vg/swap_1", f"UUID={LUKS_UUID}", f"UUID={guid(0x71)}",
                   "/dev/mapper/vda3_crypt"):  # fmt: skip
        assert planned.has(device), device
    assert not planned.has("/dev/mapper/other-root")


def test_the_initramfs_must_hold_what_the_root_stands_on() -> None:
    def modules(source: Manifest, arrays: str = PLAIN) -> tuple[str, ...]:
        return boot_modules(source, laid(source, 20 * GIB, arrays).stack)

    assert modules(on_luks()) == ("dm_mod", "dm_crypt")
    assert modules(on_lvm()) == ("dm_mod",)
    assert modules(on_raid(lvm=False)) == ()
    assert modules(on_raid(lvm=True), arrays=KEEP) == ("md_mod", "raid1", "dm_mod")


# --- LVM's own text ---------------------------------------------------------------------------------------------------


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


# --- together with what else a layout knows --------------------------------------------------------------------------


def on_btrfs() -> Manifest:
    """LUKS, and on it one btrfs with two subvolumes, as Fedora and openSUSE install it."""
    size = disk().partitions[2].size_bytes
    held = FileSystem("btrfs", guid(77), size_bytes=size - 16 * MIB, block_bytes=4096, mountpoint="/")
    source = image(Stack((replace(luks(size), holds=held),), (), ()), ("/", f"luks:{LUKS_UUID}", 2 * GIB))
    root = replace(source.volumes[1], subvolume="/root", subvolumes=(Subvolume("/root"),))
    home = replace(
        root, id="home", filesystem=replace(root.filesystem, mountpoint="/home", options="subvol=home,compress=zstd:1"),
        subvolume="/home", subvolumes=(Subvolume("/home"),),
    )  # fmt: skip
    return replace(source, volumes=(source.volumes[0], home, root))


def test_subvolumes_of_a_btrfs_on_a_stack_lie_in_one_file_system() -> None:
    layout = laid(on_btrfs(), 30 * GIB)
    place = layout.volumes["root"]
    assert place == layout.volumes["home"] == FIRST_STACKED
    made = layout.filesystems[place]
    assert [(each.path, each.mountpoint, each.options) for each in made.subvolumes] == [
        ("/home", "/home", "compress=zstd:1"), ("/root", "/", ""),
    ]  # fmt: skip
    twice = replace(on_btrfs(), volumes=tuple(replace(each, subvolume="") for each in on_btrfs().volumes))
    with pytest.raises(RefusedError, match=f"home and root share luks:{LUKS_UUID}"):
        laid(twice, 30 * GIB)


def test_a_subvolume_needs_what_all_of_them_hold() -> None:
    source = on_btrfs()
    with pytest.raises(DoesNotFitError):
        laid(replace(source, volumes=tuple(replace(v, content_bytes=3 * GIB) for v in source.volumes)), 6 * GIB)
    laid(replace(source, volumes=tuple(replace(v, content_bytes=GIB) for v in source.volumes)), 6 * GIB)


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


def over_two_disks() -> Manifest:
    """A volume group with a physical volume on each of two disks."""
    first, second = disk(size=12 * GIB), disk("vdb", 12 * GIB, first=50)
    size = first.partitions[2].size_bytes
    vg = group("vda:3", size, PhysicalVolume(lvm_uuid(9), "vdb:3", size, MIB))
    return image(Stack(groups=(vg,)), ("/", ROOT, GIB), ("/home", HOME, GIB), disks=(first, second))


def test_a_stack_goes_to_one_disk() -> None:
    disks = (Disk("nvme0n1", 30 * GIB, 512, 512, serial="T1"), Disk("nvme1n1", 30 * GIB, 512, 512, serial="T2"))
    told = r"the image has LUKS vda3_crypt, volume group debian-vg, and 2 disks .*\(nvme0n1, nvme1n1\)"
    with pytest.raises(RefusedError, match=told):
        spread(on_luks(), disks, Wish(also=("serial=T2",)))
    with pytest.raises(RefusedError, match="carries LVM, LUKS or md RAID and would go to nvme1n1"):
        spread(over_two_disks(), disks, Wish(also=("serial=T2",), arrays=KEEP))
    ((_, layout),) = layouts_of(spread(on_luks(), disks[:1], NO_WISH), profile(), Firmware.UEFI, NO_WISH)
    assert layout.stack


def test_the_wish_says_what_becomes_of_arrays() -> None:
    disks = (Disk("nvme0n1", 30 * GIB, 512, 512, serial="T1"),)

    def kinds(wish: Wish) -> list[type]:
        source = on_raid(lvm=True)
        ((_, layout),) = layouts_of(spread(source, disks, wish), profile(), Firmware.UEFI, wish)
        return [type(step) for step in layout.stack]

    assert kinds(NO_WISH) == [MakeVolumeGroup]
    assert kinds(Wish(arrays=KEEP)) == [MakeArray, MakeVolumeGroup]


def test_readers_that_know_no_stack_refuse_the_image() -> None:
    for source in (on_luks(), on_btrfs(), on_raid(lvm=False)):
        assert format_of(source.volumes, source.stack) == STACK_FORMAT
    assert format_of(on_luks().volumes[:1]) == FORMAT


def test_the_old_disk_beside_the_new_one_is_told_of() -> None:
    old = disk("sdb")
    member = FileSystem("crypto_LUKS", LUKS_UUID)
    old = replace(old, partitions=(*old.partitions[:2], replace(old.partitions[2], holds=member, part_uuid=guid(999))))
    (said,) = same_names([("", laid(on_luks(), 30 * GIB))], [old], {"nvme0n1"})
    assert f"LUKS {LUKS_UUID}" in said
    mirror = FileSystem("linux_raid_member", "a3ba06fe-5cfe-7bf4-e258-1febdf9a4a6a")
    old = replace(old, partitions=(replace(old.partitions[2], holds=mirror),))
    (said,) = same_names([("", laid(on_raid(lvm=True), 30 * GIB, KEEP))], [old], {"nvme0n1"})
    assert f"raid1 {mirror.uuid}" in said


def test_a_stack_that_no_disk_could_have_is_not_worked_with() -> None:
    stack = on_luks().stack
    (vg,), (one,) = stack.groups, stack.luks
    most = 1 << 60
    assert unsound(stack, most) == unsound(on_raid(lvm=True).stack, most) == unsound(Stack(), most) == ""
    assert "extents" in unsound(replace(stack, groups=(replace(vg, extent_bytes=0),)), most)
    assert "a size" in unsound(replace(stack, luks=(replace(one, size_bytes=-1),)), most)
    assert "two devices" in unsound(replace(stack, luks=(one, one)), most)
    assert "two devices" in unsound(replace(stack, groups=(vg, replace(vg, logical=()))), most)
    assert "on itself" in unsound(replace(stack, luks=(replace(one, on=ROOT),)), most)
