"""Listings: what a volume holds, one JSON object a line, in restore order.

    head line      format, volume, packs, counts
    frame lines    [number, pack, offset, stored, plain, raw, digest]
    entry lines    one a path; a directory comes before what is in it, its files before its directories;
                   of a blocks volume one line, and its parts

Format of record: docs/formats.md. What a line may say is checked here, at the door: paths never leave the volume,
no path comes twice or out of order, nothing lies below something that is not a directory, chunks fit their frames and
their file.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import struct
import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import compress
from typing import IO, Protocol, TypeVar

import msgspec
import zstandard

from agent.depot.store import Depot, listing_path
from agent.errors import DamagedError
from agent.image.pack import MAX_FRAME_BYTES, Frame
from agent.model import image
from agent.model.image import Manifest, ObjectRef, Volume
from agent.model.undecodable import UNDECODABLE
from agent.model.wording import printable

FORMAT = 1
PART_BYTES = 32 << 20  # files larger than this continue in lines of type "more"
READ_BYTES = 1 << 20
BLOCK_BYTES = 256 << 10  # of lines at a time: few objects at once are quicker than many
LINE_LIMIT_BYTES = 16 << 20
# A listing never unfolds to more: lines of real listings compress to a fifth, the most alike ones to a thirtieth.
UNFOLDS_TO, UNFOLDS_FROM_BYTES = 200, 64 << 20
WINDOW_BYTES = 8 << 20  # what unfolding may remember; level 3 needs 2 MiB, the highest 8
SPOOL_BYTES = 4 << 20  # more of a listing waits in a file
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 1 << 20  # paths beyond PATH_MAX exist, reached directory by directory; none is so long
MAX_XATTR_BYTES = 64 << 10  # xattr(7): XATTR_SIZE_MAX
OFFSETS = 2**63  # of files; of time in seconds, both ways
TIMES_NS = OFFSETS * 1_000_000_000
MAJORS, MINORS = 2**12, 2**20  # linux/kdev_t.h
HEX_DIGEST_CHARS = 64
IDS = 2**32
_NO_NAMES = frozenset({b"", b".", b".."})

FILE, DIRECTORY, SYMLINK, HARDLINK = "file", "dir", "link", "hardlink"
CHAR, BLOCK, FIFO, SOCKET, MORE = "char", "block", "fifo", "socket", "more"
BLOCKS = "blocks"  # the one entry of a volume that is a partition's used blocks
_DEVICES = frozenset({CHAR, BLOCK})
_HARDLINK = b'"hardlink"'
TYPES = frozenset({FILE, DIRECTORY, SYMLINK, HARDLINK, CHAR, BLOCK, FIFO, SOCKET, MORE, BLOCKS})


class Chunk(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A run of a file's bytes: at this offset of the file, this many, found in that frame at that offset."""

    at: int
    size: int
    frame: int
    offset: int
    id: str  # BLAKE3 of the bytes, hexadecimal


class Entry(msgspec.Struct, omit_defaults=True, gc=False):
    """One line. Text that is not UTF-8 is replaced for people and exact in ``raw``/``raw_target`` (base64)."""

    path: str  # relative to the volume's root, "" is the root itself
    type: str
    mode: int = 0  # permission bits, with setuid, setgid and sticky
    uid: int = 0
    gid: int = 0
    mtime: int = 0  # nanoseconds since 1970
    size: int = 0  # of a file or partition: its bytes; of a line "more": where in it this part begins
    chunks: tuple[Chunk, ...] = ()
    target: str = ""  # of a symbolic link: its text; of a hard link: path of the entry it is another name of
    device: tuple[int, int] | None = None  # major, minor
    xattrs: dict[str, str] | None = None  # name: base64
    flags: int = 0  # FS_IOC_GETFLAGS, only those that a restore sets
    raw: str = ""
    raw_target: str = ""
    zeros: tuple[tuple[int, int], ...] = ()  # of blocks: used and zero, (at, size); what is between is not used

    @property
    def name(self) -> bytes:
        """The path's exact bytes."""
        return decoded_name(self.path, self.raw)

    @property
    def target_name(self) -> bytes:
        return decoded_name(self.target, self.raw_target)


class Head(msgspec.Struct, frozen=True):
    """The first line."""

    format: int
    volume: str
    packs: tuple[str, ...]
    frames: int
    entries: int


class Sliceable(Protocol):
    """As bytes are, for slices."""

    def __getitem__(self, lines: slice, /) -> bytes: ...


T = TypeVar("T")
FrameLine = tuple[int, int, int, int, int, int, str]  # number, pack, offset, stored, plain, raw, digest


def text_and_raw(name: bytes) -> tuple[str, str]:
    """How a name is written into a line: readable text, and base64 where that is not exact."""
    try:
        return name.decode(), ""
    except UnicodeDecodeError:
        return name.decode(errors="replace"), base64.b64encode(name).decode()


