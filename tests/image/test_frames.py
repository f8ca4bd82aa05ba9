"""Frames on their way out of packs, whole and in part."""

from __future__ import annotations

from pathlib import Path

import pytest
import zstandard
from blake3 import blake3

from agent.depot.local import LocalDepot
from agent.errors import DamagedError
from agent.image.entry import FrameTable
from agent.image.frames import FrameReader
from agent.image.pack import Frame
from tests.image.source_tree import random_bytes

PLAIN = b"".join(random_bytes(500) * 2 for _ in range(300))


@pytest.fixture
def reader(depot: LocalDepot) -> FrameReader:
    return made(depot, zstandard.ZstdCompressor().compress(PLAIN))


def made(depot: LocalDepot, stored: bytes) -> FrameReader:
    """A reader of a pack of two frames, the same twice."""
    folder: Path = depot.root / "packs/on"
    folder.mkdir()
    (folder / "one.pack").write_bytes(stored * 2)
    table = FrameTable(("one",))
    for number in range(2):
        table.add(number, Frame(0, number * len(stored), len(stored), len(PLAIN), False, blake3(stored).digest()))
    return FrameReader(depot, table)


def test_no_more_is_unfolded_than_is_wanted(reader: FrameReader) -> None:
    reader.want_parts({0: 1000, 1: 70_000})
    assert reader.get(0, 1000) == PLAIN[:1000]
    assert reader.get(1, 200) == PLAIN[:70_000]
    assert reader.get(1, 70_000) == PLAIN[:70_000]


def test_who_needs_more_than_was_wanted_gets_it(reader: FrameReader) -> None:
    reader.want_parts({0: 1000})
    assert reader.get(0, 1001) == PLAIN
    assert reader.get(0, 5) == PLAIN, "it is there"
    reader.want_parts({1: 1000})
    assert reader.get(1, 10) == PLAIN[:1000]
    assert reader.get(1) == PLAIN
    assert reader.get(1, 1000) == PLAIN


def test_wanted_whole_is_whole_whatever_was_wanted_before(reader: FrameReader) -> None:
    reader.want_parts({0: 1000})
    assert len(reader.get(0, 1000)) == 1000
    reader.want([0, 1])
    assert (reader.get(0), reader.get(1)) == (PLAIN, PLAIN)


def test_a_part_of_a_damaged_frame_is_refused(depot: LocalDepot) -> None:
    stored = bytearray(zstandard.ZstdCompressor().compress(PLAIN))
    reader = made(depot, bytes(stored))
    stored[-1] ^= 1  # far behind what is wanted
    (depot.root / "packs/on/one.pack").write_bytes(bytes(stored) * 2)
    reader.want_parts({0: 10})
    with pytest.raises(DamagedError, match="does not match its digest"):
        reader.get(0, 10)


def test_a_part_of_a_frame_that_ends_early_is_refused(depot: LocalDepot) -> None:
    """Its digest is right: it was made so."""
    reader = made(depot, zstandard.ZstdCompressor().compress(PLAIN)[:-40_000])
    reader.want_parts({0: 250_000})
    with pytest.raises(DamagedError, match=r"bytes 0 to [\d,]+: "):
        reader.get(0, 250_000)
