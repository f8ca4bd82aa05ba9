"""Places at which something is mounted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from agent.image.mountinfo import mounts


def _mounts() -> Iterator[tuple[bytes, int]]:
    """Every mount point with the number of its mount."""
    with suppress(OSError):
        for mount in mounts():
            yield mount.place, mount.number


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
    """Where something is mounted now.

    In a snapshot at ``root``: the places at which something is mounted in the tree ``live`` that it is of.
    """
    found = (place for place, _ in _mounts())
    if live is None:
        return frozenset(found)
    top, below = os.path.realpath(os.fsencode(root)), os.path.realpath(os.fsencode(live)).rstrip(b"/") + b"/"
    return frozenset(os.path.join(top, each.removeprefix(below)) for each in found if each.startswith(below))
