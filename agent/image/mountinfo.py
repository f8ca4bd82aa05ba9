"""What is mounted in this process's view: /proc/self/mountinfo, as proc(5) describes it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_OCTAL = re.compile(rb"\\([0-7]{3})")  # blanks and the like in paths


class Mount(NamedTuple):
    """One mount; one that is hidden by a later one, too. Paths are as they are, without octal escapes."""

    number: int
    device: bytes  # major:minor
    top: bytes  # the directory of its file system that is seen at ``place``
    place: bytes
    options: frozenset[bytes]  # of the mount and of its file system
    kind: bytes


def mounts() -> Iterator[Mount]:
    """In the order in which they were made. Raises OSError."""
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        # Number, parent, device, top, place, options, optional fields, "-", kind, source, options.
        fields, _, rest = line.partition(b" - ")
        number, _, device, top, place, options, *_ = fields.split(b" ")
        kind, _, more = rest.split(b" ")[:3]
        together = frozenset((*options.split(b","), *more.split(b",")))
        yield Mount(int(number), device, _plain(top), _plain(place), together, kind)


def mounted_kind(path: Path) -> str:
    """Kind of the file system that a path lies on; "" when it cannot be told."""
    where = os.path.realpath(os.fsencode(path))
    best, kind = b"", b""
    with suppress(OSError):
        for mount in mounts():
            holds = where == mount.place or where.startswith(mount.place.rstrip(b"/") + b"/")
            if holds and len(mount.place) >= len(best):  # the last of several at one place is the one that is seen
                best, kind = mount.place, mount.kind
    return os.fsdecode(kind)


def _plain(text: bytes) -> bytes:
    return _OCTAL.sub(lambda found: bytes([int(found[1], 8)]), text)