def decoded_name(text: str, raw: str) -> bytes:
    """The exact bytes again."""
    return base64.b64decode(raw) if raw else text.encode()


class FrameTable:
    """The frames a listing refers to, packed: 61 bytes a frame."""

    _ROW = struct.Struct("<IQIIB32s")

    def __init__(self, packs: tuple[str, ...]) -> None:
        self.packs = packs
        self._numbers = array("Q")
        self._rows = bytearray()

    def add(self, number: int, frame: Frame) -> None:
        if self._numbers and number <= self._numbers[-1]:
            raise ValueError(f"frame {number} is not in order")
        self._numbers.append(number)
        self._rows += self._ROW.pack(frame.pack, frame.offset, frame.stored, frame.plain, frame.raw, frame.digest)

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[tuple[int, Frame]]:
        """Every frame with its number, in order."""
        for number, row in zip(self._numbers, self._ROW.iter_unpack(self._rows), strict=True):
            pack, offset, stored, plain, raw, digest = row
            yield number, Frame(pack, offset, stored, plain, bool(raw), digest)

    def get(self, number: int) -> Frame | None:
        index = bisect_left(self._numbers, number)
        if index == len(self._numbers) or self._numbers[index] != number:
            return None
        pack, offset, stored, plain, raw, digest = self._ROW.unpack_from(self._rows, index * self._ROW.size)
        return Frame(pack, offset, stored, plain, bool(raw), digest)


@dataclass(slots=True)
class Listing:
    """An open, verified listing. ``entries`` may be called again for another pass."""

    name: str
    head: Head
    frames: FrameTable
    kind: str  # of the volume
    _file: IO[bytes]

    def entries(self) -> Iterator[list[Entry]]:
        """Checked entries in order, some hundred at a time."""
        return (entries for entries, _ in self.entries_and_lines())

    def entries_and_lines(self) -> Iterator[tuple[list[Entry], list[bytes]]]:
        """The same, each block with the lines it was made of."""
        check = EntryCheck(self.name, self.frames, self.kind)
        decoder = msgspec.json.Decoder(Entry)
        for first, lines in self._entry_lines():
            entries = _decode(decoder, lines, self.name, first)
            check.entries(entries, first + 1)
            if check.count > self.head.entries:
                break
            yield entries, lines
        if check.count != self.head.entries:
            raise DamagedError(f"{self.name} holds {check.count:,} entries, its head says {self.head.entries:,}")

    def marked(self, marks: Sliceable) -> Iterator[tuple[list[Entry], list[bytes], bytes]]:
        """In another pass those entries whose mark is not 0, unchecked, with their lines and marks.

        ``marks`` has a byte a line: entries, and what continues them.
        """
        decoder = msgspec.json.Decoder(Entry)
        begin = 1 + self.head.frames
        for first, lines in self._entry_lines():
            block = marks[first - begin : first - begin + len(lines)]
            chosen = list(compress(lines, block))
            if chosen:
                yield _decode(decoder, chosen, self.name, first), chosen, block.replace(b"\0", b"")

    def _entry_lines(self) -> Iterator[tuple[int, list[bytes]]]:
        """Blocks of lines behind the frames, each with the number of its first line (from 0)."""
        begin = 1 + self.head.frames
        for first, block in _line_blocks(self._file, self.name):
            start = max(0, begin - first)
            if start < len(block):
                yield first + start, block[start:] if start else block

    def hard_links(self) -> Iterator[Entry]:
        """The hard links alone, unchecked: a look at the lines, which is cheaper than reading them."""
        decoder = msgspec.json.Decoder(Entry)
        for first, block in _line_blocks(self._file, self.name):
            found = [number for number, line in enumerate(block) if _HARDLINK in line]
            for number in found:
                (entry,) = _decode(decoder, block[number : number + 1], self.name, first + number)
                if entry.type == HARDLINK:
                    yield entry


@contextmanager
def open_listing(depot: Depot, manifest: Manifest, volume: Volume) -> Iterator[Listing]:
    """The listing of a volume, its SHA-256 checked before the first line is believed."""
    name = listing_path(volume.listing.sha256)
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
        _fetch(depot, name, volume.listing.size_bytes, volume.listing.sha256, spool)
        sizes = {pack.sha256: pack.size_bytes for pack in manifest.packs}
        yield _open(spool, name, volume, sizes)


def line_blocks(depot: Depot, ref: ObjectRef) -> Iterator[list[bytes]]:
    """The lines of any such object, its SHA-256 checked before the first, some thousand at a time."""
    name = listing_path(ref.sha256)
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
        _fetch(depot, name, ref.size_bytes, ref.sha256, spool)
        for _, lines in _line_blocks(spool, name):
            yield lines


