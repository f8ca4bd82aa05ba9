"""The machine's last image of one volume, read beside the walk: both go in the same order, so nothing is searched.

A file that is where it was, with the inode, size and times it had, is taken over without being opened (`stamps` says
why that is enough). What the image itself lists as not whole is read again: its entry has the size and the stamp of the
file all the same, and nothing but a hole where it could not be read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import msgspec

from agent.depot.catalogue import LoadedImage
from agent.depot.store import Depot
from agent.image.entry import DIRECTORY, FILE, HARDLINK, MORE, Chunk, Entry
from agent.image.listing import Listing, open_listing
from agent.image.metadata import TYPE_OF
from agent.image.stamps import NONE, Stamp, read_stamps
from agent.image.system_path import printed, system_path
from agent.model.image import Manifest, Volume


class Known(NamedTuple):
    """An entry of the last image. ``more``: the lines that continue a large file."""

    folder: bytes  # as `folder_key`
    last: bytes  # name in it; "" is the folder itself
    entry: Entry
    more: list[Entry]
    stamp: Stamp


def folder_key(name: bytes) -> bytes:
    """Directories in the order of the walk sort by this: what is in one comes before its neighbour."""
    return name.replace(b"/", b"\0")


class Previous:
    """Ask in the order of the walk, each name once."""

    def __init__(self, known: Iterator[Known], mountpoint: str = "/", unsound: frozenset[str] = frozenset()) -> None:
        """``unsound``: paths that the image lists as not whole, as it prints them."""
        self._known = known
        self._mountpoint = mountpoint
        self._unsound = unsound
        self._next = next(known, None)

    def unchanged(self, folder: bytes, last: bytes, found: os.stat_result) -> Known | None:
        """What the last image holds of a name, when it is still that."""
        place = (folder, last)
        known = self._next
        while known is not None and known[:2] < place:
            known = next(self._known, None)
        self._next = known
        if known is None or known[:2] != place or not _is_still(known.entry, known.stamp, found):
            return None
        return None if self._is_unsound(known.entry) else known

    def _is_unsound(self, entry: Entry) -> bool:
        return bool(self._unsound) and printed(system_path(self._mountpoint, entry.name)) in self._unsound


def _is_still(entry: Entry, stamp: Stamp, found: os.stat_result) -> bool:
    return (
        stamp == (found.st_ino, found.st_ctime_ns)
        and entry.type == TYPE_OF.get(stat.S_IFMT(found.st_mode))
        and entry.mtime == found.st_mtime_ns
        and (entry.type != FILE or entry.size == found.st_size)
        and entry.mode == stat.S_IMODE(found.st_mode)
        and (entry.uid, entry.gid) == (found.st_uid, found.st_gid)
    )


@contextmanager
def open_previous(
    depot: Depot, image: LoadedImage, volume: Volume, filesystem: str, moved: Mapping[int, int]
) -> Iterator[Previous | None]:
    """The last image of a volume; None where nothing can be taken over from it.

    ``moved``: frames that have another number in the new image, or -1, in none.
    """
    stamps = read_stamps(depot, image, volume, filesystem)
    if stamps is None:
        yield None
        return
    with open_listing(depot, image.manifest, volume) as listing:
        known = _with_frames(_known(listing, stamps), moved)
        yield Previous(known, volume.filesystem.mountpoint or "/", _unsound(image.manifest))


def _unsound(manifest: Manifest) -> frozenset[str]:
    """What holds not all of its file; of files that changed meanwhile some are listed, and their ctime tells of all."""
    return frozenset((*(each.path for each in manifest.unreadable), *manifest.changed_while_read))


def _known(listing: Listing, stamps: Iterator[Stamp]) -> Iterator[Known]:
    parent, folder = b"", b""
    held: Known | None = None  # a large file, whose lines may go on
    for block in listing.entries():
        for entry in block:
            if entry.type == MORE:
                assert held is not None  # the listing was checked
                held.more.append(entry)
                continue
            if held is not None:
                yield held
            stamp = next(stamps, NONE)
            name = entry.name
            if entry.type == DIRECTORY:
                held = Known(folder_key(name), b"", entry, [], stamp)
                continue
            above, _, last = name.rpartition(b"/")
            if above != parent:
                parent, folder = above, folder_key(above)
            held = Known(folder, last, entry, [], NONE if entry.type == HARDLINK else stamp)
    if held is not None:
        yield held


def _with_frames(known: Iterator[Known], moved: Mapping[int, int]) -> Iterator[Known]:
    """The same with the frames' new numbers, without files whose frames are gone."""
    if not moved:
        yield from known
        return
    for each in known:
        lines = [each.entry, *each.more]
        frames = {moved.get(chunk.frame, chunk.frame) for line in lines for chunk in line.chunks}
        if -1 not in frames:
            entry, *more = [msgspec.structs.replace(line, chunks=_renumbered(line, moved)) for line in lines]
            yield each._replace(entry=entry, more=more)


def _renumbered(entry: Entry, moved: Mapping[int, int]) -> tuple[Chunk, ...]:
    return tuple(msgspec.structs.replace(chunk, frame=moved.get(chunk.frame, chunk.frame)) for chunk in entry.chunks)
