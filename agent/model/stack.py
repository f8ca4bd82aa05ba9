"""What stands on what: partitions, LUKS, md RAID, LVM. Pure: names of places, and ways through the stack.

    vda:3 ── luks:UUID ── LVM physical volume of debian-vg ── lv:debian-vg/root ── ext4

A place is a word (see `agent.model.profile`): where a file system, or the next storey of the stack, lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from agent.model.storage import Array, FileSystem, LogicalVolume, Luks, PhysicalVolume, Stack, VolumeGroup

MEMBERS = frozenset({"LVM2_member", "crypto_LUKS", "linux_raid_member"})  # as blkid calls them
PLAIN_LAYOUTS = frozenset({"linear", "striped"})
LEVELS = frozenset({"raid0", "raid1", "raid10", "linear"})


def partition_place(disk: str, number: int) -> str:
    return f"{disk}:{number}"


def luks_place(luks: Luks) -> str:
    return f"luks:{luks.uuid}"


def array_place(array: Array) -> str:
    return f"array:{array.uuid}"


def volume_place(group: VolumeGroup, volume: LogicalVolume) -> str:
    return f"lv:{group.name}/{volume.name}"


def mapped_name(group: str, volume: str) -> str:
    """Name of a logical volume below /dev/mapper: hyphens are doubled (lvm2, libdm/libdm-string.c)."""
    return f"{group.replace('-', '--')}-{volume.replace('-', '--')}"


# --- ways -----------------------------------------------------------------------------------------------------------


def luks_on(stack: Stack, place: str) -> Luks | None:
    return next((luks for luks in stack.luks if luks.on == place), None)


def array_on(stack: Stack, place: str) -> Array | None:
    return next((array for array in stack.arrays if place in array.members), None)


def group_on(stack: Stack, place: str) -> tuple[VolumeGroup, PhysicalVolume] | None:
    found = ((group, physical) for group in stack.groups for physical in group.physical if physical.on == place)
    return next(found, None)


def below(stack: Stack, place: str) -> tuple[str, ...]:
    """The places that a place of the stack stands on directly; none for a partition."""
    kind, _, name = place.partition(":")
    if kind == "luks":
        return tuple(luks.on for luks in stack.luks if luks.uuid == name)
    if kind == "array":
        return tuple(member for array in stack.arrays if array.uuid == name for member in array.members)
    if kind == "lv":
        group = name.partition("/")[0]
        return tuple(physical.on for each in stack.groups if each.name == group for physical in each.physical)
    return ()


def all_below(stack: Stack, place: str) -> tuple[str, ...]:
    """Everything that a place stands on, itself first, the partitions last."""
    found = [place]
    for each in found:
        found += [under for under in below(stack, each) if under not in found]
    return tuple(found)


def bases(stack: Stack, place: str) -> tuple[str, ...]:
    """The partitions (or whole disks) at the bottom."""
    return tuple(each for each in all_below(stack, place) if not below(stack, each))


def disks_of(stack: Stack, place: str) -> frozenset[str]:
    return frozenset(base.rpartition(":")[0] for base in bases(stack, place))


def encrypted(stack: Stack, place: str) -> bool:
    return any(each.startswith("luks:") for each in all_below(stack, place))


def storeys(stack: Stack) -> Iterator[tuple[str, FileSystem | None, int]]:
    """Every place above the partitions: (place, what lies there, its size in bytes)."""
    for luks in stack.luks:
        yield luks_place(luks), luks.holds, luks.size_bytes
    for array in stack.arrays:
        yield array_place(array), array.holds, array.size_bytes
    for group in stack.groups:
        for volume in group.logical:
            yield volume_place(group, volume), volume.holds, volume.size_bytes


def held_at(stack: Stack, place: str) -> FileSystem | None:
    return next((held for each, held, _ in storeys(stack) if each == place), None)


def on_disks(stack: Stack, names: Iterable[str]) -> Stack:
    """The part of a stack that stands on these disks, on all or some of them."""
    wanted = frozenset(names)

    def stands(place: str) -> bool:
        return bool(disks_of(stack, place) & wanted)

    return Stack(
        luks=tuple(luks for luks in stack.luks if stands(luks_place(luks))),
        arrays=tuple(array for array in stack.arrays if stands(array_place(array))),
        groups=tuple(group for group in stack.groups if any(stands(physical.on) for physical in group.physical)),
    )


def with_holds(stack: Stack, known: dict[str, FileSystem]) -> Stack:
    """The stack with file systems as ``known`` has them, by place."""
    return Stack(
        luks=tuple(replace(each, holds=known.get(luks_place(each), each.holds)) for each in stack.luks),
        arrays=tuple(replace(each, holds=known.get(array_place(each), each.holds)) for each in stack.arrays),
        groups=tuple(
            replace(
                group,
                logical=tuple(
                    replace(each, holds=known.get(volume_place(group, each), each.holds)) for each in group.logical
                ),
            )
            for group in stack.groups
        ),
    )


def device_names(stack: Stack, place: str) -> tuple[str, ...]:
    """The names below /dev that a system gives to a place of its stack, whatever its hardware."""
    kind, _, name = place.partition(":")
    if kind == "luks":
        mapped = [luks.name for luks in stack.luks if luks.uuid == name and luks.name]
        return tuple(f"/dev/mapper/{each}" for each in mapped)
    if kind == "array":
        return tuple(
            each for array in stack.arrays if array.uuid == name for each in array_names(array.node, array.name)
        )
    if kind == "lv":
        group, _, volume = name.partition("/")
        return (f"/dev/mapper/{mapped_name(group, volume)}", f"/dev/{group}/{volume}")
    return ()


def array_names(node: str, name: str) -> tuple[str, ...]:
    """``/dev/md0``, and the names that udev makes of the superblock's: /dev/md/0, /dev/md/host:0."""
    short = name.rpartition(":")[2]
    names = [f"/dev/{node}"] if node else []
    names += [f"/dev/md/{node.removeprefix('md')}"] if node else []
    names += [f"/dev/md/{each}" for each in dict.fromkeys((short, name)) if each]
    return tuple(dict.fromkeys(names))


