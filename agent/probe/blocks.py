"""Which partitions of a disk are captured by their blocks: those that no tree brings and no restore makes anew."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agent.errors import RefusedError, UsageError
from agent.image.capture import SourceVolume
from agent.model.image import BLOCKS, BOOT_CODE_BYTES, BootCode, Excluded
from agent.model.partition_types import EXTENDED_TYPES, is_bios_boot, is_esp
from agent.model.storage import Disk, FileSystem, Partition, TableKind
from agent.model.target_disk import GUARDED
from agent.probe.disks import Surroundings, partition_name
from agent.probe.mounts import holders_of

# Parts of something larger: one of them alone is nothing, and Linux's own stacks are captured by what lies on them.
STACKS = frozenset(GUARDED) - {"BitLocker"}


@dataclass(frozen=True, slots=True)
class Choice:
    """What the caller says of single partitions, by their kernel names (sda3)."""

    without: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()

    def names(self, partition: str) -> bool:
        return partition in self.without or partition in self.whole


NO_CHOICE = Choice()


@dataclass(frozen=True, slots=True)
class Found:
    volumes: tuple[SourceVolume, ...]
    left_out: tuple[Excluded, ...]


def blocks_on(
    disks: Iterable[Disk], trees: Sequence[SourceVolume], choice: Choice, around: Surroundings | None = None
) -> Found:
    """The blocks volumes of several disks; what two of them would call the same has its disk's name, too."""
    volumes: list[SourceVolume] = []
    left_out: list[Excluded] = []
    for disk in disks:
        found, taken = blocks_of(disk, trees, choice, around), {each.id for each in volumes}
        volumes += [replace(v, id=f"{v.id}-{disk.name}") if v.id in taken else v for v in found.volumes]
        left_out += found.left_out
    return Found(tuple(volumes), tuple(left_out))


def blocks_of(disk: Disk, trees: Sequence[SourceVolume], choice: Choice, around: Surroundings | None = None) -> Found:
    """The blocks volumes of a disk, beside its ``trees``; ``around`` of a system that runs from that disk.

    Beside a system that is adapted, the boot loader's own places are made anew and swap is too; without one, everything
    but swap is taken, byte for byte.
    """
    taken = {volume.partition for volume in trees if volume.disk == disk.name}
    volumes: list[SourceVolume] = []
    left_out: list[Excluded] = []
    for number, part, held in _places(disk):
        name = partition_name(Path("/"), disk.name, number) if number else disk.name
        kind = held.kind if held else ""
        if number in taken or kind == "swap" or (part and trees and is_bios_boot(part.type)):
            continue
        reason = "left out by the call" if name in choice.without else _why_not(kind, name, around)
        if kind == "btrfs" and held and any(held.uuid == tree.filesystem.uuid for tree in trees):
            reason = "a further device of a btrfs that is captured by its files"
        if part and trees and is_esp(part.type) and kind in ("vfat", ""):
            reason = "an EFI system partition that the system does not mount: it is made anew"
        if reason:
            left_out.append(Excluded(f"/dev/{name}", reason))
            continue
        if not name:
            raise RefusedError(
                f"the kernel knows no partition {number} of {disk.name}, which its table names",
                "run partprobe, then capture again",
            )
        known = held or FileSystem("", size_bytes=part.size_bytes if part else disk.size_bytes)
        id_ = f"part-{number}" if number else "disk"
        volumes.append(
            SourceVolume(id_, known, Path("/dev") / name, disk.name, number, BLOCKS, whole=name in choice.whole)
        )
    return Found(tuple(volumes), tuple(left_out))


def refuse_unknown(choice: Choice, disks: Iterable[Disk]) -> None:
    """Every partition that the caller names must be one of those that are looked at."""
    known = {partition_name(Path("/"), disk.name, part.number) for disk in disks for part in disk.partitions}
    known |= {disk.name for disk in disks if not disk.partitions}
    unknown = (choice.without | choice.whole) - known
    if unknown:
        raise UsageError(
            f"{', '.join(sorted(unknown))} is no partition that is captured, expected one of: "
            f"{', '.join(sorted(known - {''})) or 'none'}"
        )


def _places(disk: Disk) -> Iterator[tuple[int, Partition | None, FileSystem | None]]:
    """Everything on a disk that can hold something; 0 is the whole disk."""
    if disk.table is TableKind.NONE:
        yield 0, None, disk.holds
    for part in disk.partitions:
        if part.type.lower() not in EXTENDED_TYPES:
            yield part.number, part, part.holds


def _why_not(kind: str, name: str, around: Surroundings | None) -> str:
    """Why a partition stays behind; RefusedError when it is in use in a way that the caller must decide on."""
    if kind in STACKS:
        return f"is a part of {GUARDED[kind]}, which is captured by what lies on it"
    if around is None:
        return ""
    if name in around.swaps:
        return "swap"
    if holders_of(around.root, name):
        return f"{', '.join(holders_of(around.root, name))} stands on it"
    mounts = [mount for mount in around.mounts if name and name in (mount.device, Path(mount.source).name)]
    if mounts:
        raise RefusedError(
            f"/dev/{name} ({kind or mounts[0].kind}) is mounted on {mounts[0].mountpoint}; by its blocks it can be "
            "captured only while it is not",
            f"‘umount {mounts[0].mountpoint}’, or leave it out with --without {name}",
        )
    return ""


def boot_code(disk: Disk) -> tuple[BootCode, ...]:
    """What BIOS starts from the disk, if it starts something."""
    if disk.table is TableKind.NONE:
        return ()
    descriptor = os.open(Path("/dev") / disk.name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        code = os.pread(descriptor, BOOT_CODE_BYTES, 0)
    finally:
        os.close(descriptor)
    return (BootCode(disk.name, code),) if any(code) else ()