def _fetch(depot: Depot, name: str, size: int, sha256: str, spool: IO[bytes]) -> None:
    digest = hashlib.sha256()
    buffer = bytearray(min(READ_BYTES, size))
    for offset in range(0, size, READ_BYTES):
        view = memoryview(buffer)[: min(READ_BYTES, size - offset)]
        try:
            depot.read_into(name, offset, view)
        except FileNotFoundError:
            raise DamagedError(f"{name} is absent from depot {depot.location}", "copy it from a second depot") from None
        digest.update(view)
        spool.write(view)
    if digest.hexdigest() != sha256:
        raise DamagedError(
            f"{name} has SHA-256 {digest.hexdigest()}, expected what its name says",
            "fetch it again, or copy it from a second depot",
        )


def _open(spool: IO[bytes], name: str, volume: Volume, pack_sizes: Mapping[str, int]) -> Listing:
    head: Head | None = None
    table = FrameTable(())
    sizes: list[int] = []
    decoder = msgspec.json.Decoder(FrameLine)
    for first, block in _line_blocks(spool, name):
        lines = block
        if head is None:
            head = _decode(msgspec.json.Decoder(Head), lines[:1], name, 0)[0]
            if head.format != FORMAT or head.volume != volume.id or head.packs != volume.packs:
                raise DamagedError(
                    f"{name} is not the listing of volume {volume.id}: its head does not fit the manifest"
                )
            table = FrameTable(head.packs)
            sizes = [pack_sizes.get(pack, 0) for pack in head.packs]
            lines = lines[1:]
        wanted = head.frames - len(table)
        for number, row in enumerate(_decode(decoder, lines[:wanted], name, first), first + 1):
            _add_frame(table, row, f"{name} line {number}", sizes)
        if len(table) == head.frames:
            break
    if head is None or len(table) != head.frames:
        raise DamagedError(f"{name} ends before its frames are listed")
    return Listing(name, head, table, volume.kind, spool)


def _add_frame(table: FrameTable, row: FrameLine, place: str, pack_sizes: Sequence[int]) -> None:
    number, pack, offset, stored, plain, raw, digest = row
    good = (
        0 <= pack < len(table.packs)
        and offset >= 0
        and 0 < stored <= 2 * MAX_FRAME_BYTES
        and 0 < plain <= MAX_FRAME_BYTES
        and offset + stored <= pack_sizes[pack]
        and (not raw or stored == plain)
        and len(digest) == HEX_DIGEST_CHARS
    )
    try:
        if not good:
            raise ValueError(f"frame {number} has impossible sizes, or lies outside its pack")
        table.add(number, Frame(pack, offset, stored, plain, bool(raw), bytes.fromhex(digest)))
    except (ValueError, struct.error, OverflowError) as error:
        raise DamagedError(f"{place}: {error}", "capture the image again") from None


def _line_blocks(file: IO[bytes], name: str) -> Iterator[tuple[int, list[bytes]]]:
    """Lines in blocks, each with the number of its first line (from 0)."""
    limit = max(UNFOLDS_FROM_BYTES, UNFOLDS_TO * file.seek(0, os.SEEK_END))
    file.seek(0)
    number, rest = 0, b""
    decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES)
    with decompressor.stream_reader(file, read_across_frames=True, closefd=False) as reader:
        while True:
            try:
                data = reader.read(BLOCK_BYTES)
            except zstandard.ZstdError as error:
                raise DamagedError(f"{name} does not unfold after line {number:,}: {error}") from None
            if not data:
                break
            limit -= len(data)
            if limit < 0:
                raise DamagedError(f"{name} unfolds to more than any listing of its size, after line {number:,}")
            lines = (rest + data).split(b"\n")
            rest = lines.pop()
            if len(rest) > LINE_LIMIT_BYTES:
                raise DamagedError(f"{name} line {number + len(lines) + 1:,} is longer than {LINE_LIMIT_BYTES:,} bytes")
            if lines:
                yield number, lines
            number += len(lines)
    if rest:
        raise DamagedError(f"{name} ends in the middle of line {number + 1:,}")


def _decode(decoder: msgspec.json.Decoder[T], lines: list[bytes], name: str, first: int) -> list[T]:
    """Many lines at once; one by one only to say which of them is wrong."""
    try:
        found = decoder.decode_lines(b"\n".join(lines))
    except UNDECODABLE:
        found = []
    if len(found) == len(lines):
        return found
    number = first
    try:
        found = []
        for number, line in enumerate(lines, first):  # noqa: B007 - names the line that failed
            found.append(decoder.decode(line))
        return found
    except UNDECODABLE as error:
        raise DamagedError(f"{name} line {number + 1:,}: {error}", "capture the image again") from None


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

    def entries(self, entries: list[Entry], line: int) -> None:
        """Those of neighbouring lines, the first of which has the number ``line``."""
        entry = None
        try:
            for number, entry in enumerate(entries, line):  # noqa: B007 - names the line that failed
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
        if last in _NO_NAMES or (slash and not parent) or len(last) > MAX_NAME_BYTES or b"\0" in last:
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
        if kind == HARDLINK and any(part in _NO_NAMES for part in entry.target_name.split(b"/")):
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
