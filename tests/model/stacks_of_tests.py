"""Machines whose file systems lie on LVM, LUKS and md RAID, for tests of their layout."""

from __future__ import annotations

from dataclasses import replace

from agent.model.grow import parse_grow
from agent.model.image import Manifest, ObjectRef, ProfileRef, Volume
from agent.model.layout import Layout, fit
from agent.model.partition_types import ESP, LINUX
from agent.model.plan import MakeArray, MakeLuks, MakeVolumeGroup, PlannedGroup
from agent.model.profile import Firmware, Kernel, OperatingSystem, Profile
from agent.model.stack import storeys
from agent.model.stack_layout import PLAIN, RAID_TYPES
from agent.model.storage import (
    Array,
    Disk,
    FileSystem,
    LogicalVolume,
    Luks,
    Partition,
    PhysicalVolume,
    Stack,
    TableKind,
    VolumeGroup,
)

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
