"""A Windows volume: an NTFS with files, made with Debian's tools."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.process import run
from tests.bench.filesystems import PATIENCE_S, loop_device, sparse_file
from tests.bench.tree import Size, size_of

FILLED = 0.5  # of the volume
SMALLEST_BYTES = 32 << 10  # small files cost the FUSE driver minutes, and the measure nothing


def make_ntfs(image: Path, source: Path, size_bytes: int) -> tuple[Size, str]:
    """An NTFS of twice ``size_bytes`` holding about ``size_bytes`` of the larger files below ``source``."""
    sparse_file(image, round(size_bytes / FILLED))
    with loop_device(image) as node:
        run(["mkfs.ntfs", "--quick", "--force", "--quiet", "--label", "Windows", node])
        with ntfs_mounted(node, image.with_suffix(".mnt")) as root:
            for path in larger_files(source, size_bytes):
                to = root / path.relative_to(source)
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, to)
            size = size_of(root)
    return size, f"NTFS by mkfs.ntfs, half full of the system’s files of at least {SMALLEST_BYTES >> 10} KiB"


@contextmanager
def ntfs_mounted(node: Path, at: Path, options: str = "big_writes") -> Iterator[Path]:
    """Through ntfs-3g, which needs nothing of the kernel but FUSE."""
    at.mkdir()
    run(["ntfs-3g", "-o", options, node, at])
    try:
        yield at
    finally:
        run(["umount", at], timeout_s=PATIENCE_S)
        at.rmdir()


def larger_files(source: Path, limit_bytes: int) -> Iterator[Path]:
    """In the order of names, until there are enough bytes; names that Windows has no word for are passed over."""
    left = limit_bytes
    for folder, folders, names in os.walk(source):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode) and status.st_size >= SMALLEST_BYTES and not set(path) & set(':*?"<>|\\'):
                left -= status.st_size
                if left < 0:
                    return
                yield Path(path)
