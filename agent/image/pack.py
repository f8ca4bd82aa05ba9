"""Packs: immutable files of about 64 MiB that hold chunks in compressed frames.

    frame │ frame │ … │ table │ trailer

A frame is one zstd frame (or raw bytes where compression gains nothing) that holds one or many chunks. The table
says where each frame and each chunk is; restores do not need it, because listings say the same and are signed for,
but a depot can be rebuilt and checked from packs alone. Format of record: docs/formats.md.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import zstandard
from blake3 import blake3

from agent.depot.store import Depot, pack_path
from agent.errors import DamagedError
from agent.model.image import ObjectRef

LEVEL = 3
# With smaller tables than that level has: they stay in a processor's nearer caches, which gains more time (9 %) than it
# costs bytes (2 %).
PARAMETERS = zstandard.ZstdCompressionParameters.from_level(LEVEL, window_log=21, hash_log=15, chain_log=14)
PACK_BYTES = 64 << 20
FRAME_BYTES = 1 << 18  # a frame is closed once it holds so much
CHUNK_BYTES = 1 << 20  # slices of files larger than this
MAX_FRAME_BYTES = 8 << 20  # what a reader accepts: a frame never unfolds to more
MAX_TABLE_BYTES = 64 << 20
FULL_TABLE_BYTES = 8 << 20  # a pack of very small files ends here: its table is held in memory while it is written
RAW_FROM = 0.97  # stored raw when compression leaves more than this share

MAGIC = b"RGRFTPK1"
TRAILER = struct.Struct("<QIIII32s8s")  # table offset, stored, plain, frames, chunks, BLAKE3 of stored table, magic
FRAME_ROW = struct.Struct("<QIIIB3x32s")  # offset, stored, plain, chunks, raw, BLAKE3 of stored bytes
CHUNK_ROW = struct.Struct("<32sII")  # id, offset in the plain frame, size


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a frame is; ``pack`` is an index into a list of packs that the holder knows."""

    pack: int
    offset: int
    stored: int
    plain: int
    raw: bool
    digest: bytes  # BLAKE3 of the stored bytes


class PackWriter:
    """Appends frames to one pack after another in ``folder``; a finished pack is handed on by `finish`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._sha256 = hashlib.sha256()
        self._frames = bytearray()
        self._chunks = bytearray()
        self._counts = [0, 0]
        self._compressor = zstandard.ZstdCompressor(compression_params=PARAMETERS)
        self.size = 0

    def append(self, pack: int, plain: bytes | bytearray, chunks: list[tuple[bytes, int, int]]) -> Frame:
        """Compress and append one frame that holds ``chunks`` (id, offset, size)."""
        stored: bytes | bytearray = self._compressor.compress(plain)
        raw = len(stored) > len(plain) * RAW_FROM
        if raw:
            stored = plain
        digest = blake3(stored).digest()
        frame = Frame(pack, self.size, len(stored), len(plain), raw, digest)
        self._write(stored)
        self._frames += FRAME_ROW.pack(frame.offset, frame.stored, frame.plain, len(chunks), raw, digest)
        for chunk in chunks:
            self._chunks += CHUNK_ROW.pack(*chunk)
        self._counts[0] += 1
        self._counts[1] += len(chunks)
        return frame

    @property
    def is_full(self) -> bool:
        return self.size >= PACK_BYTES or len(self._frames) + len(self._chunks) >= FULL_TABLE_BYTES

    def finish(self) -> ObjectRef:
        """Write table and trailer; the file is complete."""
        plain = bytes(self._frames + self._chunks)
        stored = self._compressor.compress(plain)
        offset = self.size
        self._write(stored)
        digest = blake3(stored).digest()
        self._write(TRAILER.pack(offset, len(stored), len(plain), *self._counts, digest, MAGIC))
        os.close(self._file)
        self._file = -1
        return ObjectRef(self._sha256.hexdigest(), self.size)

    def abandon(self) -> None:
        """Close and remove an unfinished pack."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self.path.unlink(missing_ok=True)

    def _write(self, data: bytes | bytearray) -> None:
        self._sha256.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        self.size += len(data)


