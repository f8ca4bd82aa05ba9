"""Places at which something is mounted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path


def _mounts() -> Iterator[tuple[bytes, int]]:
    """Every mount point with the number of its mount; one that is hidden by a later mount, too."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        words = line.split(b" ")
        yield re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), words[4]), int(words[0])


def mounts_below(top: bytes) -> list[tuple[bytes, int]]:
    """The mount points below a directory, without itself, and the numbers of their mounts."""
    below = top.rstrip(b"/") + b"/"
    return [(place, number) for place, number in _mounts() if place != top and place.startswith(below)]


def mount_number(descriptor: int) -> int:
    """Of which mount an open file was reached (proc(5), /proc/pid/fdinfo: mnt_id)."""
    for line in Path(f"/proc/self/fdinfo/{descriptor}").read_bytes().splitlines():
        name, _, value = line.partition(b":")
        if name == b"mnt_id":
            return int(value)
    raise OSError(f"/proc/self/fdinfo/{descriptor} has no mnt_id")


def mount_points(root: Path, live: Path | None) -> frozenset[bytes]:
    """Where something is mounted now (proc(5), /proc/pid/mountinfo, field 5 with octal escapes).

    In a snapshot at ``root``: the places at which something is mounted in the tree ``live`` that it is of.
    """
    found = (place for place, _ in _mounts())
    if live is None:
        return frozenset(found)
    top, below = os.path.realpath(os.fsencode(root)), os.path.realpath(os.fsencode(live)).rstrip(b"/") + b"/"
    return frozenset(os.path.join(top, each.removeprefix(below)) for each in found if each.startswith(below))
