"""What is mounted where, and which devices lie below which: /proc/self/mountinfo, /proc/swaps, holders and slaves."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from agent.model.edits import mount_fields
from agent.probe.kernel_files import names_in, text_of

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    device: str  # kernel name: vda1, dm-0; "" for file systems without a block device
    root: str  # which part of the file system: "/" unless it is a bind mount or a subvolume
    mountpoint: str
    kind: str
    source: str


@dataclass(frozen=True, slots=True)
class FstabEntry:
    device: str
    mountpoint: str
    kind: str
    options: str


def read_mounts(root: Path = Path("/")) -> tuple[Mount, ...]:
    """Mounts that can be seen: one that another mount covers is not among them."""
    found: dict[str, Mount] = {}
    for line in text_of(root / "proc/self/mountinfo").splitlines():
        fields, _, rest = line.partition(" - ")
        words, more = fields.split(" "), rest.split(" ")
        if len(words) < 6 or len(more) < 2:
            continue
        mountpoint = unescaped(words[4])
        source = unescaped(more[1])
        device = kernel_name(root, words[2], source)
        found.pop(mountpoint, None)
        found[mountpoint] = Mount(device, unescaped(words[3]), mountpoint, more[0], source)
    return tuple(found.values())


def kernel_name(root: Path, number: str, source: str) -> str:
    """Name of the block device behind a mount; btrfs has a device number of its own, so that its source must tell."""
    try:
        return os.readlink(root / "sys/dev/block" / number).rpartition("/")[2]  # noqa: PTH115 - the text itself
    except OSError:
        pass
    name = os.path.realpath(source).rpartition("/")[2] if source.startswith("/dev/") else ""
    return name if name and (root / "sys/class/block" / name).exists() else ""


def unescaped(text: str) -> str:
    """The kernel, and fstab, write blanks and backslashes in names as octal numbers."""
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), text)


def read_swaps(root: Path = Path("/")) -> frozenset[str]:
    """Kernel names of devices that are swapped to."""
    lines = text_of(root / "proc/swaps").splitlines()[1:]
    paths = (unescaped(line.split()[0]) for line in lines if line.split())
    return frozenset(os.path.realpath(path).rpartition("/")[2] for path in paths if path.startswith("/dev/"))


def holders_of(root: Path, name: str) -> tuple[str, ...]:
    """Devices that stand on this one: device-mapper, md."""
    return tuple(names_in(root / "sys/class/block" / name / "holders"))


def disks_below(root: Path, name: str) -> frozenset[str]:
    """Kernel names of the disks that a device, partition or stack of devices lies on."""
    device = root / "sys/class/block" / name
    slaves = names_in(device / "slaves")
    if slaves:
        return frozenset().union(*(disks_below(root, slave) for slave in slaves))
    if (device / "partition").exists():
        return frozenset({device.resolve().parent.name})
    return frozenset({name}) if name else frozenset()


def holder_text(root: Path, name: str) -> str:
    """What a device-mapper or md device is, for people: ``LVM vg0-root``, ``LUKS sda5_crypt``, ``md127``."""
    device = root / "sys/class/block" / name
    label = text_of(device / "dm/name")
    if not label:
        return name
    kind = text_of(device / "dm/uuid").partition("-")[0]
    return f"{'LUKS' if kind == 'CRYPT' else kind or 'device-mapper'} {label}"


def fstab_entries(text: str) -> tuple[FstabEntry, ...]:
    entries = (mount_fields(line) for line in text.splitlines())
    return tuple(
        FstabEntry(unescaped(fields[0]), unescaped(fields[1]), fields[2], fields[3] if len(fields) > 3 else "defaults")
        for fields in entries
        if len(fields) > 2
    )
