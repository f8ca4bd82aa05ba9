"""The map of used blocks: believed where it says free, and nowhere else."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import DamagedError
from agent.model.block_map import Run, joined, parts, used_runs

# As partclone 0.3.23 prints an NTFS of 64 MiB: the last cluster's worth, with the copy of the first sector, is absent.
NTFS = """\
# Domain logfile created by unset_name v0.3.23
# Source: n.img
# Offset: 0x00000000
# current_pos  current_status
0x03FFF000     ?
#      pos        size  status
0x00000000  0x00003000  +
0x00003000  0x00001000  ?
0x00004000  0x00013000  +
0x00017000  0x03FE8000  ?
"""
SIZE = 64 << 20


def test_what_the_map_does_not_speak_of_is_used() -> None:
    assert used_runs(NTFS, SIZE) == (Run(0, 0x3000), Run(0x4000, 0x13000), Run(0x3FFF000, 0x1000))


def test_a_hole_in_the_map_and_unknown_states_are_used() -> None:
    text = NTFS.replace("0x00003000  0x00001000  ?\n", "").replace("0x00013000  +", "0x00013000  -")
    assert used_runs(text, SIZE)[0] == Run(0, 0x17000)


def test_a_map_that_reaches_beyond_the_device_is_cut() -> None:
    assert used_runs(NTFS, 0x10000) == (Run(0, 0x3000), Run(0x4000, 0xC000))
    assert used_runs(NTFS, 0x3800) == (Run(0, 0x3000),)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (NTFS, "", "is empty"),
        ("0x00017000  0x03FE8000  ?\n", "0x00016000  0x1000  ?\n", "line 10 .* ends at byte 94,208"),
        ("0x00013000  +", "0x00013000", "line 9"),
        ("0x00013000  +", "many  +", "line 9"),
        ("0x00013000  +", "0x00013000  free", "line 9"),
        ("0x00013000  +", "-0x1000  +", "line 9"),
    ],
)
def test_a_map_that_is_none_is_refused(old: str, new: str, said: str) -> None:
    with pytest.raises(DamagedError, match=said):
        used_runs(NTFS.replace(old, new), SIZE)


UNIT = 512


def laid_out(pairs: list[tuple[int, int]]) -> list[Run]:
    found, at = [], 0
    for gap, size in pairs:
        at += gap * UNIT
        found.append(Run(at, size * UNIT))
        at += size * UNIT
    return found


RUNS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), max_size=30).map(laid_out)


def bytes_of(runs: list[Run] | tuple[Run, ...]) -> set[int]:
    return {unit for run in runs for unit in range(run.at // UNIT, run.end // UNIT)}


@given(RUNS, st.integers(0, 30))
def test_joining_adds_small_gaps_and_nothing_else(runs: list[Run], gap: int) -> None:
    found = joined(runs, gap * UNIT)
    assert bytes_of(runs) <= bytes_of(found)
    spaces = [after.at - before.end for before, after in pairwise(found)]
    assert all(space >= gap * UNIT for space in spaces)
    small = [after.at - before.end for before, after in pairwise(runs)]
    added = sum(space for space in small if space < gap * UNIT)
    assert len(bytes_of(found) - bytes_of(runs)) == added // UNIT
    if runs:
        assert (found[0].at, found[-1].end) == (runs[0].at, runs[-1].end)


@given(RUNS, st.integers(1, 50))
def test_parts_hold_every_byte_once_and_none_reaches_out(runs: list[Run], units: int) -> None:
    size = units * UNIT
    cut = list(parts(runs, size))
    assert bytes_of([run for _, inside in cut for run in inside]) == bytes_of(runs)
    assert cut[0][0] == 0
    assert [at for at, _ in cut] == sorted({at for at, _ in cut})
    for at, inside in cut:
        assert at % size == 0
        assert all(at <= run.at and run.end <= at + size for run in inside)
        assert inside or at == 0
