"""The map of chunk ids: what is put in is found, and nothing else, also where bytes repeat across records."""

from __future__ import annotations

import random
import sys

from agent.image.chunk_map import ABSENT, ChunkMap


def test_what_was_put_is_found_and_nothing_else() -> None:
    made = random.Random(1)
    ids = [made.randbytes(32) for _ in range(3000)]
    chunks = ChunkMap()
    for place, id_ in enumerate(ids):
        assert chunks.find(id_) == ABSENT
        chunks.put(id_, place << 32 | 7)
    assert [chunks.find(id_) for id_ in ids] == [place << 32 | 7 for place in range(3000)]
    assert all(chunks.find(made.randbytes(32)) == ABSENT for _ in range(3000))
    chunks.put(ids[5], 1)
    assert chunks.find(ids[5]) == 1 and chunks.find(ids[6]) == 6 << 32 | 7


def test_bytes_across_two_records_are_no_record() -> None:
    chunks = ChunkMap()
    chunks.put(b"ab" + bytes(30), 0)
    chunks.put(b"ab" + bytes(29) + b"x", 2**64 - 1)
    assert chunks.find(b"ab" + bytes(30)) == 0
    assert chunks.find(b"ab" + bytes(29) + b"x") == 2**64 - 1
    shifted = bytes(1) + bytes(
        29
    )  # the tail of the first place and the head of the second id, without a record of its own
    assert chunks.find(b"ac" + shifted) == ABSENT
    assert chunks.find(b"ab" + b"x" + b"\xff" * 8 + bytes(21)) == ABSENT


def test_memory_of_many() -> None:
    chunks = ChunkMap()
    made = random.Random(2)
    for place in range(100_000):
        chunks.put(made.randbytes(32), place)
    buckets = sum(sys.getsizeof(bucket) for bucket in chunks._buckets if bucket)
    assert buckets < 100_000 * 45 + 65_536 * 75
