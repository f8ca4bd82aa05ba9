"""The capturing worker: reads files, cuts them into chunks, compresses what is new, writes packs.

The parent decides which chunks are new (`capture`), so that no content is stored twice whichever worker reads it.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec
from blake3 import blake3

from agent.depot.store import WritableDepot, pack_path
from agent.errors import RegraftError
from agent.image import uncached
from agent.image.entry import BLOCK, CHAR, FILE, HARDLINK, MORE, PART_BYTES, SYMLINK, Chunk, Entry, text_and_raw
from agent.image.flags import read_flags
from agent.image.long_path import open_path
from agent.image.metadata import TYPE_OF, mtime_of, read_xattrs
from agent.image.open_ahead import Opened, open_file, open_in_turn
from agent.image.pack import CHUNK_BYTES, FRAME_BYTES, Frame, PackWriter
from agent.image.read_blocks import Span, read_span
from agent.image.staging import storing
from agent.image.stamps import NONE, Stamp, encode, stamp
from agent.image.walk import Batch, Name, Part
from agent.image.workers import Ask
from agent.model.image import ObjectRef

ATTEMPTS = 3  # reads of a file that changes while it is read
VANISHED = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)  # or something else took its place
HOLE_BYTES = 4096  # zero runs at least so long are not stored
ENCODER = msgspec.json.Encoder()

FrameRow = tuple[
    int, int, int, int, int, bool, bytes
]  # number, pack of this worker, offset, stored, plain, raw, digest


class Locate(msgspec.Struct, tag="locate"):
    """Which of these chunks are new? ``ids`` are 32 bytes each, back to back."""

    ids: bytes
    sizes: list[int]


class Places(msgspec.Struct):
    """Where each chunk is or shall be; those in frame ``number`` are to be stored at the offsets given."""

    number: int
    places: list[tuple[int, int]]


class Done(msgspec.Struct, tag="done"):
    """The result of a task; the first request of a worker has seq -1."""

    seq: int
    volume: int = 0
    part: bytes = b""  # the file, where the task was a part of one
    lines: bytes = b""
    stamps: bytes = b""  # a line for each of the entries, as `stamps` encodes them
    entries: int = 0
    content_bytes: int = 0
    frames: list[FrameRow] = msgspec.field(default_factory=list)
    used: list[int] = msgspec.field(default_factory=list)
    links: list[bytes] = msgspec.field(default_factory=list)
    dropped: list[bytes] = msgspec.field(default_factory=list)
    changed: list[bytes] = msgspec.field(default_factory=list)
    unreadable: list[tuple[bytes, str]] = msgspec.field(default_factory=list)


class Finish(msgspec.Struct, tag="finish"):
    """The packs this worker made: (sha256, size)."""

    worker: int
    packs: list[tuple[str, int]]


class Item(NamedTuple):
    """What becomes of one name: its entry, and its chunks, which may come later."""

    entry: Entry
    chunks: list[Chunk]
    stamp: Stamp = NONE


@dataclass(slots=True)
class Packs:
    """Packs of one worker; a full one is stored by a thread while the next fills."""

    depot: WritableDepot
    machine: str
    folder: Path
    worker: int
    done: list[tuple[str, int]] = field(default_factory=list)
    _writer: PackWriter | None = None
    _sender: threading.Thread | None = None
    _failed: list[RegraftError] = field(default_factory=list)

    def append(self, plain: bytes | bytearray, chunks: list[tuple[bytes, int, int]]) -> Frame:
        with storing(self.depot, self.folder):
            if self._writer is None:
                self._writer = PackWriter(self.folder, f"{self.worker}-{len(self.done)}.pack")
            frame = self._writer.append(len(self.done), plain, chunks)
        if self._writer.is_full:
            self.close_pack()
        return frame

    def close_pack(self) -> None:
        if self._writer is None:
            return
        with storing(self.depot, self.folder):
            ref = self._writer.finish()
        path, self._writer = self._writer.path, None
        self.done.append((ref.sha256, ref.size_bytes))
        self.wait()
        self._sender = threading.Thread(target=self._send, args=(ref, path))
        self._sender.start()

    def wait(self) -> None:
        """Until the pack under way is stored; raises what storing it raised."""
        if self._sender is not None:
            self._sender.join()
            self._sender = None
        if self._failed:
            raise self._failed[0]

    def _send(self, pack: ObjectRef, path: Path) -> None:
        try:
            with storing(self.depot, self.folder):
                self.depot.note_pack(self.machine, pack)
                self.depot.put_file(pack_path(pack.sha256), path)
        except RegraftError as error:
            self._failed.append(error)


@dataclass(slots=True)
class Pending:
    """A chunk that waits for its frame."""

    id: bytes
    data: bytes | bytearray
    at: int
    holder: list[Chunk]


@dataclass(slots=True)
class Reader:
    """State of one worker."""

    roots: list[Path]
    packs: Packs
    ask: Ask
    stamps_before_ns: int = 0
    pending: list[Pending] = field(default_factory=list)
    pending_bytes: int = 0
    result: Done = field(default_factory=lambda: Done(-1))
    _roots: dict[int, int] = field(default_factory=dict)
    _asked: list[Pending] = field(default_factory=list)

    def run(self) -> None:
        """Ask for tasks until there are none."""
        decoder = msgspec.msgpack.Decoder(Batch | Part | Span)
        while True:
            task = self.ask(msgspec.msgpack.encode(self.result))
            if not task:
                break
            work = decoder.decode(task)
            self.result = Done(work.seq, work.volume, work.name if isinstance(work, Part) else b"")
            written = self._work(work)
            self._flush()
            self._flush()  # what was asked for last
            finish(self.result, written)
        self.packs.close_pack()
        self.packs.wait()
        self.ask(msgspec.msgpack.encode(Finish(self.packs.worker, self.packs.done)))

    def _work(self, work: Batch | Part | Span) -> list[Item]:
        match work:
            case Batch():
                return self._batch(work)
            case Part():
                return self._part(work)
            case Span():
                entry, chunks = read_span(self._root(work.volume), work, self._take, str(self.roots[work.volume]))
                return [Item(entry, chunks, NONE)]

    # --- entries --------------------------------------------------------------------------------------------------

    def _root(self, volume: int) -> int:
        if volume not in self._roots:
            self._roots[volume] = os.open(self.roots[volume], os.O_RDONLY | os.O_CLOEXEC)
        return self._roots[volume]

    def _batch(self, batch: Batch) -> list[Item]:
        written: list[Item] = []
        root = self._root(batch.volume)
        stamps = iter(batch.stamps)
        for folder, own, names in batch.folders:
            if own is not None:
                written.append(Item(own, [], next(stamps)))
            if not names:
                continue
            try:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                descriptor = open_path(folder or b".", flags, root)
            except OSError as error:
                self._drop_all(folder, names, stamps, error)
                continue
            try:
                self._folder(descriptor, folder, names, stamps, written)
            finally:
                os.close(descriptor)
        return written

    def _folder(
        self, descriptor: int, folder: bytes, names: list[Name | Entry], stamps: Iterator[Stamp], written: list[Item]
    ) -> None:
        to_read = [name[0] for name in names if not isinstance(name, Entry) and is_to_read(name)]
        with closing(open_in_turn(to_read, descriptor)) as opened:
            for name in names:
                if isinstance(name, Entry):
                    written.append(known(name, stamps))
                    continue
                last, target, _ = name
                if target:
                    written.append(link(_join(folder, last), target, self.result))
                else:
                    ready = next(opened) if is_to_read(name) else None
                    self._one(descriptor, last, _join(folder, last), ready, written)

    def _drop_all(self, folder: bytes, names: list[Name | Entry], stamps: Iterator[Stamp], error: OSError) -> None:
        for name in names:
            if isinstance(name, Entry):
                if known(name, stamps).entry.type != MORE:
                    self._drop(name.name, error)
            else:
                self._drop(_join(folder, name[0]), error)

    def _one(self, folder: int, last: bytes, name: bytes, opened: Opened | None, written: list[Item]) -> None:
        """``opened``: where it was a file when the directory was listed."""
        try:
            done = self._regular(opened, name) if opened is not None else None
            if done is None:  # or it is another kind of file now
                found = os.stat(last, dir_fd=folder, follow_symlinks=False)
                if stat.S_ISREG(found.st_mode):
                    done = self._regular(open_file(last, folder), name)
                elif not stat.S_ISDIR(found.st_mode):
                    mark = stamp(found, self.stamps_before_ns)
                    done = Item(self._special(folder, last, name, found), [], mark)
            if done is None:
                self.result.dropped.append(name)
            else:
                written.append(done)
        except OSError as error:
            self._drop(name, error)

    def _drop(self, name: bytes, error: OSError) -> None:
        """What vanished is no part of the image; what cannot be read is listed."""
        self.result.dropped.append(name)
        if error.errno not in VANISHED:
            self.result.unreadable.append((name, error.strerror or str(error)))

    def _special(self, folder: int, last: bytes, name: bytes, found: os.stat_result) -> Entry:
        kind = TYPE_OF[stat.S_IFMT(found.st_mode)]
        path, raw = text_and_raw(name)
        entry = Entry(
            path=path, raw=raw, type=kind, mode=stat.S_IMODE(found.st_mode), uid=found.st_uid, gid=found.st_gid,
            mtime=mtime_of(found), xattrs=read_xattrs(b"/proc/self/fd/%d/%s" % (folder, last)),
        )  # fmt: skip
        if kind == SYMLINK:
            entry.target, entry.raw_target = text_and_raw(os.readlink(last, dir_fd=folder))
        elif kind in (CHAR, BLOCK):
            entry.device = (os.major(found.st_rdev), os.minor(found.st_rdev))
        return entry

    def _regular(self, opened: Opened, name: bytes) -> Item | None:
        """A file and its content; None when it is none any more. The descriptor is closed."""
        if isinstance(opened, OSError):
            if opened.errno == errno.ELOOP:  # a symbolic link took its place
                return None
            raise opened
        descriptor = opened
        try:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                return None
            for attempt in range(ATTEMPTS):
                before = os.fstat(descriptor) if attempt else before
                chunks: list[Chunk] = []
                self._content(descriptor, before, 0, before.st_size, chunks)
                after = os.fstat(descriptor)
                if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
                    break
            else:
                self.result.changed.append(name)
            return Item(self._entry(name, before, descriptor), chunks, stamp(before, self.stamps_before_ns))
        finally:
            os.close(descriptor)

    def _entry(self, name: bytes, found: os.stat_result, descriptor: int) -> Entry:
        path, raw = text_and_raw(name)
        return Entry(
            path=path, raw=raw, type=FILE, mode=stat.S_IMODE(found.st_mode), uid=found.st_uid, gid=found.st_gid,
            mtime=mtime_of(found), size=found.st_size, xattrs=read_xattrs(descriptor), flags=read_flags(descriptor),
        )  # fmt: skip

    def _part(self, part: Part) -> list[Item]:
        """What can be read of it. The file has its entry from the first part on: whatever happens to a later one, its
        line is there, so that a restore leaves nothing of an older file, and the file is listed."""
        path, raw = text_and_raw(part.name)
        chunks: list[Chunk] = []
        entry: Entry | None = Entry(path=path, raw=raw, type=MORE, size=part.at) if part.at else None
        try:
            with self._opened(part) as descriptor:
                found = os.fstat(descriptor)
                if entry is None:
                    entry = self._entry(part.name, found, descriptor)
                    entry.size = part.size
                self._content(descriptor, found, part.at, min(part.at + PART_BYTES, part.size), chunks)
                after = os.fstat(descriptor)
            if (after.st_size, mtime_of(after)) != (part.size, part.mtime):
                self.result.changed.append(part.name)
        except OSError as error:
            if entry is None:
                self._drop(part.name, error)
                return []
            self.result.unreadable.append((part.name, unread_from(part.at, error)))
        return [Item(entry, chunks, part.stamp)]

    @contextmanager
    def _opened(self, part: Part) -> Iterator[int]:
        descriptor = open_file(part.name, self._root(part.volume))
        if isinstance(descriptor, OSError):
            raise descriptor
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    # --- content --------------------------------------------------------------------------------------------------

    def _content(self, descriptor: int, found: os.stat_result, start: int, end: int, chunks: list[Chunk]) -> None:
        """Chunks of the bytes from ``start`` to ``end``; holes and zero runs are left out."""
        # Enough blocks do not mean that there is no hole: some may lie beyond the end, or be taken and never written.
        if found.st_blocks * 512 >= found.st_size and found.st_size <= HOLE_BYTES:
            self._run(descriptor, start, end, chunks)
            return
        while start < end:
            try:
                start = os.lseek(descriptor, start, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return  # nothing but a hole up to the end
                raise
            stop = min(os.lseek(descriptor, start, os.SEEK_HOLE), end)
            self._run(descriptor, start, stop, chunks)
            start = max(stop, start + 1)

    def _run(self, descriptor: int, start: int, end: int, chunks: list[Chunk]) -> None:
        while start < end:
            stop = min(end, (start // CHUNK_BYTES + 1) * CHUNK_BYTES)
            data = uncached.read(descriptor, stop - start, start)
            if not data:
                return  # the file became shorter
            if len(data) < HOLE_BYTES or data[0] or data[-1] or data.count(0) != len(data):
                self._take(data, start, chunks)
            start += len(data)

    def _take(self, data: bytes | bytearray, at: int, chunks: list[Chunk]) -> None:
        """Content that waits for its place."""
        self.pending.append(Pending(blake3(data).digest(), data, at, chunks))
        self.pending_bytes += len(data)
        if self.pending_bytes >= FRAME_BYTES:
            self._flush()

    def _flush(self) -> None:
        """Ask for the places of what is pending; meanwhile compress what was asked for before."""
        pending, self.pending, self.pending_bytes = self.pending, [], 0
        if pending:
            request = Locate(b"".join(each.id for each in pending), [len(each.data) for each in pending])
            self.ask.send(msgspec.msgpack.encode(request))
        asked, self._asked = self._asked, pending
        if asked:
            self._store(asked, msgspec.msgpack.decode(self.ask.receive(), type=Places))

    def _store(self, asked: list[Pending], answer: Places) -> None:
        """One frame of what is new."""
        new: list[bytes | bytearray] = []
        table: list[tuple[bytes, int, int]] = []
        reached = 0
        for each, (number, offset) in zip(asked, answer.places, strict=True):
            if number == answer.number and offset == reached:
                new.append(each.data)
                table.append((each.id, offset, len(each.data)))
                reached += len(each.data)
            each.holder.append(Chunk(each.at, len(each.data), number, offset, each.id.hex()))
        if new:
            frame = self.packs.append(new[0] if len(new) == 1 else b"".join(new), table)
            row = (answer.number, frame.pack, frame.offset, frame.stored, frame.plain, frame.raw, frame.digest)
            self.result.frames.append(row)


def without_reading(batch: Batch) -> Done:
    """The result of a batch in which nothing has to be read."""
    done = Done(batch.seq, batch.volume)
    stamps = iter(batch.stamps)
    written: list[Item] = []
    for folder, own, names in batch.folders:
        if own is not None:
            written.append(Item(own, [], next(stamps)))
        for name in names:
            if isinstance(name, Entry):
                written.append(known(name, stamps))
            else:
                written.append(link(_join(folder, name[0]), name[1], done))
    finish(done, written)
    return done


def known(entry: Entry, stamps: Iterator[Stamp]) -> Item:
    """An entry of the last image, as it is."""
    return Item(entry, list(entry.chunks), NONE if entry.type == MORE else next(stamps))


def link(name: bytes, target: bytes, result: Done) -> Item:
    path, raw = text_and_raw(name)
    text, raw_target = text_and_raw(target)
    result.links.append(target)
    return Item(Entry(path=path, raw=raw, type=HARDLINK, target=text, raw_target=raw_target), [])


def finish(result: Done, written: list[Item]) -> None:
    """Lines of all entries, now that every chunk has its place."""
    used: set[int] = set()
    entries: list[Entry] = []
    stamps: list[Stamp] = []
    for entry, chunks, mark in written:
        if chunks:
            entry.chunks = tuple(chunks)
            used.update(chunk.frame for chunk in chunks)
            result.content_bytes += sum(chunk.size for chunk in chunks)
        entries.append(entry)
        if entry.type != MORE:
            stamps.append(mark)
    result.entries = len(stamps)
    result.lines = ENCODER.encode_lines(entries)
    result.stamps = encode(stamps)
    result.used = sorted(used)


def is_to_read(name: Name) -> bool:
    """Whether it is a file of its own, and no further name of another one."""
    _, target, regular = name
    return regular and not target


def unread_from(at: int, error: OSError) -> str:
    """Why a large file is not whole."""
    if error.errno in VANISHED:
        return f"vanished while it was read, from byte {at:,}"
    return f"from byte {at:,}: {error.strerror or error}"


def _join(folder: bytes, last: bytes) -> bytes:
    return folder + b"/" + last if folder else last
