"""Compares the files of two images: both listings pass by in the same order, content only where digests cannot tell."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from typing import IO

import msgspec

from agent.depot.catalogue import LoadedImage
from agent.depot.store import Depot
from agent.image.entry import DIRECTORY, FILE, text_and_raw
from agent.image.image_tree import file_volumes, mountpoint
from agent.image.ordered import Item, in_order
from agent.model.image_changes import ADDED, CHANGED, REMOVED, Counts, FileChange

SPOOL_BYTES = 8 << 20
Pair = tuple[Item | None, Item | None]


class FileChanges:
    """The changes, in order of the listings, as often as they are asked for; kept in a file when they are many."""

    def __init__(self, spool: IO[bytes]) -> None:
        self._spool = spool
        self._encoder = msgspec.json.Encoder()
        self._retyped: set[tuple[str, str]] = set()  # told again as one change, when its other half came
        self.configuration, self.files = Counts(), Counts()

    def __iter__(self) -> Iterator[FileChange]:
        self._spool.seek(0)
        decoder = msgspec.json.Decoder(FileChange)
        for line in self._spool:
            change = decoder.decode(line)
            if change.op == CHANGED or (change.raw or change.path, change.op) not in self._retyped:
                yield change

    def add(self, change: FileChange) -> None:
        self._counts(change).add(change)
        self._spool.write(self._encoder.encode(change) + b"\n")

    def take_back(self, change: FileChange) -> None:
        """It was only half of a change of type."""
        self._counts(change).add(change, -1)
        self._retyped.add((change.raw or change.path, change.op))

    def _counts(self, change: FileChange) -> Counts:
        return self.configuration if change.is_configuration else self.files


@contextmanager
def file_changes(depot: Depot, old: LoadedImage, new: LoadedImage) -> Iterator[FileChanges]:
    """What was added, removed and changed from one image of a depot to another."""
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
        found = FileChanges(spool)
        same = _same_volumes(old, new)
        _compare(_pairs(in_order(depot, old, same[0]), in_order(depot, new, same[1])), found)
        yield found


def _same_volumes(old: LoadedImage, new: LoadedImage) -> tuple[set[str], set[str]]:
    """Volumes that need no look, as ids in either image: their listings are the same, and so are all mount points."""
    before = {mountpoint(volume): volume for volume in file_volumes(old)}
    after = {mountpoint(volume): volume for volume in file_volumes(new)}
    if before.keys() != after.keys():
        return set(), set()
    same = [place for place, volume in before.items() if volume.listing == after[place].listing]
    return {before[place].id for place in same}, {after[place].id for place in same}


def _pairs(old: Iterator[Item], new: Iterator[Item]) -> Iterator[Pair]:
    one, other = next(old, None), next(new, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one.key < other.key):
            yield one, None
            one = next(old, None)
        elif one is None or other.key < one.key:
            yield None, other
            other = next(new, None)
        else:
            yield one, other
            one, other = next(old, None), next(new, None)


def _compare(pairs: Iterator[Pair], found: FileChanges) -> None:
    """A directory that took the place of a file, or the reverse, comes after it: both halves become one change."""
    halves: list[tuple[bytes, dict[bytes, FileChange]]] = []  # of the directories that lead here, what is one-sided
    whole = b"\0"  # a directory that is one-sided itself: so is all that is in it, and nothing there has a half
    for one, other in pairs:
        item = other or one
        assert item is not None
        parent = item.path.rpartition(b"/")[0]
        while halves and not (parent + b"/").startswith(halves[-1][0] + b"/"):
            halves.pop()
        if one is not None and other is not None:
            if differences := tuple(_differences(one, other)):
                found.add(_change(other, CHANGED, differences, one))
            continue
        change = _change(item, ADDED if one is None else REMOVED)
        if not halves or halves[-1][0] != parent:
            halves.append((parent, {}))
        first = halves[-1][1].pop(item.path, None)
        if first is not None and first.op != change.op:
            found.take_back(first)
            change = _retyped(first, change)
        elif item.entry.type != DIRECTORY and not item.path.startswith(whole):
            halves[-1][1][item.path] = change
        if item.entry.type == DIRECTORY and not item.path.startswith(whole):
            whole = item.path + b"/"
        found.add(change)


def _change(item: Item, op: str, differences: tuple[str, ...] = (), old: Item | None = None) -> FileChange:
    path, raw = text_and_raw(item.path)
    size = item.entry.size if item.entry.type == FILE else 0
    old_type = old.entry.type if old is not None and old.entry.type != item.entry.type else ""
    old_size = old.entry.size if old is not None and old.entry.type == FILE else 0
    if op == REMOVED:
        size, old_size = 0, size
    return FileChange(
        path=path, raw=raw, op=op, type=item.entry.type, differences=differences, old_type=old_type, old_size=old_size,
        size=size,
    )  # fmt: skip


def _retyped(one: FileChange, other: FileChange) -> FileChange:
    old, new = (one, other) if one.op == REMOVED else (other, one)
    return FileChange(
        path=new.path, raw=new.raw, op=CHANGED, type=new.type, differences=("type",), old_type=old.type,
        old_size=old.old_size, size=new.size,
    )  # fmt: skip


def _differences(one: Item, other: Item) -> Iterator[str]:
    """What is not the same about one path."""
    old, new = one.entry, other.entry
    if old.type != new.type:
        yield "type"
    else:
        if old.type == FILE and not _same_content(one, other):
            yield "content"
        if old.target_name != new.target_name:
            yield "target"
        if old.device != new.device:
            yield "device"
    if old.mode != new.mode:
        yield "mode"
    if (old.uid, old.gid) != (new.uid, new.gid):
        yield "owner"
    if old.mtime != new.mtime:
        yield "time"
    if (old.xattrs or {}) != (new.xattrs or {}):
        yield "attributes"
    if old.flags != new.flags:
        yield "flags"
    if one.first_name != other.first_name:
        yield "hard-links"


def _same_content(one: Item, other: Item) -> bool:
    if one.entry.size != other.entry.size:
        return False
    if [(chunk.at, chunk.id) for chunk in one.chunks] == [(chunk.at, chunk.id) for chunk in other.chunks]:
        return True
    places = [(chunk.at, chunk.size) for chunk in one.chunks]
    if places == [(chunk.at, chunk.size) for chunk in other.chunks]:
        return False
    # Holes may be elsewhere: the same zeros can be written in one image and a hole in the other.
    blocks = zip_longest(one.volume.blocks(one), other.volume.blocks(other))
    return all(before == after for before, after in blocks)
