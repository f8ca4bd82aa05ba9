"""Waiting until the PE has seen its hardware."""

from __future__ import annotations

import time
from pathlib import Path

SETTLED = Path("/run/pe/settled")  # written by the PE's init when udev's first round is over
PATIENCE_S = 90.0
QUIET_S = 1.5


def wait_for_hardware() -> None:
    """Return when udev has settled and the set of block devices stood still for a while.

    Disks behind USB and SAS appear seconds after the first round of events; one scan would miss them.
    On a machine that is not the PE there is nothing to wait for.
    """
    deadline = time.monotonic() + PATIENCE_S
    if not SETTLED.parent.exists():
        return
    while not SETTLED.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    seen, since = block_devices(), time.monotonic()
    while time.monotonic() - since < QUIET_S and time.monotonic() < deadline:
        time.sleep(0.25)
        present = block_devices()
        if present != seen:
            seen, since = present, time.monotonic()


def block_devices() -> frozenset[str]:
    return frozenset(path.name for path in Path("/sys/class/block").iterdir())
