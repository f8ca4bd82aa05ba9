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
from agent.image.listing import open_listing
from agent.image.pack import CHUNK_BYTES, FRAME_BYTES, Frame
from agent.image.workers import default_jobs
from tests.image.source_tree import carry, random_bytes

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


@pytest.mark.root
def test_frames_of_small_files_are_closed_once_they_hold_so_much(depot: LocalDepot, tmp_path: Path) -> None:
    """Of a large file each chunk is one; what a worker has at its end may be less."""
    tree = tmp_path / "tree"
    tree.mkdir()
    sizes = range(50_000, 50_060)
    for size in sizes:
        (tree / f"{size}").write_bytes(random_bytes(size))
    (tree / "large").write_bytes(random_bytes(2 * CHUNK_BYTES))
    carried = carry(tree, depot)
    with open_listing(depot, carried.loaded.manifest, carried.loaded.manifest.volumes[0]) as listing:
        plain = [frame.plain for _, frame in listing.frames]
    assert sum(plain) == sum(sizes) + 2 * CHUNK_BYTES
    full = [each for each in plain if FRAME_BYTES <= each < FRAME_BYTES + max(sizes)]
    assert plain.count(CHUNK_BYTES) == 2
    assert len(full) >= sum(sizes) // (FRAME_BYTES + max(sizes)) - default_jobs()
    assert len(plain) - 2 - len(full) <= default_jobs()
