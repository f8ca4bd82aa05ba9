"""Makes files that tests made immutable or append-only removable again: no rm, not root's either, takes them away."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from agent.image.flags import LOCKING, read_flags, write_flags


def thaw(top: Path) -> None:
    """Take the locking flags from everything below ``top`` that lies on its file system. Only root ever set them."""
    if os.geteuid() != 0 or not top.is_dir():
        return
    device = top.lstat().st_dev
    for folder, names, files in os.walk(top):
        names[:] = [name for name in names if os.lstat(os.path.join(folder, name)).st_dev == device]
        for name in (".", *files):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            if status.st_dev == device and (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                _thaw(path)


def _thaw(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if found := read_flags(descriptor) & LOCKING:
            write_flags(descriptor, 0, found)
    finally:
        os.close(descriptor)


def sweep(base: Path) -> None:
    """What pytest could not remove in earlier runs, beside its folder ``base`` of this one."""
    for garbage in base.parent.glob("garbage-*"):
        thaw(garbage)
        shutil.rmtree(garbage, ignore_errors=True)
