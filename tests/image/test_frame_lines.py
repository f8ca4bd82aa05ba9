"""Frame lines of a listing: read all at once, they are refused as one by one, with the same words."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import DamagedError
from agent.image.entry import FrameLine, FrameTable
from agent.image.listing import _add_frame, _add_frames
from agent.image.pack import MAX_FRAME_BYTES, Frame

PACK_BYTES = [5000, 3000]
GOOD: list[FrameLine] = [
    (0, 0, 8, 100, 300, 0, "ab" * 32),
    (1, 0, 108, 50, 50, 1, "cd" * 32),
    (5, 1, 8, 2992, 9000, 0, "ef" * 32),
]
WRONG = (-1, 0, 2, 49, 51, 2993, 5001, MAX_FRAME_BYTES + 1, 2 * MAX_FRAME_BYTES + 1, 1 << 32, 1 << 63, 1 << 64)


def frames_in(table: FrameTable) -> list[tuple[int, Frame]]:
    return list(table)


def one_by_one(rows: list[FrameLine]) -> FrameTable:
    table = FrameTable(("a", "b"))
    for number, row in enumerate(rows, 2):
        _add_frame(table, row, f"listing line {number}", PACK_BYTES)
    return table


def all_at_once(rows: list[FrameLine]) -> FrameTable:
    table = FrameTable(("a", "b"))
    _add_frames(table, rows, PACK_BYTES, "listing", 2)
    return table


def test_good_ones_are_taken_as_they_are() -> None:
    table = all_at_once(GOOD)
    assert len(table) == 3
    assert frames_in(table) == frames_in(one_by_one(GOOD))
    assert table.get(5) == Frame(1, 8, 2992, 9000, False, bytes.fromhex("ef" * 32))
    assert frames_in(all_at_once([])) == []


def test_a_second_block_goes_on_behind_the_first() -> None:
    table = all_at_once(GOOD[:1])
    _add_frames(table, GOOD[1:], PACK_BYTES, "listing", 3)
    assert frames_in(table) == frames_in(one_by_one(GOOD))
    with pytest.raises(DamagedError, match="listing line 9: frame 5 is not in order"):
        _add_frames(table, GOOD[2:], PACK_BYTES, "listing", 9)


@pytest.mark.parametrize("digest", ["ab" * 31, "ab" * 33, "xy" * 32, ""])
def test_a_digest_that_is_none_is_refused(digest: str) -> None:
    with pytest.raises(DamagedError, match="listing line 3"):
        all_at_once([GOOD[0], (*GOOD[1][:6], digest)])


@given(st.sampled_from(range(3)), st.sampled_from(range(6)), st.sampled_from(WRONG))
def test_another_number_is_judged_alike(row: int, column: int, number: int) -> None:
    rows = [list(each) for each in GOOD]
    rows[row][column] = number
    changed = [cast(FrameLine, tuple(each)) for each in rows]
    found: list[object] = []
    for read in (one_by_one, all_at_once):
        try:
            found.append(frames_in(read(changed)))
        except DamagedError as error:
            found.append(str(error))
    assert found[0] == found[1]
