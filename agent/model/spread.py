"""Which disk of the target receives which disk of the image, and which single volumes go elsewhere. Pure.

    the disk that boots ─► the first disk that was named
    every other disk    ─► where the operator maps it; else the named disk that is most like it in size; else along
                           with the one that boots
    single volumes      ─► where the operator maps them

Two disks that would do as well as each other are a tie: the order in which they were named decides, that is said, and
an unattended run stops.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agent.errors import RefusedError, UsageError
from agent.model.grow import Grow
from agent.model.image import Manifest, Volume
from agent.model.mirror import Member, members_on, refuse_divided_stack
from agent.model.stack_layout import KEEP, PLAIN
from agent.model.storage import NO_STACK, Disk
from agent.model.target_disk import select_disk
from agent.model.wanted import holding_disks, main_disk
from agent.model.wording import printable, size_text


@dataclass(frozen=True, slots=True)
class Wish:
    """What the operator says of the layout."""

    grow: Grow = field(default_factory=Grow)
    also: tuple[str, ...] = ()  # selectors of further disks to write
    maps: tuple[tuple[str, str], ...] = ()  # (disk or volume of the image, selector of a disk to write)
    arrays: str = PLAIN  # md RAID: plain or keep, as in agent.model.stack_layout


NO_WISH = Wish()


@dataclass(frozen=True, slots=True)
class Share:
    """A disk of the target, and the part of the image that it receives."""

    disk: Disk
    manifest: Manifest
    members: tuple[Member, ...] = ()  # of arrays that stand on the disk that boots, too


@dataclass(frozen=True, slots=True)
class Spread:
    shares: tuple[Share, ...]  # the first is the one that boots
    receives: Mapping[str, Disk]  # disk of the image → disk of the target
    notes: tuple[str, ...] = ()
    ties: tuple[str, ...] = ()  # what only the order of words decided


def parse_map(text: str) -> tuple[str, str]:
    """``vdb=serial=S2`` or ``/srv=serial=S2``."""
    name, equals, selector = text.partition("=")
    if not name or not equals or not selector:
        raise UsageError(
            f"mapping ‘{printable(text, 80)}’ is not understood; expected a disk or volume of the image and a selector "
            "of a disk, such as vdb=serial=S2 or /srv=serial=S2",
            "‘regraft show IMAGE’ lists the disks and volumes of an image",
        )
    return name, selector


def chosen_disks(selector: str, wish: Wish, disks: Sequence[Disk]) -> tuple[Disk, ...]:
    """The disks to write, the one that boots first; each selector leaves exactly one."""
    found = [select_disk(each, disks) for each in (selector, *wish.also)]
    names = [disk.name for disk in found]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UsageError(f"disk {', '.join(sorted(twice))} is selected twice", "name each disk once")
    return tuple(found)


def spread(manifest: Manifest, disks: Sequence[Disk], wish: Wish) -> Spread:
    """Divide the image among ``disks``. Raises UsageError for a mapping that names nothing, RefusedError for a disk
    that would be erased and receive nothing."""
    places = _mapped(manifest, disks, wish)
    if len(disks) == 1:
        return Spread((Share(disks[0], manifest),), {disk.name: disks[0] for disk in manifest.disks})
    receives, ties = _receivers(manifest, disks, places)
    refuse_divided_stack(manifest, disks, receives, keeps=wish.arrays == KEEP)
    elsewhere = {v.id: places[v.id] for v in manifest.volumes if v.id in places and v.disk in receives}
    elsewhere = {id_: disk for id_, disk in elsewhere.items() if disk != receives[_volume(manifest, id_).disk]}
    boots = next(iter(receives.values()), disks[0])  # which the operator may have named second
    shares = tuple(
        _share(manifest, each, receives, elsewhere) for each in sorted(disks, key=lambda disk: disk != boots)
    )
    for share in shares:
        if not share.manifest.volumes and not share.members:
            raise RefusedError(
                f"disk {share.disk.name} (serial {share.disk.serial or '-'}) would be erased, and nothing of the image "
                "goes to it",
                f"map a volume to it, such as --map /srv=name={share.disk.name}, or leave the disk out",
            )
    return Spread(shares, receives, tuple(_notes(manifest, receives, elsewhere)), tuple(ties))


def _mapped(manifest: Manifest, disks: Sequence[Disk], wish: Wish) -> dict[str, Disk]:
    """Disk name or volume id → the disk that the operator wants it on."""
    found: dict[str, Disk] = {}
    for name, selector in wish.maps:
        disk = select_disk(selector, disks)
        if any(source.name == name for source in manifest.disks):
            found[name] = disk
            continue
        named = [volume for volume in manifest.volumes if name in (volume.id, volume.filesystem.mountpoint)]
        if not named:
            known = [*(each.name for each in manifest.disks), *(volume.id for volume in manifest.volumes)]
            raise UsageError(f"‘{printable(name, 80)}’ is no disk or volume of the image; it has {', '.join(known)}")
        # Subvolumes of one file system stay together.
        at = (named[0].disk, named[0].partition)
        found |= {each.id: disk for each in manifest.volumes if (each.disk, each.partition) == at}
    return found


def _receivers(
    manifest: Manifest, disks: Sequence[Disk], places: Mapping[str, Disk]
) -> tuple[dict[str, Disk], list[str]]:
    main = main_disk(manifest)
    if main is None:
        return {}, []
    boots = places.get(main.name, disks[0])
    receives, ties = {main.name: boots}, []
    holding = holding_disks(manifest)
    others = [disk for disk in manifest.disks if disk is not main and disk.name in holding]
    free = [disk for disk in disks if disk != boots and disk not in places.values()]
    for source in sorted(others, key=lambda disk: (disk.name not in places, -disk.size_bytes)):
        if source.name in places:
            receives[source.name] = places[source.name]
            continue
        if not free:
            receives[source.name] = boots
            continue
        best = min(free, key=lambda disk: _unlike(source, disk))
        equals = [disk for disk in free if disk != best and _unlike(source, disk) == _unlike(source, best)]
        ties += [
            f"disk {source.name} of the image ({size_text(source.size_bytes)}) goes to {best.name} (serial "
            f"{best.serial or '-'}), and {each.name} (serial {each.serial or '-'}) would do as well"
            for each in equals
        ]
        receives[source.name] = best
        free.remove(best)
    return receives, ties


def _unlike(source: Disk, disk: Disk) -> tuple[bool, int]:
    """How far a disk is from the one it replaces: one that is smaller is worse than any that is not."""
    return disk.size_bytes < source.size_bytes, abs(disk.size_bytes - source.size_bytes)


def _share(manifest: Manifest, disk: Disk, receives: Mapping[str, Disk], elsewhere: Mapping[str, Disk]) -> Share:
    """What one disk receives. What stands on a mirror comes with the disk that boots."""
    part = _part(manifest, disk, receives, elsewhere)
    if manifest.stack == NO_STACK or next(iter(receives.values()), disk) == disk:
        return Share(disk, part)
    members = tuple(members_on(manifest, part.disks))
    return Share(disk, replace(part, stack=NO_STACK), members)


def _part(manifest: Manifest, disk: Disk, receives: Mapping[str, Disk], elsewhere: Mapping[str, Disk]) -> Manifest:
    """What of the image goes to one disk, as an image of its own."""
    sources = [source for source in manifest.disks if receives.get(source.name) == disk]
    first = next(iter(receives.values()), None) == disk or not receives
    stay = [v for v in manifest.volumes if v.id not in elsewhere and (receives.get(v.disk) == disk or
                                                                      (first and v.disk not in receives))]  # fmt: skip
    come = [volume for volume in manifest.volumes if elsewhere.get(volume.id) == disk]
    gone = {(v.disk, v.partition) for v in manifest.volumes if v.id in elsewhere}
    left = [_without(source, {number for name, number in gone if name == source.name}) for source in sources]
    pieces = [_piece(source, come, disk) for source in manifest.disks if any(v.disk == source.name for v in come)]
    moved = [replace(volume, disk=_piece_name(volume.disk, disk)) for volume in come]
    return replace(manifest, disks=(*left, *pieces), volumes=(*stay, *moved))


def _without(source: Disk, numbers: set[int]) -> Disk:
    """A disk without some partitions, and smaller by them: what remains may grow into their space."""
    gone = sum(part.size_bytes for part in source.partitions if part.number in numbers)
    parts = tuple(part for part in source.partitions if part.number not in numbers)
    return replace(source, partitions=parts, size_bytes=source.size_bytes - gone)


def _piece(source: Disk, volumes: Sequence[Volume], disk: Disk) -> Disk:
    """A disk with some partitions of the image's: of a table of its own, for two disks cannot have the same one."""
    numbers = {volume.partition for volume in volumes if volume.disk == source.name}
    parts = tuple(part for part in source.partitions if part.number in numbers)
    size = sum(part.size_bytes for part in parts)
    name = _piece_name(source.name, disk)
    return replace(source, name=name, size_bytes=size, role="", table_id="", partitions=parts)


def _piece_name(source: str, disk: Disk) -> str:
    return f"{source}/{disk.name}"


def _notes(manifest: Manifest, receives: Mapping[str, Disk], elsewhere: Mapping[str, Disk]) -> Iterator[str]:
    for name, disk in receives.items():
        yield f"disk {name} of the image goes to {disk.name} (serial {disk.serial or '-'})"
    for id_, disk in elsewhere.items():
        place = _volume(manifest, id_).filesystem.mountpoint or id_
        yield f"volume {id_} ({place}) goes to {disk.name} (serial {disk.serial or '-'}), as mapped"


def _volume(manifest: Manifest, id_: str) -> Volume:
    return next(volume for volume in manifest.volumes if volume.id == id_)
