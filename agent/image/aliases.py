"""File systems on which a file answers to more names than the one it was made with: FAT and its kin find every case,
short names, names without their last dots."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.image.mountinfo import mounted_kind

KINDS = frozenset({"vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuseblk"})
PINNED = 200


def has_aliases(root: Path) -> bool:
    """Whether the file system of a directory may find a file by another name than the directory lists."""
    return mounted_kind(root) in KINDS


def strangers(folder: int, found: Collection[bytes], listed: Collection[bytes]) -> list[bytes]:
    """Of the names found in a directory those that none of the ``listed`` finds. Nobody may write there meanwhile."""
    extra = [name for name in found if name not in listed]
    absent = [name for name in listed if name not in found]
    unknown: list[bytes] = []
    for first in range(0, len(extra), PINNED):
        batch = extra[first : first + PINNED]
        with _pinned(folder, batch) as inodes:
            answered = {inode for name in absent if (inode := _inode(folder, name))}
            unknown += [name for name in batch if inodes.get(name) not in answered]
    return unknown


@contextmanager
def _pinned(folder: int, names: Collection[bytes]) -> Iterator[dict[bytes, tuple[int, int]]]:
    """Device and inode of each. They are held open: FAT has no inodes, and numbers a file anew each time it is met."""
    held: dict[bytes, int] = {}
    try:
        for name in names:
            try:
                held[name] = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            except FileNotFoundError:
                continue
        told = {name: os.fstat(descriptor) for name, descriptor in held.items()}
        yield {name: (each.st_dev, each.st_ino) for name, each in told.items() if _has_one_name(each)}
    finally:
        for descriptor in held.values():
            os.close(descriptor)


def _has_one_name(found: os.stat_result) -> bool:
    """A hard link is a name of its own."""
    return stat.S_ISDIR(found.st_mode) or found.st_nlink <= 1


def _inode(folder: int, name: bytes) -> tuple[int, int] | None:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
    return found.st_dev, found.st_ino