def place_named(stack: Stack, device: str) -> str:
    """The place that fstab, or the kernel's command line, calls ``device``: by its path, UUID or label. "": none."""
    tag, equals, value = device.partition("=")
    value = value.strip("\"'").lower()
    for place, held, _ in storeys(stack):
        if device in device_names(stack, place):
            return place
        if equals and held is not None and value:
            found = {"UUID": held.uuid, "LABEL": held.label}.get(tag, "")
            if found.lower() == value:
                return place
        link = device.removeprefix("/dev/disk/by-uuid/")
        if link != device and held is not None and held.uuid.lower() == link.lower():
            return place
    return ""


# --- what is refused ------------------------------------------------------------------------------------------------


def why_not(stack: Stack, place: str) -> str:
    """Why a place cannot be made anew from its description; "" when it can."""
    for each in all_below(stack, place):
        kind, _, name = each.partition(":")
        if kind == "lv":
            group = name.partition("/")[0]
            found = next(each for each in stack.groups if each.name == group)
            odd = [f"{volume.name} ({volume.kind})" for volume in found.logical if volume.kind not in PLAIN_LAYOUTS]
            if odd:
                return (
                    f"volume group {found.name} has {', '.join(odd)}; expected linear and striped logical volumes "
                    "only (no thin pools, snapshots, caches or RAID volumes)"
                )
        if kind == "array":
            array = next(each for each in stack.arrays if each.uuid == name)
            if array.level not in LEVELS:
                return f"array {array.node or name} is {array.level}, expected {', '.join(sorted(LEVELS))}"
        if kind == "luks":
            luks = next(each for each in stack.luks if each.uuid == name)
            if not luks.passphrases:
                return (
                    f"encrypted device {luks.name or name} is opened by {', '.join(luks.tokens) or 'no key slot'} "
                    "only; expected a key slot for a passphrase or a key file beside it"
                )
    return ""


def unsound(stack: Stack, most_bytes: int) -> str:
    """What in a stack, read from a file, no disk could have; "" when it can be worked with."""
    sizes = [size for luks in stack.luks for size in (luks.offset_bytes, luks.size_bytes)]
    sizes += [size for array in stack.arrays for size in (array.offset_bytes, array.size_bytes, array.chunk_bytes)]
    sizes += [
        size for group in stack.groups for each in group.physical for size in (each.size_bytes, each.offset_bytes)
    ]
    sizes += [each.size_bytes for group in stack.groups for each in group.logical]
    if not all(0 <= size < most_bytes for size in sizes):
        return "a size that no device has"
    if not all(0 < group.extent_bytes < most_bytes and group.extents >= 0 for group in stack.groups):
        return "a volume group whose extents have no size"
    places = [place for place, _, _ in storeys(stack)]
    names = [group.name for group in stack.groups]
    if len(set(places)) != len(places) or len(set(names)) != len(names):
        return "two devices of one name"
    if any(place in all_below(stack, under) for place in places for under in below(stack, place)):
        return "a device that stands on itself"
    return ""
