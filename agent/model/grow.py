"""Who gets the space that a larger disk has: the operator's policy, and whom it favours. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.errors import UsageError
from agent.model.filesystem_size import MIB
from agent.model.wanted import Wanted
from agent.model.wording import printable

LARGEST, LAST, PROPORTIONAL, NONE = "largest", "last", "proportional", "none"
KINDS = (LARGEST, LAST, PROPORTIONAL, NONE)
GROWING_BLOCKS = frozenset({"ntfs"})  # what a tool can make larger where it lies
EXPECTED = f"{', '.join(KINDS)}, or a mount point or volume such as /srv"


@dataclass(frozen=True, slots=True)
class Grow:
    """A policy: one of KINDS, or the one volume that grows, by its mount point or id."""

    kind: str = LARGEST
    name: str = ""

    def __str__(self) -> str:
        return self.name or self.kind


def parse_grow(text: str) -> Grow:
    """``last``, ``proportional``, ``/srv``, ``root``; "" is the default. Raises UsageError."""
    if text in ("", *KINDS):
        return Grow(text or LARGEST)
    if not text.isprintable() or len(text) > 255:
        raise UsageError(f"grow policy ‘{printable(text, 80)}’ is not understood; expected {EXPECTED}")
    return Grow("", text)


def shares(wanted: Sequence[Wanted], spare_bytes: int, grow: Grow) -> dict[int, int]:
    """Bytes that are added to partitions, by number; whole MiB. Raises UsageError for a name that nothing has."""
    growing = favoured(wanted, grow)
    if not growing or spare_bytes <= 0:
        return {}
    if grow.kind != PROPORTIONAL:
        return {growing[0].number: spare_bytes}
    whole = sum(want.source_bytes for want in growing)
    found = {want.number: spare_bytes * want.source_bytes // whole // MIB * MIB for want in growing}
    found[growing[0].number] += spare_bytes - sum(found.values())
    return found


def favoured(wanted: Sequence[Wanted], grow: Grow) -> list[Wanted]:
    """Those that grow, the largest first; of equals the last. A boot partition only where nothing else can."""
    able = [want for want in wanted if want.filesystem and want.volume and want.filesystem.kind != "vfat"]
    able += [want for want in wanted if want.above or (want.blocks and want.blocks.kind in GROWING_BLOCKS)]
    if grow.name:
        return [_named(wanted, able, grow.name)] if able else []
    able = [want for want in able if want.name != "/boot"] or able
    if grow.kind == NONE or not able:
        return []
    if grow.kind == LAST:
        return [max(able, key=lambda want: want.start_bytes)]
    ordered = sorted(able, key=lambda want: (want.source_bytes, want.start_bytes), reverse=True)
    return ordered if grow.kind == PROPORTIONAL else ordered[:1]


def _named(wanted: Sequence[Wanted], able: Sequence[Wanted], name: str) -> Wanted:
    for want in able:
        if name in names_of(want):
            return want
    known = sorted({each for want in able for each in _mountpoints_above(want) or [want.name]})
    there = any(name in names_of(want) for want in wanted)
    raise UsageError(
        f"‘{printable(name, 80)}’ {'cannot grow' if there else 'is no volume of the image'}; "
        f"those that can: {', '.join(known)}",
        f"expected {EXPECTED}",
    )


def names_of(want: Wanted) -> Mapping[str, None]:
    """What a policy may call it."""
    mountpoints = (each.mountpoint for each in want.subvolumes if each.mountpoint)
    return dict.fromkeys([want.name, *want.volumes, *want.above, *mountpoints])


def _mountpoints_above(want: Wanted) -> list[str]:
    return [name for name in want.above if name.startswith("/")]
