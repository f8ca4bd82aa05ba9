"""The text of a volume group as LVM itself keeps it, for vgcfgrestore: only so do group and volumes get UUIDs back.

Format: lvm2, lib/format_text (as `vgcfgbackup` writes it); sizes and places are in sectors of 512 bytes and in extents.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from agent.errors import RefusedError
from agent.model.plan import PlannedGroup

SECTOR = 512
# lvm(8), "VALID NAMES"; no name is one of a path's dots.
_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9+_.][A-Za-z0-9+_.-]{0,126}")
_UUID = re.compile(r"[A-Za-z0-9]{6}(?:-[A-Za-z0-9]{4}){5}-[A-Za-z0-9]{6}")
_RESERVED = re.compile(r"(snapshot|pvmove).*|.*_(mlog|mimage|rimage|rmeta|tdata|tmeta|cdata|cmeta|vorigin|pmspare)")


def metadata(group: PlannedGroup) -> str:
    """The group with every volume laid linearly over its physical volumes, in their order.

    Raises RefusedError for names and UUIDs that LVM does not know: they come from an image.
    """
    _refuse_bad_words(group)
    return "\n".join(['contents = "Text Format Volume Group"', "version = 1", "", *_group(group), ""])


def segments(group: PlannedGroup) -> dict[str, list[tuple[int, int, int]]]:
    """Of every logical volume, its pieces: (number of the physical volume, first extent there, extents)."""
    found: dict[str, list[tuple[int, int, int]]] = {}
    number, used = 0, 0
    for volume in group.logical:
        pieces, left = [], volume.extents
        while left:
            while number < len(group.physical) and used == group.physical[number].extents:
                number, used = number + 1, 0
            if number == len(group.physical):
                raise RefusedError(f"volume group {group.name} has fewer extents than its volumes need")
            count = min(left, group.physical[number].extents - used)
            pieces.append((number, used, count))
            used, left = used + count, left - count
        found[volume.name] = pieces
    return found


def _refuse_bad_words(group: PlannedGroup) -> None:
    names = (group.name, *(volume.name for volume in group.logical))
    bad = [name for name in names if not _NAME.fullmatch(name) or _RESERVED.fullmatch(name)]
    uuids = (group.uuid, *(volume.uuid for volume in group.logical), *(each.uuid for each in group.physical))
    bad += [uuid for uuid in uuids if not _UUID.fullmatch(uuid)]
    if bad or len(set(names[1:])) != len(names[1:]):
        raise RefusedError(
            f"‘{bad[0] if bad else group.name}’ is no name or UUID that LVM allows", "the image's stack is not usable"
        )


def _group(group: PlannedGroup) -> Iterator[str]:
    yield f"{group.name} {{"
    yield f'id = "{group.uuid}"'
    yield "seqno = 1"
    yield 'format = "lvm2"'
    yield 'status = ["RESIZEABLE", "READ", "WRITE"]'
    yield "flags = []"
    yield f"extent_size = {group.extent_bytes // SECTOR}"
    yield from ("max_lv = 0", "max_pv = 0", "metadata_copies = 0")
    yield "physical_volumes {"
    for number, physical in enumerate(group.physical):
        yield f"pv{number} {{"
        yield f'id = "{physical.uuid}"'
        yield 'status = ["ALLOCATABLE"]'
        yield "flags = []"
        yield f"dev_size = {physical.size_bytes // SECTOR}"
        yield f"pe_start = {physical.offset_bytes // SECTOR}"
        yield f"pe_count = {physical.extents}"
        yield "}"
    yield "}"
    if group.logical:
        yield "logical_volumes {"
        for name, pieces in segments(group).items():
            uuid = next(volume.uuid for volume in group.logical if volume.name == name)
            yield from _volume(name, uuid, pieces)
        yield "}"
    yield "}"


def _volume(name: str, uuid: str, pieces: list[tuple[int, int, int]]) -> Iterator[str]:
    yield f"{name} {{"
    yield f'id = "{uuid}"'
    yield 'status = ["READ", "WRITE", "VISIBLE"]'
    yield "flags = []"
    yield f"segment_count = {len(pieces)}"
    start = 0
    for number, (physical, first, count) in enumerate(pieces, 1):
        yield f"segment{number} {{"
        yield f"start_extent = {start}"
        yield f"extent_count = {count}"
        yield 'type = "striped"'
        yield "stripe_count = 1"
        yield f'stripes = ["pv{physical}", {first}]'
        yield "}"
        start += count
    yield "}"
