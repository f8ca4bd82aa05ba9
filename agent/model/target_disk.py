"""Which one disk a restore may overwrite. Exactly one, or nothing is written.

disks ─► not: boot medium, mounted, in use, read-only, too small            never, however it is named
      ─► not: removable, USB, guarded content                               unless named by serial, WWN or path
      ─► selector ─► one disk, or DiskSelectionError with every disk and why it is out
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from agent.errors import DiskSelectionError, UsageError
from agent.model.plan import DiskIdentity
from agent.model.storage import Disk, FileSystem, TableKind
from agent.model.wording import printable, size_text

ONLY_ELIGIBLE = "only-eligible"
# Members of something larger: erasing one disk damages data that this machine does not show as a file system.
# Names as blkid gives them in TYPE.
GUARDED = {
    "LVM2_member": "LVM",
    "LVM1_member": "LVM",
    "linux_raid_member": "md RAID",
    "ddf_raid_member": "firmware RAID",
    "isw_raid_member": "firmware RAID",
    "zfs_member": "ZFS",
    "crypto_LUKS": "LUKS",
    "BitLocker": "BitLocker",
    "VMFS": "VMware datastore",
    "VMFS_volume_member": "VMware datastore",
    "ceph_bluestore": "Ceph",
    "drbd": "DRBD",
    "bcache": "bcache",
    "gfs2": "GFS2 cluster file system",
    "ocfs2": "OCFS2 cluster file system",
    "gpfs": "GPFS cluster file system",
    "mpath_member": "multipath",
}
NAMED_SURELY = ("serial", "wwn", "path")  # name the device itself; kernel names move from boot to boot


def as_from_the_medium(disks: Iterable[Disk]) -> tuple[Disk, ...]:
    """The disks of a machine that runs from them, as they would be when it is started from the live medium.

    A rehearsal is for machines that run; what its profile calls in use is free when the machine is restored.
    """
    return tuple(replace(disk, in_use=(), boot_medium=False) for disk in disks)


def select_disk(selector: str, disks: Iterable[Disk], minimum_bytes: int = 0, *, for_reading: bool = False) -> Disk:
    """The disk that ``selector`` leaves: ``serial=…``, ``wwn=…``, ``path=…``, ``name=…`` or ``only-eligible``.

    ``for_reading``: a disk to be captured; it may be read-only, removable or part of something larger.
    """
    disks = tuple(disks)
    kind, wanted = parse_selector(selector)
    sure = kind in NAMED_SURELY
    reasons = {disk.name: why_out(disk, minimum_bytes, named=sure, for_reading=for_reading) for disk in disks}
    matching = [disk for disk in disks if _matches(disk, kind, wanted)]
    left = [disk for disk in matching if not reasons[disk.name]]
    # Two disks that answer to one serial: even when one of them is out, the other may be the wrong one.
    if len(left) == 1 and (not sure or len(matching) == 1):
        return left[0]
    for disk in disks:
        if disk not in matching:
            reasons[disk.name] = f"is not {selector}"
    raise DiskSelectionError(_message(selector, matching, left, disks, reasons), _hint(matching, left, disks))


def parse_selector(selector: str) -> tuple[str, str]:
    """``("serial", "S4X…")``; ``("only-eligible", "")``."""
    if selector == ONLY_ELIGIBLE:
        return ONLY_ELIGIBLE, ""
    kind, found, wanted = selector.partition("=")
    wanted = wanted.strip()
    if not found or kind not in MATCHERS or not wanted:
        raise UsageError(
            f"disk selector ‘{printable(selector)}’ is not understood; "
            "expected serial=…, wwn=…, path=…, name=… or only-eligible",
            "‘regraft profile’ lists the disks of this machine with their serials",
        )
    return kind, wanted.removeprefix("/dev/disk/by-path/").removeprefix("/dev/")


MATCHERS: dict[str, Callable[[Disk], str]] = {
    "serial": lambda disk: disk.serial.strip(),
    "wwn": lambda disk: disk.wwn,
    "path": lambda disk: disk.by_path,
    "name": lambda disk: disk.name,
}


def _matches(disk: Disk, kind: str, wanted: str) -> bool:
    return kind == ONLY_ELIGIBLE or MATCHERS[kind](disk) == wanted


def why_out(disk: Disk, minimum_bytes: int = 0, *, named: bool = False, for_reading: bool = False) -> str:
    """Why ``disk`` may not be used; empty when it may. ``named``: a person named this very device."""
    if disk.boot_medium:
        return "is what this system runs from"
    if disk.in_use:
        return f"is in use: {', '.join(disk.in_use)}"
    if disk.size_bytes <= 0:
        return "has no medium"
    if for_reading:
        return ""
    if disk.read_only:
        return "is read-only"
    if disk.size_bytes < minimum_bytes:
        return f"is too small: {size_text(disk.size_bytes)}, needed {size_text(minimum_bytes)}"
    if named:
        return ""
    if disk.removable or disk.transport == "usb":
        return "is removable or on USB; name it by serial= if it is meant"
    guarded = guarded_content(disk)
    if guarded:
        return f"holds {', '.join(guarded)}; name it by serial= if it may be erased"
    return ""


def guarded_content(disk: Disk) -> tuple[str, ...]:
    """Signatures on the disk that stand for data beyond it, each with its place."""
    found = [(f"partition {part.number}", part.holds) for part in disk.partitions]
    found.append(("the whole disk", disk.holds))
    return tuple(
        f"{GUARDED[held.kind]} on {place}" for place, held in found if held is not None and held.kind in GUARDED
    )


def identity(disk: Disk) -> DiskIdentity:
    """What consent is given to, and what is compared again on the open device."""
    return DiskIdentity(
        name=disk.name,
        model=disk.model,
        serial=disk.serial.strip(),
        wwn=disk.wwn,
        size_bytes=disk.size_bytes,
        logical_sector_bytes=disk.logical_sector_bytes,
        by_path=disk.by_path,
        content=content_line(disk),
    )


def content_line(disk: Disk) -> str:
    """What the disk holds now, on one line: ``GPT: ext4 ‘root’ 20.0 GiB, swap 1.0 GiB``."""
    if disk.holds is not None:
        return f"{_content(disk.holds)} on the whole disk"
    if disk.table is TableKind.NONE:
        return "nothing known: no partition table, no file system"
    parts = [
        f"{_content(part.holds) if part.holds else 'unknown'} {size_text(part.size_bytes)}" for part in disk.partitions
    ]
    return f"{disk.table.upper()}: {', '.join(parts) if parts else 'no partitions'}"


def _content(held: FileSystem) -> str:
    label = f" ‘{printable(held.label, 40)}’" if held.label else ""
    return f"{printable(held.kind, 40)}{label}"


def _message(
    selector: str, matching: Sequence[Disk], left: Sequence[Disk], disks: Sequence[Disk], reasons: dict[str, str]
) -> str:
    if len(matching) > 1 and not left:
        found = f"{len(matching)} disks match, none of them may be used"
    elif len(left) > 1:
        found = f"{len(left)} disks match"
    elif len(matching) > 1:
        found = f"{len(matching)} disks answer to it"
    else:
        found = "the disk may not be used" if matching else "no disk matches"
    lines = [f"disk selector ‘{selector}’: {found}, expected exactly one; nothing was written"]
    lines += [f"  {_line(disk)}: {reasons[disk.name] or 'matches'}" for disk in disks]
    return "\n".join(lines if disks else [*lines, "  this machine has no disks"])


def _line(disk: Disk) -> str:
    words = (disk.name, printable(disk.model, 60), f"serial {printable(disk.serial, 60) or '-'}")
    return " ".join(word for word in (*words, size_text(disk.size_bytes), disk.transport) if word)


def _hint(matching: Sequence[Disk], left: Sequence[Disk], disks: Sequence[Disk]) -> str:
    if not disks:
        return "attach a disk, or add the driver of its controller to the medium"
    if len(left) > 1 or (len(matching) > 1 and left):
        return "name one disk by wwn= or path=, or detach the others"
    if len(matching) > 1:
        return "name one disk by serial=, wwn= or path= if it may be erased, or free one"
    return "name another disk by serial=, wwn= or path=, or free this one"
