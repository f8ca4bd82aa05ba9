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

import hashlib
import os
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import accumulate, compress
from operator import add, eq, le
from typing import IO, Protocol, TypeVar

import msgspec
import zstandard

from agent.depot.store import Depot, listing_path
from agent.errors import DamagedError
from agent.image.at_once import unfolded
from agent.image.entry import HARDLINK, HEX_DIGEST_CHARS, Entry, FrameLine, FrameTable
from agent.image.entry_check import EntryCheck
from agent.image.pack import MAX_FRAME_BYTES, Frame
from agent.model.image import Manifest, ObjectRef, Volume
from agent.model.undecodable import UNDECODABLE

FORMAT = 1
# Of lines in one zstd frame. A listing of 17.6 MB is 1.5 % smaller so than in one frame, and unfolds in 11 ms in place
# of 30; frames of 256 KiB, for which level 3 takes other parameters, make it 6 % larger.
FRAME_BYTES = 512 << 10
READ_BYTES = 1 << 20
BLOCK_BYTES = 256 << 10  # of lines at a time: few objects at once are quicker than many
LINE_LIMIT_BYTES = 16 << 20
# A listing never unfolds to more: lines of real listings compress to a fifth, the most alike ones to a thirtieth.
UNFOLDS_TO, UNFOLDS_FROM_BYTES = 200, 64 << 20
WINDOW_BYTES = 8 << 20  # what unfolding may remember; level 3 needs 2 MiB, the highest 8
SPOOL_BYTES = 8 << 20  # more of a listing waits in a file
KEPT_BYTES = 32 << 20  # of lines: those of some 150,000 entries

_HARDLINK = b'"hardlink"'
_BETWEEN_OBJECTS, _BETWEEN_LISTS = b"}\n{", b"]\n["


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


@dataclass(slots=True)
class Listing:
    """An open, verified listing. ``entries`` may be called again for another pass."""

    name: str
    head: Head
    frames: FrameTable
    kind: str  # of the volume
    _file: IO[bytes]
    _kept: list[tuple[int, bytes]] | None = None  # all of it, unfolded, where that was asked for

    def entries(self) -> Iterator[list[Entry]]:
        """Checked entries in order, some hundred at a time."""
        return (entries for entries, _ in self.entries_and_lines())

    def entries_and_lines(self) -> Iterator[tuple[list[Entry], list[bytes]]]:
        """The same, each block with the lines it was made of."""
        check = EntryCheck(self.name, self.frames, self.kind)
        decoder = msgspec.json.Decoder(Entry)
        for first, lines in self.entry_lines():
            entries = _decode(decoder, lines, self.name, first)
            check.entries(entries, range(first + 1, first + 1 + len(lines)))
            if check.count > self.head.entries:
                break
            yield entries, lines
        if check.count != self.head.entries:
            raise DamagedError(f"{self.name} holds {check.count:,} entries, its head says {self.head.entries:,}")

    def marked(self, marks: Sliceable) -> Iterator[tuple[list[Entry], list[bytes], bytes]]:
        """Checked entries whose mark is not 0, with their lines and marks.

        ``marks`` has a byte a line: entries, and what continues them. With an entry the directories that lead to it
        must be marked, and all that continues it: what is marked is then checked as if it were all of a listing.
        """
        check = EntryCheck(self.name, self.frames, self.kind)
        decoder = msgspec.json.Decoder(Entry)
        begin = 1 + self.head.frames
        for first, lines in self.entry_lines():
            block = marks[first - begin : first - begin + len(lines)]
            chosen = list(compress(lines, block))
            if chosen:
                numbers = list(compress(range(first + 1, first + 1 + len(lines)), block))
                entries = _decode(decoder, chosen, self.name, numbers[0] - 1)
                check.entries(entries, numbers)
                yield entries, chosen, block.replace(b"\0", b"")

    def entry_lines(self) -> Iterator[tuple[int, list[bytes]]]:
        """Blocks of lines behind the frames, each with the number of its first line (from 0)."""
        begin = 1 + self.head.frames
        for first, block in _split(self._blocks()):
            start = max(0, begin - first)
            if start < len(block):
                yield first + start, block[start:] if start else block

    def entry_blocks(self) -> Iterator[tuple[int, bytes]]:
        """The same in one piece each, the first block of entries having the number 0; every line has its end."""
        begin = 1 + self.head.frames
        for first, block in self._blocks():
            if first >= begin:
                yield first - begin, block
            elif rest := block.split(b"\n", begin - first)[-1]:  # empty where all of it comes before
                yield 0, rest

    def keep(self) -> None:
        """Hold it in memory as it unfolds, if that is not much: for several passes, and for forked processes."""
        kept: list[tuple[int, bytes]] = []
        size = 0
        for first, block in _frames(self._file) or self._blocks():
            kept.append((first, block))
            size += len(block)
            if size > KEPT_BYTES:
                return
        self._kept = kept

    def _blocks(self) -> Iterator[tuple[int, bytes]]:
        return iter(self._kept) if self._kept is not None else _blocks(self._file, self.name)

    @contextmanager
    def apart(self) -> Iterator[Listing]:
        """The same for another process: with a place of its own where it is read."""
        if self._kept is not None:
            yield self
            return
        with open(f"/proc/self/fd/{self._file.fileno()}", "rb") as file:
            yield replace(self, _file=file)

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
        begin = first + len(block) - len(lines)
        rows = _decode(decoder, lines[: head.frames - len(table)], name, begin)
        _add_frames(table, rows, sizes, name, begin + 1)
        if len(table) == head.frames:
            break
    if head is None or len(table) != head.frames:
        raise DamagedError(f"{name} ends before its frames are listed")
    return Listing(name, head, table, volume.kind, spool)


