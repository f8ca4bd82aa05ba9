"""Writes a blocks volume onto a partition: used blocks where they were, used zeros as zeros, the rest untouched.

    listing ──► parent: lines as tasks ──► workers: fetch, check, unfold, write at its place

What is there already and right stays: a worker looks before it writes, and the longer nothing was right, the more it
writes before it looks again. So a blank disk is hardly read, and a run that was cut, or an older copy, is kept.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from blake3 import blake3

from agent.depot.catalogue import LoadedImage
from agent.depot.store import Depot
from agent.errors import DamagedError, DoesNotFitError, TargetIOError, UsageError
from agent.image.entry import Chunk, Entry
from agent.image.frames import FrameReader
from agent.image.listing import Listing, open_listing
from agent.image.pack import check_table
from agent.image.used_blocks import device_bytes
from agent.image.workers import Ask, fetching_jobs, pool
from agent.image.write import PROGRESS_S, WriteResult, find_volume
from agent.image.write_work import Written, wanted_frames
from agent.model.events import Emit, Event
from agent.model.image import BLOCKS, Volume

PIECE_BYTES = 1 << 20
ZEROS = bytes(PIECE_BYTES)
MOST_UNSEEN = 64  # chunks that are written before a worker looks again whether one is right already
PAGE_BYTES = 4096
_BLKZEROOUT = 0x127F  # linux/fs.h


def find_blocks(loaded: LoadedImage, volume_id: str) -> Volume:
    """The blocks volume of that name, or UsageError."""
    volume = find_volume(loaded, volume_id)
    if volume.kind != BLOCKS:
        raise UsageError(f"volume {volume_id} of {loaded.manifest.ref} holds a {volume.kind}, expected blocks")
    return volume


def write_blocks(  # noqa: PLR0913 - as for trees
    depot: Depot, loaded: LoadedImage, volume_id: str, node: Path, emit: Emit, jobs: int | None = None
) -> WriteResult:
    """Make the used blocks of ``node``, a partition or an image file, those of the volume. Flushed when it returns."""
    volume = find_blocks(loaded, volume_id)
    refuse_smaller(volume, node)
    started = time.monotonic()
    with open_listing(depot, loaded.manifest, volume) as listing:
        for pack in loaded.manifest.packs:
            if pack.sha256 in volume.packs:
                check_table(depot, pack)
        run = _Run(volume, node, emit)
        run.write(depot, listing, jobs or fetching_jobs(depot))
    return run.result(time.monotonic() - started)


def refuse_smaller(volume: Volume, node: Path) -> None:
    """Blocks have their places: what they are put on must reach as far."""
    there = device_bytes(node)
    if there < volume.size_bytes:
        raise DoesNotFitError(
            f"{node} has {there:,} bytes, volume {volume.id} (blocks of {volume.filesystem.kind or 'unknown content'}) "
            f"needs {volume.size_bytes:,}",
            "choose a larger disk: a volume of blocks cannot shrink",
        )


def block_entries(listing: Listing, volume: Volume) -> Iterator[Entry]:
    """The lines of a blocks volume, the size they speak of compared with the manifest's."""
    for entries in listing.entries():
        for entry in entries:
            if entry.type == BLOCKS and entry.size != volume.size_bytes:
                raise DamagedError(
                    f"{listing.name} speaks of {entry.size:,} bytes, the manifest of {volume.size_bytes:,}",
                    "capture the image again",
                )
            yield entry


