"""How large each wanted partition becomes on a disk, and where it starts.

The source's geometry where nothing has to move; else every start on a whole MiB, in the source's order:
grown on a larger disk, shrunk towards what the volumes hold on a smaller one. Volumes of blocks stay where they were
on a larger disk too, up to the one that grows: a system that is not adapted may remember its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agent.errors import DoesNotFitError
from agent.model.filesystem_size import MIB
from agent.model.grow import Grow, favoured, shares
from agent.model.storage import Disk
from agent.model.wanted import Wanted
from agent.model.wording import size_text

ALIGN_BYTES = MIB
MBR_SECTORS = 1 << 32
GPT_TABLE_BYTES = 16384  # 128 entries; the backup lies at the end of the disk, its header in the last sector


@dataclass(frozen=True, slots=True)
class Placed:
    want: Wanted
    start_bytes: int
    size_bytes: int

    @property
    def end_bytes(self) -> int:
        return self.start_bytes + self.size_bytes


def last_usable_bytes(table: str, disk: Disk) -> int:
    """One past the last byte that a partition may use."""
    if table == "mbr":
        return min(disk.size_bytes, MBR_SECTORS * disk.logical_sector_bytes)
    return disk.size_bytes - GPT_TABLE_BYTES - disk.logical_sector_bytes


def place(
    wanted: Sequence[Wanted], main: Disk | None, table: str, disk: Disk, grow: Grow
) -> tuple[list[Placed], list[str]]:
    """Every partition in its place, in order, and notes on what was left out. Raises DoesNotFitError."""
    favoured(wanted, grow)  # a name that nothing has is refused on any disk
    kept = _source_places(wanted, main, table, disk) or _stretched_places(wanted, main, table, disk, grow)
    if kept is not None:
        return kept, []
    room = last_usable_bytes(table, disk) // ALIGN_BYTES * ALIGN_BYTES - ALIGN_BYTES
    fitting, notes = _without_what_may_go(wanted, room)
    sizes = _sizes(fitting, room, disk, grow, larger=main is None or disk.size_bytes > main.size_bytes)
    placed: list[Placed] = []
    at = ALIGN_BYTES
    for want in _in_order(fitting):
        at += ALIGN_BYTES * want.logical  # the sector with its own table, before it
        placed.append(Placed(want, at, sizes[want.number]))
        at += sizes[want.number]
    return _numbered(placed), notes


def _source_places(wanted: Sequence[Wanted], main: Disk | None, table: str, disk: Disk) -> list[Placed] | None:
    """The source's own geometry, if the disk is not larger, reads sectors of that size, and all of it fits."""
    if (
        main is None
        or table != main.table
        or main.logical_sector_bytes != disk.logical_sector_bytes
        or disk.size_bytes > main.size_bytes
        or any(want.full_bytes > want.source_bytes for want in wanted)
    ):
        return None
    own = {(part.number, part.start_bytes) for part in main.partitions}
    moved = [
        want
        for want in wanted
        if (want.number, want.start_bytes) not in own
        or want.start_bytes % ALIGN_BYTES
        or want.start_bytes < ALIGN_BYTES
        or want.source_bytes % disk.logical_sector_bytes
        or want.start_bytes + want.source_bytes > last_usable_bytes(table, disk)
    ]
    return None if moved else [Placed(want, want.start_bytes, want.source_bytes) for want in _in_order(wanted)]


def _stretched_places(
    wanted: Sequence[Wanted], main: Disk | None, table: str, disk: Disk, grow: Grow
) -> list[Placed] | None:
    """The source's geometry on a larger disk, where volumes are blocks: what lies behind one that grows moves by as
    much."""
    if (
        main is None
        or table != main.table
        or main.logical_sector_bytes != disk.logical_sector_bytes
        or disk.size_bytes < main.size_bytes
        or not any(want.blocks for want in wanted)
        or any(want.full_bytes > want.source_bytes for want in wanted)
    ):
        return None
    own = {(part.number, part.start_bytes) for part in main.partitions}
    sector = disk.logical_sector_bytes
    first = sector if table == "mbr" else GPT_TABLE_BYTES + 2 * sector  # behind the table
    if any(
        want.logical or (want.number, want.start_bytes) not in own or want.start_bytes % sector
        or want.source_bytes % sector or want.start_bytes < first
        for want in wanted
    ):  # fmt: skip
        return None
    end = max(want.start_bytes + want.source_bytes for want in wanted)
    room = last_usable_bytes(table, disk) - end
    if room < 0:
        return None
    more = min(room, disk.size_bytes - main.size_bytes) // ALIGN_BYTES * ALIGN_BYTES
    added = shares(wanted, more, grow)
    placed, moved = [], 0
    for want in _in_order(wanted):
        placed.append(Placed(want, want.start_bytes + moved, want.source_bytes + added.get(want.number, 0)))
        moved += added.get(want.number, 0)
    return placed


