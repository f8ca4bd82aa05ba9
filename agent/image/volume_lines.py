"""What a capture learns of one volume, written down as it comes: entry lines, and stamps beside them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import zstandard

from agent.image.at_once import FrameWriter
from agent.image.listing import FRAME_BYTES
from agent.image.pack import LEVEL
from agent.image.read_work import Done


class VolumeLines:
    """The entry lines of one volume and their stamps, compressed as they come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stamps_path = path.with_suffix(".marks")
        self._files = (path.open("wb"), self.stamps_path.open("wb"))
        self._writer = FrameWriter(self._files[0], LEVEL, FRAME_BYTES)
        self._stamps = _compressed(self._files[1])
        self.used = bytearray()  # one byte a frame: whether this volume refers to it
        self.entries = 0
        self.content_bytes = 0

    def add(self, done: Done) -> None:
        self._writer.write(done.lines)
        self._stamps.write(done.stamps)
        self.entries += done.entries
        self.content_bytes += done.content_bytes
        if done.used:
            self.used.extend(bytes(max(0, done.used[-1] + 1 - len(self.used))))
        for number in done.used:
            self.used[number] = 1

    def close(self) -> None:
        self._writer.flush()
        self._files[0].close()
        self._stamps.close()  # type: ignore[no-untyped-call]  # zstandard types none of its own

    def abandon(self) -> None:
        """Close the files whatever happened to them: an open file takes room even where its name is gone."""
        for file in self._files:
            with suppress(OSError):
                file.close()


def _compressed(file: BinaryIO) -> zstandard.ZstdCompressionWriter:
    return zstandard.ZstdCompressor(level=LEVEL).stream_writer(file, closefd=True)
