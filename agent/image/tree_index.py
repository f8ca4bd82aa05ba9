"""Every entry of an image by path and by number, in memory that stays small: some eighty bytes an entry.

    rows    48 bytes a node: parent, st_mode, owner, names, attributes, time, size, where its text begins
    texts   a node's name, then a link's target, or where a file's content lies
    order   the nodes in each directory, by name

All volumes of an image are one tree: the root of each takes the place of the directory it is mounted on.
Measured on a Debian system: 83 bytes an entry; see docs/decisions/0011-an-index-in-arrays.md.
"""

from __future__ import annotations

import base64
import os
import stat
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from agent.errors import DamagedError
from agent.image.entry import BLOCK, CHAR, DIRECTORY, HARDLINK, MORE, SYMLINK, Chunk, Entry, FrameTable
from agent.image.listing import Listing
from agent.image.metadata import KINDS
from agent.model.tree import MAX_LINKS

_ROW = struct.Struct("<IIIIIIIIqQ")
_WORDS = _ROW.size // 4
_MODE_AT, _LINKS_AT, _TEXT_AT, _SIZE_AT = 4, 16, 28, 40
_WHOLE = struct.Struct("<II")  # frame, offset in it: one chunk that is the whole file
_RUN = struct.Struct("<QIII")  # at, size, frame, offset
_WORD, _SIZE = struct.Struct("<I"), struct.Struct("<Q")
_NOBODY = 0xFFFFFFFF  # the parent of a root
_SECOND = 1_000_000_000
KEPT_ATTRIBUTES = 4096  # sets of attributes that are stored once however often they come


class Status(NamedTuple):
    """What stat tells of a node. ``size`` of a device is its number, as makedev makes it."""

    parent: int
    mode: int
    uid: int
    gid: int
    links: int
    attributes: int
    nanoseconds: int
    text: int
    seconds: int
    size: int

    @property
    def mtime_ns(self) -> int:
        return self.seconds * _SECOND + self.nanoseconds

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.mode)


class Run(NamedTuple):
    """Bytes of a file: at this offset of the file, this many, in that frame at that offset."""

    at: int
    size: int
    frame: int
    offset: int


@dataclass(frozen=True, slots=True)
class Root:
    """Where the nodes of a volume begin."""

    volume: str
    mountpoint: bytes
    first: int
    frames: FrameTable


