"""Reads a partition back and compares it with a blocks volume: every used block, and the zeros among them."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from blake3 import blake3

from agent.depot.catalogue import LoadedImage
from agent.depot.store import Depot
from agent.image.entry import Entry
from agent.image.listing import Listing, open_listing
from agent.image.verify import KEPT_MISMATCHES, PROGRESS_S, Compared, VerifyResult
from agent.image.workers import Ask, default_jobs, pool
from agent.image.write_blocks import PIECE_BYTES, ZEROS, block_entries, find_blocks, refuse_smaller
from agent.model.events import Emit, Event
from agent.model.image import Volume


def verify_blocks(  # noqa: PLR0913 - as for trees
    depot: Depot, loaded: LoadedImage, volume_id: str, node: Path, emit: Emit, jobs: int | None = None
) -> VerifyResult:
    """Compare the used blocks on ``node``, a partition or an image file. What is not used may be anything."""
    volume = find_blocks(loaded, volume_id)
    refuse_smaller(volume, node)
    started = time.monotonic()
    with open_listing(depot, loaded.manifest, volume) as listing:
        run = _Run(volume, node, emit)
        run.verify(listing, jobs or default_jobs())
    return VerifyResult(tuple(run.mismatches), run.read, 1, round(time.monotonic() - started, 2))


@dataclass(slots=True)
class _Run:
    """One comparison under way: the parent of the workers."""

    volume: Volume
    node: Path
    emit: Emit
    mismatches: list[str] = field(default_factory=list)
    read: int = 0
    _told: float = 0.0

    def verify(self, listing: Listing, jobs: int) -> None:
        def work(number: int, ask: Ask) -> None:
            BlockComparer(self.node, ask).run()

        encode = msgspec.json.Encoder().encode
        tasks = (encode(entry) for entry in block_entries(listing, self.volume))
        with pool(work, jobs) as workers:
            for _, message in workers.hand_out(tasks):
                part = msgspec.msgpack.decode(message, type=Compared)
                self.read += part.read
                self.mismatches.extend(part.mismatches[: KEPT_MISMATCHES - len(self.mismatches)])
                self._progress()

    def _progress(self) -> None:
        now = time.monotonic()
        if now - self._told >= PROGRESS_S:
            self._told = now
            self.emit(Event(seq=0, time="", kind="progress", phase="verify", done=self.read,
                            total=max(self.volume.content_bytes, self.read), unit="bytes"))  # fmt: skip


@dataclass(slots=True)
class BlockComparer:
    """The comparing worker."""

    node: Path
    ask: Ask
    result: Compared = field(default_factory=Compared)
    _descriptor: int = -1

    def run(self) -> None:
        self._descriptor = os.open(self.node, os.O_RDONLY | os.O_CLOEXEC)
        decoder = msgspec.json.Decoder(Entry)
        for task in self.ask.tasks(self._take_result):
            entry = decoder.decode(task)
            for chunk in entry.chunks:
                if blake3(self._at(chunk.at, chunk.size)).hexdigest() != chunk.id:
                    self._differs(chunk.at, chunk.size, "differ")
            for at, size in entry.zeros:
                self._zeros(at, size)

    def _zeros(self, at: int, size: int) -> None:
        for start in range(at, at + size, PIECE_BYTES):
            count = min(PIECE_BYTES, at + size - start)
            if self._at(start, count) != ZEROS[:count]:
                self._differs(start, count, "hold data where the image has zeros")

    def _at(self, at: int, size: int) -> bytes:
        """Nothing where it cannot be read, which is then found to differ."""
        try:
            data = os.pread(self._descriptor, size, at)
        except OSError:
            return b""
        self.result.read += len(data)
        return data

    def _differs(self, at: int, size: int, how: str) -> None:
        self.result.mismatches.append(f"{self.node}: bytes {at:,} to {at + size:,} {how}")

    def _take_result(self) -> bytes:
        done, self.result = self.result, Compared()
        return msgspec.msgpack.encode(done)