def _without_what_may_go(wanted: Sequence[Wanted], room: int) -> tuple[list[Wanted], list[str]]:
    """Partitions of unknown content go when there is too little room, then swap if even its smallest is too much."""
    kept, notes = list(wanted), []
    for swap in (False, True):
        if sum(_smallest(want) for want in kept) <= room:
            break
        going = [want for want in kept if want.may_go and (want.purpose == "swap") == swap]
        notes += [f"{want.name} ({size_text(want.source_bytes)}) is left out: there is no room" for want in going]
        kept = [want for want in kept if want not in going]
    return kept, notes


def _sizes(wanted: Sequence[Wanted], room: int, disk: Disk, grow: Grow, *, larger: bool) -> dict[int, int]:
    """Sizes by partition number, whole MiB."""
    available = room - ALIGN_BYTES * sum(want.logical for want in wanted)
    full = {want.number: _up(want.full_bytes) for want in wanted}
    small = {want.number: min(_up(want.minimum_bytes), full[want.number]) for want in wanted}
    left = available - sum(small.values())
    if left < 0:
        raise _does_not_fit(wanted, small, available, disk)
    spare = available - sum(full.values())
    if spare < 0:
        over = sum(full.values()) - sum(small.values())
        full = {
            number: small[number] + (size - small[number]) * left // over // ALIGN_BYTES * ALIGN_BYTES
            for number, size in full.items()
        }
        spare = available - sum(full.values())  # what the rounding left over
        larger, grow = True, Grow()
    for number, more in (shares(wanted, spare, grow) if larger else {}).items():
        full[number] += more
    return full


def _does_not_fit(wanted: Sequence[Wanted], small: Mapping[int, int], available: int, disk: Disk) -> DoesNotFitError:
    lines = [
        f"  {want.name}: needs {size_text(small[want.number])}"
        + (f", holds {size_text(want.filesystem.used_bytes)}" if want.volume and want.filesystem else "")
        + (f", all {want.source_bytes:,} bytes of it: a volume of blocks cannot shrink" if want.blocks else "")
        for want in wanted
    ]
    needed = sum(small.values())
    return DoesNotFitError(
        f"disk {disk.name} (serial {disk.serial or '-'}, {size_text(disk.size_bytes)}) has "
        f"{size_text(max(available, 0))} for partitions, the image needs {size_text(needed)}:\n" + "\n".join(lines),
        f"choose a disk that is at least {size_text(needed - available)} larger",
    )


def _in_order(wanted: Sequence[Wanted]) -> list[Wanted]:
    """By place on the source; logical partitions together, where the first of them was."""
    first = min((want.start_bytes for want in wanted if want.logical), default=0)
    return sorted(
        wanted, key=lambda want: (first if want.logical else want.start_bytes, want.logical * want.start_bytes)
    )


def _numbered(placed: Sequence[Placed]) -> list[Placed]:
    """Logical partitions are numbered from 5 in the order of their chain: there is no choice."""
    numbers = iter(range(5, 5 + len(placed)))
    return [
        replace(each, want=replace(each.want, number=next(numbers))) if each.want.logical else each for each in placed
    ]


def _smallest(want: Wanted) -> int:
    size = want.source_bytes if want.may_go and want.purpose != "swap" else want.minimum_bytes
    return _up(size) + ALIGN_BYTES * want.logical


def _up(size_bytes: int) -> int:
    return -(-size_bytes // ALIGN_BYTES) * ALIGN_BYTES
