"""A whole image as one stream of entries in one order, for comparing it with another: memory does not grow with it.

The order is that of listings: in every directory first what is no directory, by name, then the directories, each
followed by all that is in it. Volumes are at their mount points; what they hide is left out.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Set
from contextlib import ExitStack
from dataclasses import dataclass
from operator import attrgetter

from agent.depot.catalogue import LoadedImage
from agent.depot.store import Depot
from agent.errors import DamagedError
from agent.image.entry import DIRECTORY, HARDLINK, MORE, Chunk, Entry, FrameTable
from agent.image.frames import FrameReader
from agent.image.image_tree import file_volumes, mountpoint
from agent.image.listing import Listing, open_listing
from agent.model.image import Volume

BLOCK_BYTES = 1 << 20


@dataclass(slots=True)
class Item:
    """An entry with all its chunks. ``key`` sorts as the stream does."""

    key: bytes
    path: bytes  # from the system's root, with a slash before it
    entry: Entry  # of another name of a file what the file is
    chunks: list[Chunk]
    first_name: bytes  # of a hard link the path it is another name of; else nothing
    volume: OpenVolume


class OpenVolume:
    """Where the content of a volume's files is."""

    def __init__(self, depot: Depot, frames: FrameTable) -> None:
        self._depot, self._frames = depot, frames
        self._reader: FrameReader | None = None

    def blocks(self, item: Item) -> Iterator[bytes]:
        """The bytes of a file, 1 MiB at a time; holes as zeros."""
        self._reader = self._reader or FrameReader(self._depot, self._frames)
        place = 0
        for at in range(0, item.entry.size, BLOCK_BYTES):
            block = bytearray(min(BLOCK_BYTES, item.entry.size - at))
            # A chunk never crosses a multiple of 1 MiB when we cut it, but others may: it is looked at again.
            while place < len(item.chunks) and item.chunks[place].at < at + len(block):
                chunk = item.chunks[place]
                plain = self._reader.get(chunk.frame)[chunk.offset : chunk.offset + chunk.size]
                start, stop = max(chunk.at, at), min(chunk.at + chunk.size, at + len(block))
                block[start - at : stop - at] = plain[start - chunk.at : stop - chunk.at]
                if chunk.at + chunk.size > at + len(block):
                    break
                place += 1
            yield bytes(block)


def in_order(depot: Depot, loaded: LoadedImage, skip: Set[str] = frozenset()) -> Iterator[Item]:
    """Every entry of the image but those of the volumes ``skip`` (ids). Raises DamagedError out of order."""
    volumes = file_volumes(loaded)
    places = [os.fsencode(mountpoint(volume)) for volume in volumes]
    streams = [
        _volume(depot, loaded, volume, place, tuple(p for p in places if p.startswith(place + b"/")))
        for volume, place in zip(volumes, places, strict=True)
        if volume.id not in skip
    ]
    return heapq.merge(*streams, key=attrgetter("key"))


def _volume(
    depot: Depot, loaded: LoadedImage, volume: Volume, place: bytes, hidden: tuple[bytes, ...]
) -> Iterator[Item]:
    """One volume, without what lies at ``hidden`` paths or below."""
    with ExitStack() as stack:
        listing = stack.enter_context(open_listing(depot, loaded.manifest, volume))
        linked = _first_names(listing)
        firsts: dict[bytes, Item] = {}
        for item in _joined(depot, listing, place):
            if item.entry.type == HARDLINK:
                item = _resolved(item, firsts, place, listing.name)  # noqa: PLW2901 - the same path, said otherwise
            elif linked and item.path[len(place) + 1 :] in linked:
                firsts[item.path[len(place) + 1 :]] = item
            if hidden and (item.path in hidden or item.path.startswith(tuple(each + b"/" for each in hidden))):
                continue
            yield item


def _first_names(listing: Listing) -> Set[bytes]:
    """The names that hard links of the volume refer to."""
    return {entry.target_name for entry in listing.hard_links()}


def _joined(depot: Depot, listing: Listing, place: bytes) -> Iterator[Item]:
    """Entries with the chunks of all their lines, their order checked."""
    volume = OpenVolume(depot, listing.frames)
    folders = [(b"", _key_of(place))]  # the directories that lead here
    last: Item | None = None
    for entries in listing.entries():
        for entry in entries:
            if entry.type == MORE:
                if last is not None:
                    last.chunks.extend(entry.chunks)
                continue
            if last is not None:
                yield last
            name = entry.name
            parent, _, base = name.rpartition(b"/")
            while len(folders) > 1 and folders[-1][0] != parent:
                folders.pop()
            key = folders[-1][1] + _part(base, entry.type == DIRECTORY) if name else folders[0][1]
            if last is not None and key <= last.key:
                raise DamagedError(
                    f"{listing.name}, ‘{entry.path}’: is not in restore order", "capture the image again"
                )
            if entry.type == DIRECTORY and name:
                folders.append((name, key))
            path = place + b"/" + name if name else place or b"/"
            last = Item(key, path, entry, list(entry.chunks), b"", volume)
    if last is not None:
        yield last


def _resolved(item: Item, firsts: dict[bytes, Item], place: bytes, name: str) -> Item:
    target = item.entry.target_name
    first = firsts.get(target)
    if first is None:
        raise DamagedError(f"{name}, ‘{item.entry.path}’: is a hard link to what does not come before it")
    return Item(item.key, item.path, first.entry, first.chunks, place + b"/" + target, item.volume)


def _key_of(place: bytes) -> bytes:
    return b"".join(_part(part, True) for part in place.split(b"/") if part)


def _part(name: bytes, folder: bool) -> bytes:
    """What is no directory before directories; no name holds a NUL, so no name sorts into another one's children."""
    return (b"\2" if folder else b"\1") + name + b"\0"
