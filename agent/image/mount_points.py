"""Places at which something is mounted."""

from __future__ import annotations

import os
import re
from pathlib import Path


def mount_points(root: Path, live: Path | None) -> frozenset[bytes]:
    """Where something is mounted now (proc(5), /proc/pid/mountinfo, field 5 with octal escapes).

    In a snapshot at ``root``: the places at which something is mounted in the tree ``live`` that it is of.
    """
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return frozenset()
    fields = (line.split(b" ")[4] for line in lines)
    found = (re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), each) for each in fields)
    if live is None:
        return frozenset(found)
    top, below = os.path.realpath(os.fsencode(root)), os.path.realpath(os.fsencode(live)).rstrip(b"/") + b"/"
    return frozenset(os.path.join(top, each.removeprefix(below)) for each in found if each.startswith(below))