class TreeIndex:
    """Add the listing of every volume, nearest to the root first, then `finish`; afterwards only read."""

    def __init__(self) -> None:
        self._rows = bytearray()
        self._texts = bytearray()
        self._attributes = bytearray(1)  # 0 says that there are none
        self._known: dict[bytes, int] = {}
        self._order = array("I")
        self._mounted: dict[int, int] = {}  # a directory → the root of the volume that is mounted on it
        self._places: dict[int, int] = {}  # the same, the other way round
        self._count = 0
        self.roots: list[Root] = []
        self.root = 0

    def __len__(self) -> int:
        return self._count

    @property
    def bytes_held(self) -> int:
        """The memory that the index takes."""
        return len(self._rows) + len(self._texts) + len(self._attributes) + 4 * len(self._order)

    # --- filling --------------------------------------------------------------------------------------------------

    def add_volume(self, listing: Listing, mountpoint: str) -> None:
        """All entries of a checked listing."""
        where = os.fsencode(mountpoint).strip(b"/")
        self.roots.append(Root(listing.head.volume, where, self._count, listing.frames))
        open_folders: list[tuple[bytes, int]] = []
        for entries in listing.entries():
            for entry in entries:
                try:
                    self._take(entry, open_folders)
                except struct.error as error:
                    raise DamagedError(f"{listing.name}, ‘{entry.path}’: {error}", "capture the image again") from None

    def finish(self) -> None:
        """Put directories in order, mount volumes on them, and find what hard links name."""
        self._sort()
        if not self.roots or self.roots[0].mountpoint:
            self.root = self._add_folder(b"", _NOBODY)
            self._sort()
        else:
            self.root = self.roots[0].first
        for root in self.roots:
            if root.first != self.root:
                self._mount(root)
        self._link()
        self._known.clear()

    def _take(self, entry: Entry, open_folders: list[tuple[bytes, int]]) -> None:
        """An entry of a listing; ``open_folders``: the directories that lead to it, and maybe more."""
        if entry.type == MORE:
            self._texts += _runs(entry.chunks)
            return
        name = entry.name
        parent, _, last = name.rpartition(b"/")
        while open_folders and open_folders[-1][0] != parent:
            open_folders.pop()
        node = self._add(entry, last, open_folders[-1][1] if open_folders else _NOBODY)
        if entry.type == DIRECTORY:
            open_folders.append((name, node))

    def _add(self, entry: Entry, last: bytes, parent: int) -> int:
        kind, size = entry.type, entry.size
        mode = entry.mode | KINDS.get(kind, 0)
        payload = b""
        if kind in (SYMLINK, HARDLINK):
            payload, size = entry.target_name, len(entry.target_name)
            mode = 0 if kind == HARDLINK else mode
        elif kind in (CHAR, BLOCK) and entry.device:
            size = os.makedev(*entry.device)
        elif kind == DIRECTORY:
            size = 0
        seconds, nanoseconds = divmod(entry.mtime, _SECOND)
        attributes = self._keep(entry.xattrs) if entry.xattrs else 0
        text = len(self._texts)
        payload = payload or _content(entry)
        self._rows += _ROW.pack(parent, mode, entry.uid, entry.gid, 1, attributes, nanoseconds, text, seconds, size)
        self._texts.append(len(last))
        self._texts += last
        self._texts += payload
        self._count += 1
        return self._count - 1

    def _add_folder(self, last: bytes, parent: int) -> int:
        """A directory that no listing holds, on the way to a mount point."""
        return self._add(Entry(path="", type=DIRECTORY, mode=0o755), last, parent)

    def _keep(self, xattrs: dict[str, str]) -> int:
        data = msgspec.msgpack.encode(xattrs)
        found = self._known.get(data)
        if found is None:
            found = len(self._attributes)
            self._attributes += _WORD.pack(len(data)) + data
            if len(self._known) < KEPT_ATTRIBUTES:
                self._known[data] = found
        return found

    def _sort(self) -> None:
        """Children of one directory side by side, by name; a directory's size says where they are."""
        with memoryview(self._rows) as rows, rows.cast("I") as words, words[::_WORDS] as parents:
            ends = array("I", bytes(4 * (self._count + 1)))  # of the children of each node, beginning as their number
            for parent in parents:
                if parent != _NOBODY:
                    ends[parent + 1] += 1
            for node in range(self._count):
                ends[node + 1] += ends[node]
            order = array("I", bytes(4 * ends[self._count]))
            for node, parent in enumerate(parents):
                if parent != _NOBODY:
                    order[ends[parent]] = node
                    ends[parent] += 1
        self._order = order
        start = 0
        for node in range(self._count):
            end = ends[node]
            if self._kind(node) == stat.S_IFDIR:
                children = order[start:end].tolist()
                order[start:end] = array("I", sorted(children, key=self._name))
                folders = sum(self._kind(child) == stat.S_IFDIR for child in children)
                _SIZE.pack_into(self._rows, node * _ROW.size + _SIZE_AT, start << 32 | len(children))
                _WORD.pack_into(self._rows, node * _ROW.size + _LINKS_AT, 2 + folders)
            start = end

    def _mount(self, root: Root) -> None:
        """Put a volume in the place of the directory it is mounted on, made where there is none."""
        above, _, last = root.mountpoint.rpartition(b"/")
        folder, missing = self.resolve(above), [last]
        while folder is None:
            above, _, last = above.rpartition(b"/")
            folder, missing = self.resolve(above), [last, *missing]
        place = self._below(folder, missing[0])
        if place is None and self._kind(folder) == stat.S_IFDIR:
            place = folder
            for name in missing:
                place = self._add_folder(name, place)
            self._sort()
        if not root.mountpoint or place is None or place in self._mounted:
            raise DamagedError(f"volume {root.volume} has no place of its own at /{os.fsdecode(root.mountpoint)}")
        self._mounted[place], self._places[root.first] = root.first, place

    def _link(self) -> None:
        """Hard links: from the path they name to the node at it."""
        for number, root in enumerate(self.roots):
            end = self.roots[number + 1].first if number + 1 < len(self.roots) else self._count
            for node in range(root.first, end):
                if self._mode(node):
                    continue
                target = self._named(root.first, node)
                _SIZE.pack_into(self._rows, node * _ROW.size + _SIZE_AT, target)
                at = target * _ROW.size + _LINKS_AT
                _WORD.pack_into(self._rows, at, _WORD.unpack_from(self._rows, at)[0] + 1)

    def _named(self, root: int, link: int) -> int:
        """The node that a hard link is another name of."""
        node: int | None = link
        for _ in range(MAX_LINKS):
            if node is None or self._mode(node):
                break
            names = self._payload(node).split(b"/")
            node = root
            for name in names:
                node = self._below(node, name) if node is not None else None
        if node is None or self._kind(node) in (0, stat.S_IFDIR):
            target = os.fsdecode(self._payload(link))
            raise DamagedError(f"{os.fsdecode(self.path(link))} is a hard link to ‘{target}’, no file of its volume")
        return node

    # --- reading --------------------------------------------------------------------------------------------------

    def status(self, node: int) -> Status:
        """Of what a node is: for another name of a file, of that file."""
        found = Status._make(_ROW.unpack_from(self._rows, node * _ROW.size))
        return found if found.mode else Status._make(_ROW.unpack_from(self._rows, found.size * _ROW.size))

    def file(self, node: int) -> int:
        """The node that carries content and attributes: another one than ``node`` where that is a hard link."""
        return node if self._mode(node) else int(_SIZE.unpack_from(self._rows, node * _ROW.size + _SIZE_AT)[0])

    def name(self, node: int) -> bytes:
        """The last part of a node's path; of the root nothing."""
        return self._name(self._places.get(node, node))

    def path(self, node: int) -> bytes:
        """From the root of the whole tree, beginning with a slash."""
        parts: list[bytes] = []
        while True:
            node = self._places.get(node, node)
            parent = _WORD.unpack_from(self._rows, node * _ROW.size)[0]
            if parent == _NOBODY:
                return b"/" + b"/".join(reversed(parts))
            parts.append(self._name(node))
            node = parent

    def resolve(self, path: bytes, follow: bool = True) -> int | None:
        """The node at a path, links followed inside the tree only; ``follow``: the last name's too."""
        parts = _parts(path)
        here, links = [self.root], 0
        while parts:
            part = parts.pop()
            if part == b"..":
                here = here[:-1] or here
                continue
            node = self.child(here[-1], part)
            if node is None:
                return None
            if (parts or follow) and self.status(node).kind == stat.S_IFLNK:
                links += 1
                if links > MAX_LINKS:
                    return None
                target = self.target(node)
                here = here[:1] if target.startswith(b"/") else here
                parts += _parts(target)
                continue
            here.append(node)
        return here[-1]

    def child(self, folder: int, name: bytes) -> int | None:
        """The node ``name`` in a directory, None when there is none."""
        found = self._below(folder, name)
        return None if found is None else self._mounted.get(found, found)

    def children(self, folder: int) -> Sequence[int]:
        """The nodes in a directory, by name; none when it is no directory."""
        start, count = self._range(folder)
        nodes = self._order[start : start + count]
        if self._mounted:
            return [self._mounted.get(node, node) for node in nodes]
        return nodes

    def target(self, node: int) -> bytes:
        """The text of a symbolic link."""
        return self._payload(self.file(node))

    def attributes(self, node: int) -> dict[str, str]:
        """Extended attributes, name to base64."""
        at = self.status(node).attributes
        if not at:
            return {}
        size = _WORD.unpack_from(self._attributes, at)[0]
        return msgspec.msgpack.decode(self._attributes[at + 4 : at + 4 + size], type=dict[str, str])

    def attribute(self, node: int, name: str) -> bytes | None:
        """The value of an extended attribute, None when there is none of that name."""
        text = self.attributes(node).get(name)
        return None if text is None else base64.b64decode(text)

    def volume_of(self, node: int) -> int:
        """The number of the volume whose frames hold the content of a node: an index into ``roots``."""
        return bisect_right(self.roots, node, key=lambda root: root.first) - 1

    def runs(self, node: int, start: int = 0) -> Iterator[Run]:
        """Where a file's content lies, from the run that holds the byte ``start`` on; what is between reads as 0."""
        node = self.file(node)
        begin, end = self._payload_at(node)
        if end - begin == _WHOLE.size:
            frame, offset = _WHOLE.unpack_from(self._texts, begin)
            yield Run(0, self.status(node).size, frame, offset)
            return
        low, high = 0, (end - begin) // _RUN.size
        while low < high:
            middle = (low + high) // 2
            at, size, _, _ = _RUN.unpack_from(self._texts, begin + middle * _RUN.size)
            low, high = (middle + 1, high) if at + size <= start else (low, middle)
        for place in range(begin + low * _RUN.size, end, _RUN.size):
            yield Run._make(_RUN.unpack_from(self._texts, place))

    def data_bytes(self, node: int) -> int:
        """The bytes of a file that are no holes."""
        return sum(run.size for run in self.runs(node))

    def _below(self, folder: int, name: bytes) -> int | None:
        low, count = self._range(folder)
        end = high = low + count
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._name(self._order[middle]) < name else (low, middle)
        return self._order[low] if low < end and self._name(self._order[low]) == name else None

    def _range(self, folder: int) -> tuple[int, int]:
        if self._kind(folder) != stat.S_IFDIR:
            return 0, 0
        packed = _SIZE.unpack_from(self._rows, folder * _ROW.size + _SIZE_AT)[0]
        return packed >> 32, packed & 0xFFFFFFFF

    def _name(self, node: int) -> bytes:
        at = self._text(node)
        return bytes(self._texts[at + 1 : at + 1 + self._texts[at]])

    def _mode(self, node: int) -> int:
        return int(_WORD.unpack_from(self._rows, node * _ROW.size + _MODE_AT)[0])

    def _kind(self, node: int) -> int:
        return stat.S_IFMT(self._mode(node))

    def _text(self, node: int) -> int:
        return int(_WORD.unpack_from(self._rows, node * _ROW.size + _TEXT_AT)[0])

    def _payload_at(self, node: int) -> tuple[int, int]:
        at = self._text(node)
        end = self._text(node + 1) if node + 1 < self._count else len(self._texts)
        return at + 1 + self._texts[at], end

    def _payload(self, node: int) -> bytes:
        begin, end = self._payload_at(node)
        return bytes(self._texts[begin:end])


def _parts(path: bytes) -> list[bytes]:
    """The names of a path, the first one last."""
    return [part for part in path.split(b"/") if part not in (b"", b".")][::-1]


def _content(entry: Entry) -> bytes:
    chunks = entry.chunks
    if len(chunks) == 1 and chunks[0].size == entry.size:
        return _WHOLE.pack(chunks[0].frame, chunks[0].offset)
    return _runs(chunks)


def _runs(chunks: Sequence[Chunk]) -> bytes:
    return b"".join([_RUN.pack(chunk.at, chunk.size, chunk.frame, chunk.offset) for chunk in chunks])
