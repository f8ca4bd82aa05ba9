"""A listing that is held in memory says the same; a large one is read from its file as ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.depot.local import LocalDepot
from agent.image import listing as listing_module
from agent.image.at_once import unfolded
from agent.image.listing import FRAME_BYTES, Listing, open_listing
from tests.image.source_tree import Carried, carry, plain_tree

pytestmark = pytest.mark.root


@pytest.fixture
def carried(depot: LocalDepot, tmp_path: Path) -> Carried:
    tree = tmp_path / "tree"
    plain_tree(tree)
    for number in range(6000):
        (tree / f"etc/{number}.conf").write_text(f"{number}\n")
    return carry(tree, depot)


def everything(listing: Listing) -> tuple[object, ...]:
    blocks = b"".join(block for _, block in listing.entry_blocks())
    lines = [line for _, each in listing.entry_lines() for line in each]
    return blocks, lines, [entry for entries in listing.entries() for entry in entries]


@pytest.mark.parametrize("limit", [1000, 1 << 30])
def test_it_says_the_same(limit: int, carried: Carried, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_module, "KEPT_BYTES", limit)
    volume = carried.loaded.manifest.volumes[0]
    with open_listing(carried.depot, carried.loaded.manifest, volume) as listing:
        before = everything(listing)
        listing.keep()
        assert (listing._kept is not None) == (limit > 1000)
        assert everything(listing) == before
        with listing.apart() as own:
            assert everything(own) == before


def test_a_capture_writes_frames_that_are_unfolded_at_once(carried: Carried, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = carried.loaded.manifest.volumes[0]
    with open_listing(carried.depot, carried.loaded.manifest, volume) as listing:
        by_stream = list(listing._blocks())
        monkeypatch.setattr(listing_module, "_blocks", None)  # it would fail
        listing.keep()
        assert listing._kept is not None
        assert b"".join(block for _, block in listing._kept) == b"".join(block for _, block in by_stream)
        assert len(listing._kept) > 2
        assert all(len(block) <= FRAME_BYTES for _, block in listing._kept)


@pytest.mark.parametrize("frames", [None, [b"no end of a line"]])
def test_frames_of_another_kind_are_read_as_a_stream(
    frames: list[bytes] | None, carried: Carried, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One frame that does not say its size, as older versions wrote them, or lines that go over two frames."""
    monkeypatch.setattr(listing_module, unfolded.__name__, lambda *_: frames)
    volume = carried.loaded.manifest.volumes[0]
    with open_listing(carried.depot, carried.loaded.manifest, volume) as listing:
        before = everything(listing)
        listing.keep()
        assert listing._kept is not None
        assert everything(listing) == before