@dataclass(slots=True)
class _Run:
    """One write under way: the parent of the workers."""

    volume: Volume
    node: Path
    emit: Emit
    total: Written = field(default_factory=Written)
    _told: float = 0.0

    def write(self, depot: Depot, listing: Listing, jobs: int) -> None:
        def work(number: int, ask: Ask) -> None:
            BlockWriter(self.node, FrameReader(depot, listing.frames), ask).run()

        encode = msgspec.json.Encoder().encode
        tasks = (encode(entry) for entry in block_entries(listing, self.volume))
        with ExitStack() as stack:
            descriptor = os.open(self.node, os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            workers = stack.enter_context(pool(work, jobs))
            for _, message in workers.hand_out(tasks):
                self._add(msgspec.msgpack.decode(message, type=Written))
            os.fsync(descriptor)

    def result(self, seconds: float) -> WriteResult:
        return WriteResult(
            entries=1, bytes_written=self.total.written, bytes_kept=self.total.kept, bytes_fetched=self.total.fetched,
            removed=0, seconds=round(seconds, 2),
        )  # fmt: skip

    def _add(self, part: Written) -> None:
        self.total.done += part.done
        self.total.written += part.written
        self.total.kept += part.kept
        self.total.fetched += part.fetched
        now = time.monotonic()
        if now - self._told >= PROGRESS_S:
            self._told = now
            self.emit(Event(seq=0, time="", kind="progress", phase="write", done=self.total.done,
                            total=self.volume.content_bytes, unit="bytes"))  # fmt: skip


@dataclass(slots=True)
class BlockWriter:
    """One worker."""

    node: Path
    frames: FrameReader
    ask: Ask
    result: Written = field(default_factory=Written)
    _descriptor: int = -1
    _direct: int = -1  # the same device, past the page cache; -1: it cannot
    _buffer: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, PIECE_BYTES))  # where a page begins
    _device: bool = False
    _unseen: int = 0  # chunks still to be written without a look
    _stride: int = 0  # how many were last time

    def run(self) -> None:
        """Ask for lines until there are none."""
        self._descriptor = os.open(self.node, os.O_RDWR | os.O_CLOEXEC)
        self._device = stat.S_ISBLK(os.fstat(self._descriptor).st_mode)
        self._direct = self._open_direct() if self._device else -1
        decoder = msgspec.json.Decoder(Entry)
        for task in self.ask.tasks(self._take_result):
            before = self.frames.fetched
            entry = decoder.decode(task)
            try:
                self._line(entry)
            except OSError as error:
                where = f"{self.node}, from byte {entry.chunks[0].at if entry.chunks else 0:,}: {error.strerror}"
                raise TargetIOError(where, "look at the kernel log and the disk's health") from None
            self.result.fetched += self.frames.fetched - before

    def _take_result(self) -> bytes:
        done, self.result = self.result, Written()
        return msgspec.msgpack.encode(done)

    def _line(self, entry: Entry) -> None:
        new = [chunk for chunk in entry.chunks if not self._is_right(chunk)]
        self.frames.want(wanted_frames([msgspec.structs.replace(entry, chunks=tuple(new))]))
        for chunk in new:
            plain = self.frames.get(chunk.frame)
            self._write(memoryview(plain)[chunk.offset : chunk.offset + chunk.size], chunk.at)
            self.result.written += chunk.size
        for at, size in entry.zeros:
            self._zero(at, size)
        written = sum(chunk.size for chunk in new)
        self.result.done += sum(chunk.size for chunk in entry.chunks)
        self.result.kept += sum(chunk.size for chunk in entry.chunks) - written

    def _is_right(self, chunk: Chunk) -> bool:
        if self._unseen:
            self._unseen -= 1
            return False
        right = blake3(os.pread(self._descriptor, chunk.size, chunk.at)).hexdigest() == chunk.id
        self._stride = 0 if right else min(2 * self._stride + 1, MOST_UNSEEN)
        self._unseen = self._stride
        return right

    def _open_direct(self) -> int:
        try:
            return os.open(self.node, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError:
            return -1

    def _write(self, view: memoryview, at: int) -> None:
        """Whole pages past the page cache, which they would only pass through; never a page that others share."""
        if self._direct >= 0 and at % PAGE_BYTES == 0 and len(view) % PAGE_BYTES == 0:
            for start in range(0, len(view), PIECE_BYTES):
                piece = view[start : start + PIECE_BYTES]
                self._buffer[: len(piece)] = piece
                with memoryview(self._buffer) as aligned:
                    self._put(self._direct, aligned[: len(piece)], at + start)
        else:
            self._put(self._descriptor, view, at)

    def _put(self, descriptor: int, view: memoryview, at: int) -> None:
        while view:
            count = os.pwrite(descriptor, view, at)
            view, at = view[count:], at + count

    def _zero(self, at: int, size: int) -> None:
        """Zeros, by the device itself where it can: whole pages only, others may be shared with a neighbour."""
        first, last = -(-at // PAGE_BYTES) * PAGE_BYTES, (at + size) // PAGE_BYTES * PAGE_BYTES
        if self._device and last > first and self._zeroed_by_device(first, last - first):
            self._write_zeros(at, first - at)
            self._write_zeros(last, at + size - last)
        else:
            self._write_zeros(at, size)

    def _zeroed_by_device(self, at: int, size: int) -> bool:
        try:
            fcntl.ioctl(self._descriptor, _BLKZEROOUT, struct.pack("<QQ", at, size))
        except OSError as error:
            if error.errno in (errno.EIO, errno.ENOSPC):
                raise
            return False
        return True

    def _write_zeros(self, at: int, size: int) -> None:
        for start in range(at, at + size, PIECE_BYTES):
            self._write(memoryview(ZEROS)[: min(PIECE_BYTES, at + size - start)], start)
