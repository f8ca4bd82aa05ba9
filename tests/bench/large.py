"""The second data set: few, large files, partly compressible, the same bytes every time.

As a server holds them: disk images, databases, archives. Every MiB is text-like or record-like (each keeps about a
third of its size) or noise; each is taken from one of two base blocks at its own place and through its own
substitution of bytes, so that no two are alike to any contestant's deduplication.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

PIECE_BYTES = 1 << 20
BASE_BYTES = 4 << 20
# folder, bytes of each file in MiB, share of the whole, chances of (text, records, noise)
KINDS = (
    ("images", 1024, 0.4, (0.55, 0.35, 0.10)),
    ("databases", 256, 0.4, (0.50, 0.40, 0.10)),
    ("archives", 64, 0.2, (0.30, 0.40, 0.30)),
)
NOISE = 2


def make_large(root: Path, size_bytes: int) -> str:
    """Fill an empty, mounted file system with ``size_bytes``; how it was made."""
    bases = (text_block(random.Random("text")), record_block(random.Random("records")))
    for folder, file_mib, share, chances in KINDS:
        (root / folder).mkdir()
        left, number = round(size_bytes * share), 0
        while left > 0:
            size = min(left, file_mib << 20)
            with (root / folder / f"{number:04}").open("wb") as file:
                for piece in pieces(bases, size, chances, random.Random(f"{folder} {number}")):
                    file.write(piece)
            left, number = left - size, number + 1
    return "files of 64, 256 and 1,024 MiB from a seeded generator: text-like, record-like and noise, MiB by MiB"


def pieces(bases: tuple[bytes, bytes], size: int, chances: tuple[float, ...], source: random.Random) -> Iterator[bytes]:
    """The bytes of a file, a MiB at a time."""
    for at in range(0, size, PIECE_BYTES):
        length = min(PIECE_BYTES, size - at)
        (kind,) = source.choices(range(3), chances)
        if kind == NOISE:
            yield source.randbytes(length)
            continue
        start = source.randrange(BASE_BYTES - PIECE_BYTES)
        substitution = bytearray(range(256))
        source.shuffle(substitution)
        yield bases[kind][start : start + length].translate(bytes(substitution))


def text_block(source: random.Random) -> bytes:
    """Words of a vocabulary, some far more often than others."""
    words = [source.randbytes(source.randint(2, 9)).hex().encode() for _ in range(600)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    block = b" ".join(source.choices(words, weights, k=BASE_BYTES // 6))
    return block[:BASE_BYTES]


def record_block(source: random.Random) -> bytes:
    """Rows of a table: numbers that count, few different values, keys that are all different, room."""
    rows = (
        number.to_bytes(8, "little")
        + bytes((source.randrange(4), 0, 0, source.randrange(16)))
        + source.randbytes(4)
        + bytes(8)
        for number in range(BASE_BYTES // 24 + 1)
    )
    return b"".join(rows)[:BASE_BYTES]
