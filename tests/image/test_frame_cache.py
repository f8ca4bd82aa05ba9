"""Frames here and there: fetched once, ahead where reading goes forward, never more than is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.depot.store import pack_path
from agent.errors import DamagedError
from agent.image.frame_cache import AHEAD, FrameCache
from agent.image.image_tree import load_index
from tests.image.made_image import Content, MemoryDepot, entry, made_image, made_tree

FRAMES = 40
SIZE = 1000


@pytest.fixture
def depot() -> MemoryDepot:
    return MemoryDepot()


@pytest.fixture
def cache(depot: MemoryDepot) -> Iterator[FrameCache]:
    content = Content([bytes([number]) * SIZE for number in range(FRAMES)])
    index = load_index(depot, made_image(depot, {"/": []}, content))
    depot.asked.clear()
    found = FrameCache(depot, [root.frames for root in index.roots], limit_bytes=8 * SIZE)
    yield found
    found.close()


def test_frames_are_fetched_once(cache: FrameCache, depot: MemoryDepot) -> None:
    for _ in range(3):
        assert cache.get(0, 7) == bytes([7]) * SIZE
    assert len(depot.asked) == 1


def test_what_comes_next_is_fetched_ahead_in_one_piece(cache: FrameCache, depot: MemoryDepot) -> None:
    assert cache.get(0, 0)[0] == 0
    assert cache.get(0, 1)[0] == 1
    assert [cache.get(0, number)[0] for number in range(2, FRAMES)] == list(range(2, FRAMES))
    assert any(size == AHEAD * SIZE for _, _, size in depot.asked)
    assert len(depot.asked) < FRAMES


def test_it_keeps_no_more_than_it_may(cache: FrameCache) -> None:
    for number in (*range(FRAMES), *range(0, FRAMES, 7)):
        assert cache.get(0, number) == bytes([number]) * SIZE
        assert cache.held_bytes <= 8 * SIZE


def test_many_readers_get_what_they_asked_for(cache: FrameCache, depot: MemoryDepot) -> None:
    with ThreadPoolExecutor(8) as readers:
        found = list(readers.map(lambda number: cache.get(0, number % FRAMES)[0], range(400)))
    assert found == [number % FRAMES for number in range(400)]


def test_a_damaged_frame_spoils_no_other(cache: FrameCache, depot: MemoryDepot) -> None:
    (path,) = (path for path in depot.files if path.startswith("packs/"))
    data = bytearray(depot.files[path])
    data[3 * SIZE + 5] ^= 1
    depot.files[path] = bytes(data)
    for _ in range(2):
        assert [cache.get(0, number)[0] for number in (0, 1, 2)] == [0, 1, 2]
        with pytest.raises(DamagedError, match="frame 3"):
            cache.get(0, 3)
        assert [cache.get(0, number)[0] for number in (4, 5)] == [4, 5]


def test_a_pack_that_is_not_there_is_named(cache: FrameCache, depot: MemoryDepot) -> None:
    for path in [path for path in depot.files if path.startswith("packs/")]:
        del depot.files[path]
        with pytest.raises(DamagedError, match=path):
            cache.get(0, 1)
    assert pack_path("0" * 64) not in depot.files


def test_files_are_put_together_with_zeros_in_their_holes() -> None:
    content = Content()
    entries = [
        content.sparse("sparse", 3_000_000, {5: b"head", 1_048_570: b"across a", 2_999_990: b"the end..."}),
        content.file("z", b"whole"),
    ]
    tree = made_tree({"/": [*entries, entry("zz-hole", size=70_000)]}, content)
    expected = bytearray(3_000_000)
    expected[5:9], expected[1_048_570:1_048_578], expected[2_999_990:] = b"head", b"across a", b"the end..."
    node = tree.index.resolve(b"/sparse")
    assert node is not None
    assert b"".join(tree.content.blocks(node)) == expected == tree.read_bytes("/sparse")
    assert tree.content.read(node, 3, 4) == b"\0\0he" and tree.content.read(node, 2_999_998, 100) == b".."
    assert tree.content.read(node, 3_000_000, 10) == tree.content.read(node, 4_000_000, 10) == b""
    assert tree.read_bytes("/zz-hole") == bytes(70_000) and tree.read_bytes("/z") == b"whole"
    tree.content.close()