def _add_frames(table: FrameTable, rows: Sequence[FrameLine], pack_sizes: Sequence[int], name: str, line: int) -> None:
    """All at once; one by one only to say which of them is wrong."""
    if rows and _are_good(rows, pack_sizes):
        with suppress(ValueError, struct.error, OverflowError):
            table.add_all(rows)
            return
    for number, row in enumerate(rows, line):
        _add_frame(table, row, f"{name} line {number}", pack_sizes)


def _are_good(rows: Sequence[FrameLine], pack_sizes: Sequence[int]) -> bool:
    """What `_add_frame` asks of each, of all columns."""
    _, packs, offsets, stored, plain, raw, digests = zip(*rows, strict=True)
    return (
        0 <= min(packs) <= max(packs) < len(pack_sizes)
        and min(offsets) >= 0
        and 0 < min(stored) <= max(stored) <= 2 * MAX_FRAME_BYTES
        and 0 < min(plain) <= max(plain) <= MAX_FRAME_BYTES
        and all(map(le, map(add, offsets, stored), map(pack_sizes.__getitem__, packs)))
        and all(map(eq, compress(stored, raw), compress(plain, raw)))
        and set(map(len, digests)) == {HEX_DIGEST_CHARS}
    )


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
    return _split(_blocks(file, name))


def _split(blocks: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, list[bytes]]]:
    for number, block in blocks:
        lines = block.split(b"\n")
        lines.pop()  # behind the last end
        yield number, lines


def _blocks(file: IO[bytes], name: str) -> Iterator[tuple[int, bytes]]:
    """Whole lines with their ends, many at once, each block with the number of its first line (from 0)."""
    number = 0
    limit = max(UNFOLDS_FROM_BYTES, UNFOLDS_TO * file.seek(0, os.SEEK_END))
    file.seek(0)
    rest: list[bytes] = []
    rest_bytes = 0
    decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES)
    with decompressor.stream_reader(file, read_across_frames=True, closefd=False) as reader:
        while True:
            try:
                data = reader.read(BLOCK_BYTES)
            except zstandard.ZstdError as error:
                raise DamagedError(f"{name}, after line {number:,}: it does not unfold: {error}") from None
            if not data:
                break
            limit -= len(data)
            if limit < 0:
                raise DamagedError(f"{name}, after line {number:,}: it unfolds to more than any listing of its size")
            end = data.rfind(b"\n") + 1
            if end:
                block = b"".join([*rest, memoryview(data)[:end]])
                yield number, block
                number += block.count(b"\n")
                rest, rest_bytes = [], 0
            rest.append(data[end:])
            rest_bytes += len(data) - end
            if rest_bytes > LINE_LIMIT_BYTES:
                raise DamagedError(f"{name}, after line {number:,}: a line is longer than {LINE_LIMIT_BYTES:,} bytes")
    if rest_bytes:
        raise DamagedError(f"{name}, after line {number:,}: it ends in the middle of a line")


def _frames(file: IO[bytes]) -> list[tuple[int, bytes]]:
    """As `_blocks`, a frame each; nothing where they do not hold whole lines, or more than may be kept."""
    if file.seek(0, os.SEEK_END) > KEPT_BYTES:
        return []
    file.seek(0)
    frames = unfolded(file.read(), KEPT_BYTES) or []
    if not all(frame.endswith(b"\n") for frame in frames):
        return []
    return list(zip(accumulate((frame.count(b"\n") for frame in frames), initial=0), frames, strict=False))


def count_lines(text: bytes) -> int:
    """How many lines are there, if each that follows another is one object or list of its own; else fewer.

    The decoder does not mind empty lines, several values in a line, or one over several. Inside of a value no ``}``
    is followed by ``{`` and no ``]`` by ``[``: a line's end between them is one between two values.
    """
    return 1 + text.count(_BETWEEN_OBJECTS) + text.count(_BETWEEN_LISTS)


def _decode(decoder: msgspec.json.Decoder[T], lines: list[bytes], name: str, first: int) -> list[T]:
    """Many lines at once; one by one only to say which of them is wrong."""
    text = b"\n".join(lines)
    try:
        found = decoder.decode_lines(text)
    except UNDECODABLE:
        found = []
    if len(found) == len(lines) == count_lines(text):
        return found
    number = first
    try:
        found = []
        for number, line in enumerate(lines, first):  # noqa: B007 - names the line that failed
            found.append(decoder.decode(line))
        return found
    except UNDECODABLE as error:
        raise DamagedError(f"{name} line {number + 1:,}: {error}", "capture the image again") from None
