"""What a line of a listing may say, and what must hold from line to line: the door at which everything is refused."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from agent.errors import DamagedError
from agent.image.entry import (
    BLOCK,
    BLOCKS,
    CHAR,
    DIRECTORY,
    FILE,
    HARDLINK,
    HEX_DIGEST_CHARS,
    MAX_NAME_BYTES,
    MORE,
    PART_BYTES,
    SYMLINK,
    TYPES,
    Entry,
    FrameTable,
)
from agent.model import image
from agent.model.wording import printable

MAX_PATH_BYTES = 1 << 20  # paths beyond PATH_MAX exist, reached directory by directory; none is so long
MAX_XATTR_BYTES = 64 << 10  # xattr(7): XATTR_SIZE_MAX
OFFSETS = 2**63  # of files; of time in seconds, both ways
TIMES_NS = OFFSETS * 1_000_000_000
MAJORS, MINORS = 2**12, 2**20  # linux/kdev_t.h
IDS = 2**32
NO_NAMES = frozenset({b"", b".", b".."})
_DEVICES = frozenset({CHAR, BLOCK})


def _check_device(kind: str, device: tuple[int, int] | None) -> None:
    if kind not in _DEVICES or device is None:
        raise ValueError("only device nodes have a device number, and each has one")
    if not (0 <= device[0] < MAJORS and 0 <= device[1] < MINORS):
        raise ValueError("its device number is impossible")


def _check_xattr(name: str, text: str) -> None:
    """An extended attribute that a kernel could hold, or ValueError."""
    if not 0 < len(name.encode()) <= MAX_NAME_BYTES or "\0" in name:
        raise ValueError("the name of an attribute is impossible")
    if len(base64.b64decode(text, validate=True)) > MAX_XATTR_BYTES:
        raise ValueError(f"attribute {name} has more than {MAX_XATTR_BYTES:,} bytes")


class _Folder:
    """An open directory of the walk, and what was listed in it: names ascend, files before directories."""

    __slots__ = ("at", "directory", "file", "files", "name")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.file = b""  # the last of each that was listed
        self.directory = b""
        self.files = bytearray()  # their names, each ended by a slash: a set would take four times the memory
        self.at = 0  # names before are lower than every directory that may come

    def holds_file(self, name: bytes) -> bool:
        """Whether a file was listed at ``name``, which ascends from call to call."""
        while (end := self.files.find(b"/", self.at)) >= 0:
            other = self.files[self.at : end]
            if other >= name:
                return other == name
            self.at = end + 1
        return False


def _possible(name: bytes) -> bytes:
    if len(name) > MAX_PATH_BYTES:
        raise ValueError(f"its path has {len(name):,} bytes, {MAX_PATH_BYTES:,} at most are possible")
    return name


class EntryCheck:
    """What must hold from line to line. Feed every entry in order; DamagedError names the line."""

    def __init__(self, name: str, frames: FrameTable, kind: str = image.TREE) -> None:
        self._name = name
        self._frames = frames
        self._open: list[_Folder] = []  # the root and the directories that lead to where the walk is
        self._more: Entry | None = None  # the file that may continue
        self._blocks = kind == image.BLOCKS
        self._size = 0  # of the file whose chunks come
        self._reached = 0
        self._frame = -1  # the last one looked up, and its size
        self._plain = 0
        self.count = 0

    def entries(self, entries: Sequence[Entry], lines: Sequence[int]) -> None:
        """Some, with the numbers of their lines (from 1)."""
        entry = None
        try:
            for number, entry in zip(lines, entries, strict=True):  # noqa: B007 - names the line that failed
                if entry.type == MORE:
                    self._continued(entry, entry.name)
                else:
                    self.count += 1
                    self._size, self._reached = entry.size, 0
                    self._more = entry if entry.size > PART_BYTES and entry.type in (FILE, BLOCKS) else None
                    self._place(entry, _possible(entry.path.encode() if not entry.raw else entry.name))
                    self._kind(entry)
                if entry.zeros:
                    self._zeros(entry)
                if entry.chunks:
                    self._chunks(entry)
        except (ValueError, binascii.Error) as error:
            assert entry is not None
            path = printable(entry.path, MAX_NAME_BYTES)
            raise DamagedError(f"{self._name} line {number:,}, ‘{path}’: {error}", "capture the image again") from None

    def _continued(self, entry: Entry, name: bytes) -> None:
        if self._more is None or self._more.name != name:
            raise ValueError("continues a file that is not the one before")
        if not self._reached <= entry.size < self._more.size or entry.size % PART_BYTES:
            raise ValueError(f"continues its file at byte {entry.size:,}, which is no part of it")

    def _place(self, entry: Entry, name: bytes) -> None:
        if not name:
            root = BLOCKS if self._blocks else DIRECTORY
            if self.count != 1 or entry.type != root:
                raise ValueError(f"the root must be the first entry and of type {root}")
            self._open = [] if self._blocks else [_Folder(b"")]
            return
        parent, slash, last = name.rpartition(b"/")
        if entry.type == BLOCKS:
            raise ValueError("only a whole volume is blocks")
        if last in NO_NAMES or (slash and not parent) or len(last) > MAX_NAME_BYTES or b"\0" in last:
            raise ValueError(f"‘{last[:MAX_NAME_BYTES]!r}’ cannot be a name here")
        folder = self._open[-1] if self._open else _Folder(b"")
        while folder.name != parent or not self._open:
            if len(self._open) <= 1:
                raise ValueError("does not lie in a directory that was listed before it")
            self._open.pop()
            folder = self._open[-1]
        if entry.type == DIRECTORY:
            if last == folder.directory or folder.holds_file(last):
                raise ValueError("is listed twice")
            if last < folder.directory:
                raise ValueError("is out of order: directories of one directory ascend by name")
            folder.directory = last
            self._open.append(_Folder(name))
        else:
            if last == folder.file:
                raise ValueError("is listed twice")
            if last < folder.file or folder.directory:
                raise ValueError("is out of order: files of one directory ascend by name, before its directories")
            folder.file = last
            folder.files += last + b"/"

    def _kind(self, entry: Entry) -> None:
        kind = entry.type
        if kind not in TYPES:
            raise ValueError(f"type ‘{kind}’ is not known")
        # All bits of several numbers at once: this is asked of every entry.
        if not (0 <= entry.mode <= 0o7777 and 0 <= entry.uid | entry.gid | entry.flags < IDS):
            raise ValueError("mode, owner or flags are impossible")
        if not (0 <= entry.size < OFFSETS and -TIMES_NS <= entry.mtime < TIMES_NS):
            raise ValueError("size or time is impossible")
        if entry.device is not None or kind in _DEVICES:
            _check_device(kind, entry.device)
        if entry.xattrs:
            for attribute, text in entry.xattrs.items():
                _check_xattr(attribute, text)
        if kind not in (SYMLINK, HARDLINK):
            return
        if not entry.target_name or b"\0" in entry.target_name:
            raise ValueError("is a link without a target")
        if kind == HARDLINK and any(part in NO_NAMES for part in entry.target_name.split(b"/")):
            raise ValueError("is a hard link that leads out of the volume")
        if len(entry.target_name) > MAX_PATH_BYTES:
            raise ValueError(f"its target has more than {MAX_PATH_BYTES:,} bytes")

    def _zeros(self, entry: Entry) -> None:
        if not self._blocks or entry.type not in (BLOCKS, MORE):
            raise ValueError(f"a {entry.type} has no zeros of its own")
        taken = sorted([*entry.zeros, *((chunk.at, chunk.size) for chunk in entry.chunks)])
        reached = entry.size if entry.type == MORE else 0
        end = min(reached + PART_BYTES, self._size)
        for at, size in taken:
            if at < reached or size <= 0 or at + size > end:
                raise ValueError(f"zeros overlap chunks, or reach out of the part that ends at byte {end:,}")
            reached = at + size

    def _chunks(self, entry: Entry) -> None:
        if entry.type not in (FILE, MORE, BLOCKS):
            raise ValueError(f"a {entry.type} has no content")
        reached = self._reached
        for chunk in entry.chunks:
            at, size, offset = chunk.at, chunk.size, chunk.offset
            if chunk.frame != self._frame:
                frame = self._frames.get(chunk.frame)
                self._frame, self._plain = chunk.frame, frame.plain if frame else -1
            if offset < 0 or size <= 0 or offset + size > self._plain:
                raise ValueError(f"a chunk does not fit frame {chunk.frame}")
            if at < reached or at + size > self._size or len(chunk.id) != HEX_DIGEST_CHARS:
                raise ValueError(f"chunks overlap or reach beyond the file’s {self._size:,} bytes")
            reached = at + size
        self._reached = reached
