"""Which bytes of a partition are used: runs, as a file system's own bitmap has them.

    partclone -D ──► map of GNU ddrescue ──► used runs ──► joined ──► parts for the workers

The map is believed only where it says that something is free: what it does not speak of counts as used. So the last
sector of an NTFS, a copy of its first that lies behind the last cluster, travels too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agent.errors import DamagedError

FREE = "?"  # GNU ddrescue's manual, "Mapfile structure": non-tried; partclone writes it for free blocks
STATES = frozenset("?*/-+")
_POSITION_FIELDS = (2, 3)  # current_pos, current_status, and in newer ones the pass


@dataclass(frozen=True, slots=True, order=True)
class Run:
    """Bytes from ``at``, ``size`` of them."""

    at: int
    size: int

    @property
    def end(self) -> int:
        return self.at + self.size


def used_runs(map_text: str, size_bytes: int) -> tuple[Run, ...]:
    """Used runs of a device of ``size_bytes``, ascending, with free bytes between them. Raises DamagedError."""
    free, reached = [], 0
    for number, fields in _rows(map_text):
        try:
            at, size = int(fields[0], 16), int(fields[1], 16)
        except (ValueError, IndexError):
            raise _damaged(number, "is no ‘position size status’") from None
        if len(fields) != 3 or fields[2] not in STATES or at < reached or size < 0:
            raise _damaged(number, f"does not follow what ends at byte {reached:,}")
        reached = at + size
        if fields[2] == FREE:
            free.append(Run(at, size))
    return tuple(_between(free, size_bytes))


def _rows(map_text: str) -> Iterator[tuple[int, list[str]]]:
    """Numbered lines of the table; comments and the line with the current position come before it."""
    lines = [(number, line.split()) for number, line in enumerate(map_text.splitlines(), 1)]
    rows = [(number, fields) for number, fields in lines if fields and not fields[0].startswith("#")]
    if len(rows) < 2 or len(rows[0][1]) not in _POSITION_FIELDS:
        raise DamagedError("the map of used blocks is empty, expected a current position and at least one run")
    return iter(rows[1:])


def _damaged(number: int, what: str) -> DamagedError:
    return DamagedError(f"line {number} of the map of used blocks {what}", "check the file system, then try again")


def _between(free: Iterable[Run], size_bytes: int) -> Iterator[Run]:
    reached = 0
    for run in free:
        if run.at >= size_bytes:
            break
        if run.at > reached:
            yield Run(reached, run.at - reached)
        reached = run.end
    if reached < size_bytes:
        yield Run(reached, size_bytes - reached)


def joined(runs: Iterable[Run], gap_bytes: int) -> tuple[Run, ...]:
    """Runs with gaps below ``gap_bytes`` filled: a chunk for every cluster would cost more than the gaps do."""
    found: list[Run] = []
    for run in runs:
        if found and run.at - found[-1].end < gap_bytes:
            found[-1] = Run(found[-1].at, run.end - found[-1].at)
        else:
            found.append(run)
    return tuple(found)


def parts(runs: Iterable[Run], part_bytes: int) -> Iterator[tuple[int, list[Run]]]:
    """(where a part begins, the runs in it), for the first part and every other that has some."""
    at, inside = 0, list[Run]()
    for run in runs:
        start = run.at
        while start < run.end:
            begins = start // part_bytes * part_bytes
            if begins != at:
                yield at, inside
                at, inside = begins, []
            stop = min(run.end, begins + part_bytes)
            inside.append(Run(start, stop - start))
            start = stop
    yield at, inside
