"""A depot on a disk of the machine: USB sticks and external disks."""

from __future__ import annotations

import time
from pathlib import Path

from agent.errors import UnreachableError
from agent.process import run

PREFIX = "label:"
MOUNT = Path("/run/regraft/depot")
PATIENCE_S = 30.0


def mounted_depot(location: str) -> str:
    """``label:LABEL`` or ``label:LABEL/folder`` becomes the path of that folder, mounted; anything else stays."""
    if not location.startswith(PREFIX):
        return location
    label, _, folder = location[len(PREFIX) :].partition("/")
    device = wait_for_label(label)
    MOUNT.mkdir(parents=True, exist_ok=True)
    if not MOUNT.is_mount():
        run(["mount", "-o", "nosuid,nodev,noexec", device, MOUNT])
    return str(MOUNT / folder)


def wait_for_label(label: str) -> Path:
    device = Path("/dev/disk/by-label") / label
    deadline = time.monotonic() + PATIENCE_S
    while not device.exists():
        if time.monotonic() > deadline:
            raise UnreachableError(
                f"no file system with the label ‘{label}’ appeared within {PATIENCE_S:.0f} s",
                "attach the depot's disk, or correct depot in agent.toml",
            )
        time.sleep(0.5)
    return device
