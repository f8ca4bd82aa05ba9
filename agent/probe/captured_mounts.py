"""Which of the mounted file systems belong to the system that runs, and are captured as files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.errors import RefusedError
from agent.model.image import Excluded
from agent.model.storage import Disk
from agent.model.subvolumes import TOP
from agent.probe.disks import Surroundings, mount_of
from agent.probe.mounts import FstabEntry, Mount, disks_below
from agent.probe.stack import OpenStack
from agent.probe.subvolumes import is_subvolume

KINDS = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "vfat"})


@dataclass(frozen=True, slots=True)
class InUse:
    """A file system that is mounted: one mount of it, of a btrfs one of every subvolume."""

    mounts: tuple[Mount, ...]
    disks: tuple[Disk, ...]
    for_a_while: bool  # plugged in: it does not belong to the system


def in_use(disks: tuple[Disk, ...], around: Surroundings, entries: tuple[FstabEntry, ...] = ()) -> tuple[InUse, ...]:
    """Every file system on these disks that is mounted. Raises RefusedError where the root is none that is captured.

    Those are there for a while that lie on another disk than the root, one that can be taken out, and are not mounted
    at each boot. Kernels call disks on a board's hot-plug ports removable, too.
    """
    root = next((mount for mount in around.mounts if mount.mountpoint == "/"), None)
    if root is None or root.kind not in KINDS:
        raise RefusedError(
            f"the root file system is {root.kind if root else 'unknown'}, expected one of {', '.join(sorted(KINDS))}",
            "capture the tree with ‘regraft capture --root DIR’",
        )
    own = disks_below(around.root, root.device)
    lasting = {entry.mountpoint for entry in entries if not {"noauto", "nofail"} & set(entry.options.split(","))}
    found: list[InUse] = []
    for mount in around.mounts:
        below = disks_below(around.root, mount.device)
        attached = tuple(disk for disk in disks if disk.name in below)
        mounts = mounts_of(mount, around, entries)
        if mount.kind in KINDS and attached and mounts and mount == mounts[0]:
            can_go = any(disk.name not in own and (disk.removable or disk.transport == "usb") for disk in attached)
            at_boot = any(each.mountpoint in lasting for each in mounts)
            found.append(InUse(mounts, attached, can_go and not at_boot))
    return tuple(found)


def captured_mounts(found: Iterable[InUse], root: Path, opened: OpenStack) -> Iterator[tuple[Mount, ...]]:
    """The mounts of what belongs to the system. Raises RefusedError for what would come back as something else."""
    for each in found:
        if not each.for_a_while:
            refuse_stacks(each.mounts[0], frozenset(disk.name for disk in each.disks), root, opened)
            yield each.mounts


def plugged_in(found: Iterable[InUse]) -> Iterator[Excluded]:
    """What does not belong to it, and stays behind."""
    for each in found:
        if each.for_a_while:
            names = ", ".join(disk.name for disk in each.disks)
            yield Excluded(each.mounts[0].mountpoint, f"on a disk that is plugged in for a while ({names})")


def mounts_of(mount: Mount, around: Surroundings, entries: tuple[FstabEntry, ...]) -> tuple[Mount, ...]:
    """The mounts that show all of a file system that belongs to the system, the shortest path first.

    Of a btrfs one for each subvolume. Where subvolumes are mounted, a mount of the top that fstab does not know is
    there for its administrator.
    """
    if mount.kind != "btrfs":
        whole = mount_of(mount.device, around)
        return (whole,) if whole else ()
    found: dict[str, Mount] = {}
    for each in sorted(around.mounts, key=lambda each: (len(each.mountpoint), each.mountpoint)):
        if each.device == mount.device and each.kind == "btrfs" and is_subvolume(Path(each.mountpoint)):
            found.setdefault(each.root, each)
    lasting = {"/", *(entry.mountpoint for entry in entries)}
    if len(found) > 1 and TOP in found and found[TOP].mountpoint not in lasting:
        del found[TOP]
    return tuple(found.values())


def refuse_stacks(mount: Mount, disks: frozenset[str], root: Path, opened: OpenStack) -> None:
    """A part of a file system, or one on a stack that is not known, would come back as something else."""
    device = (root / "sys/class/block" / mount.device).resolve()
    direct = mount.device in disks or device.parent.name in disks or bool(opened.stacked_place_of(mount.device))
    hint = "capture the tree with ‘regraft capture --root DIR’"
    if not direct:
        raise RefusedError(
            f"{mount.mountpoint} lies on {mount.device}; expected a partition, or LVM, md RAID or LUKS that can be "
            "read (lvm2, mdadm and cryptsetup tell of them)",
            hint,
        )
    if mount.root != "/" and mount.kind != "btrfs":
        raise RefusedError(
            f"{mount.mountpoint} is ‘{mount.root}’ of {mount.device}, expected a whole file system", hint
        )
