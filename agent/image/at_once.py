"""Zstandard frames unfolded whole, each in one go: quicker than a stream where all is to be in memory anyway.

Source of the format: RFC 8878, sections 3.1.1 (frames) and 3.1.1.2 (blocks).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import zstandard

_MAGIC = b"\x28\xb5\x2f\xfd"
_BLOCK_HEADER_BYTES, _CHECKSUM_BYTES = 3, 4
_LAST, _RLE, _RESERVED = 1, 1, 3  # a bit of a block's header; two kinds of blocks


class FrameWriter:
    """Text in frames of their own, each of whole pieces as they were given, with its size in its header."""

    def __init__(self, file: BinaryIO, level: int, frame_bytes: int) -> None:
        self._file = file
        self._compressor = zstandard.ZstdCompressor(level=level)
        self._frame_bytes = frame_bytes
        self._pieces: list[bytes] = []
        self._held_bytes = 0

    def write(self, piece: bytes) -> None:
        if self._held_bytes + len(piece) > self._frame_bytes:
            self.flush()
        self._pieces.append(piece)
        self._held_bytes += len(piece)

    def flush(self) -> None:
        """Write what is held as a frame; nothing where that is nothing."""
        if self._held_bytes:
            self._file.write(self._compressor.compress(b"".join(self._pieces)))
        self._pieces, self._held_bytes = [], 0


def unfolded(data: bytes, limit_bytes: int) -> list[bytes] | None:
    """What each frame holds; None where that is more than ``limit_bytes`` together, or not said, or not sound.

    Nothing is unfolded before all have said their sizes, and none to more than it said.
    """
    decompressor = zstandard.ZstdDecompressor()
    view = memoryview(data)
    try:
        sizes, frames = zip(*_frames(view), strict=True) if data else ((), ())
        if sum(sizes) > limit_bytes:
            return None
        return [decompressor.decompress(frame) for frame in frames]
    except (zstandard.ZstdError, ValueError):
        return None


def _frames(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Every frame, with the number of bytes that it says it unfolds to. ValueError where it does not say that."""
    at = 0
    while at < len(view):
        rest = view[at:]
        said = zstandard.get_frame_parameters(rest)
        if rest[: len(_MAGIC)] != _MAGIC or said.content_size == zstandard.CONTENTSIZE_UNKNOWN:
            raise ValueError("a frame of another kind, or without its size")
        size = _blocks_end(rest, zstandard.frame_header_size(rest)) + (_CHECKSUM_BYTES if said.has_checksum else 0)
        if size > len(rest):
            raise ValueError("a frame that is cut off")
        yield said.content_size, rest[:size]
        at += size


def _blocks_end(frame: memoryview, at: int) -> int:
    """Behind the last of the blocks that begin at a place of a frame."""
    is_last = False
    while not is_last:
        header = int.from_bytes(frame[at : at + _BLOCK_HEADER_BYTES], "little")
        kind, size = header >> 1 & 3, header >> 3
        is_last = bool(header & _LAST) or at >= len(frame)
        if kind == _RESERVED:
            raise ValueError("a block of a kind that does not exist")
        at += _BLOCK_HEADER_BYTES + (1 if kind == _RLE else size)
    return at