def check_table(depot: Depot, pack: ObjectRef) -> None:
    """That the pack is whole at its end: with the frames' digests every byte of it is covered."""
    _read_table(depot, pack)


def table_bytes(depot: Depot, pack: ObjectRef) -> int:
    """What table and trailer take of a pack; raises as `check_table`."""
    return len(_read_table(depot, pack)[0]) + TRAILER.size


def read_table(depot: Depot, pack: ObjectRef) -> tuple[list[Frame], list[tuple[bytes, int, int, int]]]:
    """The frames of a pack and its chunks (id, frame, offset, size), or DamagedError naming the place."""
    packed, plain, frame_count, end = _read_table(depot, pack)
    path = pack_path(pack.sha256)
    try:
        # The frame's own header is asked first: it may not promise more than the trailer does.
        fits = zstandard.frame_content_size(packed) == plain
        table = zstandard.ZstdDecompressor().decompress(packed) if fits else b""
    except zstandard.ZstdError:
        table = b""
    if len(table) != plain:
        raise _table_damaged(path, end)
    return _decode_table(table, frame_count, end, path)


def _read_table(depot: Depot, pack: ObjectRef) -> tuple[bytes, int, int, int]:
    """The stored table, its plain size, the number of frames, and where the table begins."""
    path = pack_path(pack.sha256)
    tail = bytearray(TRAILER.size)
    start = pack.size_bytes - TRAILER.size
    if start < 0:
        raise DamagedError(f"{path} has {pack.size_bytes:,} bytes, a pack has at least {TRAILER.size}")
    try:
        depot.read_into(path, start, memoryview(tail))
        offset, stored, plain, frames, chunks, digest, magic = TRAILER.unpack(tail)
        expected = frames * FRAME_ROW.size + chunks * CHUNK_ROW.size
        if magic != MAGIC or plain != expected or max(plain, stored) > MAX_TABLE_BYTES or offset + stored != start:
            raise _table_damaged(path, start)
        packed = bytearray(stored)
        depot.read_into(path, offset, memoryview(packed))
    except FileNotFoundError:
        raise DamagedError(f"{path} is absent from depot {depot.location}", "copy it from a second depot") from None
    if blake3(packed).digest() != digest:
        raise _table_damaged(path, offset)
    return bytes(packed), plain, frames, offset


def _decode_table(
    table: bytes, frame_count: int, table_offset: int, path: str
) -> tuple[list[Frame], list[tuple[bytes, int, int, int]]]:
    frames: list[Frame] = []
    chunks: list[tuple[bytes, int, int, int]] = []
    rows = CHUNK_ROW.iter_unpack(table[frame_count * FRAME_ROW.size :])
    end = 0
    for number, row in enumerate(FRAME_ROW.iter_unpack(table[: frame_count * FRAME_ROW.size])):
        offset, stored, plain, count, raw, digest = row
        good = 0 < plain <= MAX_FRAME_BYTES and 0 < stored <= 2 * MAX_FRAME_BYTES and (not raw or stored == plain)
        if offset != end or not good:
            raise _table_damaged(path, offset)
        end = offset + stored
        frames.append(Frame(0, offset, stored, plain, bool(raw), digest))
        for _ in range(count):
            id_, at, size = next(rows, (b"", 0, 0))
            if at + size > plain or not size:
                raise _table_damaged(path, offset)
            chunks.append((id_, number, at, size))
    if end != table_offset:
        raise _table_damaged(path, end)
    return frames, chunks


def _table_damaged(path: str, offset: int) -> DamagedError:
    return DamagedError(
        f"the table of {path} at byte {offset:,} is damaged",
        "copy the pack from a second depot; the name is its SHA-256",
    )
