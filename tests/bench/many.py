"""Trees to grow with: more and more files, or more and more bytes."""

from __future__ import annotations

import os
import random
from pathlib import Path

FOLDER_FILES = 500
LARGEST_BYTES = 4000
SPARSE_FILE_BYTES = 1 << 30
ISLAND_BYTES = 1 << 20
ISLANDS_APART = 10  # one MiB of data, nine of hole


def make_many(root: Path, count: int, tiny: bool = False) -> None:
    """``count`` files in folders of 500, all different: 100 to 4,000 half-compressible bytes, or a number only."""
    source = random.Random("many")
    noise = source.randbytes(LARGEST_BYTES // 2 + 100)
    for first in range(0, count, FOLDER_FILES):
        folder = root / f"{first // 100_000:03}" / f"{first:08}"
        folder.mkdir(parents=True)
        for number in range(first, min(first + FOLDER_FILES, count)):
            descriptor = os.open(folder / f"file-{number}", os.O_WRONLY | os.O_CREAT, 0o644)
            size = 0 if tiny else source.randint(100, LARGEST_BYTES)
            half = noise[number % 100 : number % 100 + size // 2]
            os.write(descriptor, b"%d\n" % number + half + bytes(size // 2))
            os.close(descriptor)


def make_sparse(root: Path, size_bytes: int) -> int:
    """Files of 1 GiB with a MiB of data in ten, half of it compressible; how many bytes of data."""
    source, written = random.Random("sparse"), 0
    for first in range(0, size_bytes, SPARSE_FILE_BYTES):
        size = min(SPARSE_FILE_BYTES, size_bytes - first)
        with (root / f"{first // SPARSE_FILE_BYTES:04}").open("wb") as file:
            file.truncate(size)
            for at in range(0, size, ISLAND_BYTES * ISLANDS_APART):
                length = min(ISLAND_BYTES, size - at)
                file.seek(at)
                file.write(source.randbytes(length // 2) + bytes(b"%08d" % at) * (length // 16))
                written += length
    return written
