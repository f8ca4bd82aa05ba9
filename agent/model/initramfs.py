"""What an initramfs holds: concatenated cpio archives (newc), early ones plain, the last one compressed.

As the kernel unpacks it (Documentation/driver-api/early-userspace/buffer-format.rst): archives may follow one another,
padded with zero bytes, each compressed or not. Names only; sizes are capped, so that nothing can fill the memory.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable
from typing import Protocol

import zstandard

from agent.errors import DamagedError
from agent.model.drivers import module_name

LIMIT_BYTES = 2 << 30  # unpacked; the largest initramfs of a distribution is a few hundred MiB
_PIECE = 1 << 20
_HEADER_BYTES = 110
_NAME_LIMIT_BYTES = 4096
_MAGIC = (b"070701", b"070702")  # newc, and newc with checksums
_TRAILER = "TRAILER!!!"
_MODULE_SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")
Unpack = Callable[[bytes], bytes]


def list_initramfs(data: bytes, lz4: Unpack | None = None) -> frozenset[str]:
    """Paths inside an initramfs, without a leading slash. Raises DamagedError saying where reading ended.

    ``lz4`` unpacks what no library of ours can: the legacy frame that ``lz4 -l`` writes.
    """
    stream = _Stream()
    view, position = memoryview(data), 0
    while position < len(data):
        if stream.between and data[position] == 0:
            position += 1  # padding between archives
        elif stream.between and bytes(view[position : position + 6]) in _MAGIC:
            position += stream.one_archive(view[position:])
        else:
            position = _compressed(data, position, stream, lz4)
    if not stream.between:
        raise DamagedError("initramfs: its last archive has no end", "it was cut")
    if not stream.names:
        raise DamagedError("initramfs: no file in it", "it is empty or not an initramfs")
    return frozenset(stream.names)


def modules_in(paths: Iterable[str]) -> frozenset[str]:
    """Names of the kernel modules among paths, dashes folded."""
    return frozenset(module_name(path) for path in paths if path.endswith(_MODULE_SUFFIXES))


def missing_modules(paths: Iterable[str], wanted: Iterable[str], builtin: frozenset[str]) -> tuple[str, ...]:
    """Those of ``wanted`` that are neither in the initramfs nor built into its kernel."""
    have = modules_in(paths) | builtin
    return tuple(sorted(name for name in wanted if name not in have))


class _Stream:
    """Archives one after another, in pieces of any size; names are kept, contents are skipped."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.between = True  # no archive is open: zero bytes are padding
        self._rest = b""
        self._skip = 0
        self._total = 0

    def one_archive(self, piece: memoryview) -> int:
        """Read up to the end of the archive that begins here; the bytes it took."""
        self.between = False
        taken = 0
        while taken < len(piece) and not self.between:
            taken += self._step(piece[taken:])
        return taken

    def feed(self, piece: memoryview) -> None:
        """Read all of a piece."""
        self._total += len(piece)
        if self._total > LIMIT_BYTES:
            raise DamagedError(f"initramfs: more than {LIMIT_BYTES:,} bytes unpacked")
        while len(piece):
            if self.between and piece[0] == 0:
                zeros = len(piece) - len(bytes(piece[:512]).lstrip(b"\0")) - max(0, len(piece) - 512)
                piece = piece[max(zeros, 1) :]
                continue
            self.between = False
            piece = piece[self._step(piece) :]

    def _step(self, piece: memoryview) -> int:
        """Skip contents, or complete a header and its name; the bytes it took."""
        if self._skip:
            step = min(self._skip, len(piece))
            self._skip -= step
            return step
        need = self._missing()
        chunk = bytes(piece[:need])
        self._rest += chunk
        if len(chunk) == need:
            self._entry()
        return len(chunk)

    def _missing(self) -> int:
        """Bytes still needed for the header, then for header and name."""
        if len(self._rest) < _HEADER_BYTES:
            return _HEADER_BYTES - len(self._rest)
        return _padded(_HEADER_BYTES + self._field(11)) - len(self._rest)

    def _field(self, number: int) -> int:
        """One of the thirteen numbers of a header, eight hexadecimal digits each."""
        try:
            return int(self._rest[6 + 8 * number : 14 + 8 * number], 16)
        except ValueError:
            raise DamagedError("initramfs: a cpio header is damaged") from None

    def _entry(self) -> None:
        if len(self._rest) == _HEADER_BYTES:
            if self._rest[:6] not in _MAGIC:
                raise DamagedError(f"initramfs: a cpio header begins with {self._rest[:6]!r}, expected {_MAGIC[0]!r}")
            if not 0 < self._field(11) <= _NAME_LIMIT_BYTES:
                raise DamagedError(f"initramfs: a name of {self._field(11):,} bytes")
            return
        name = self._rest[_HEADER_BYTES : _HEADER_BYTES + self._field(11) - 1].decode("utf-8", "surrogateescape")
        self._skip = _padded(self._field(6))
        self._rest = b""
        if name == _TRAILER:
            self.between = True
        elif name not in (".", ""):
            self.names.add(name.removeprefix("./").lstrip("/"))


def _padded(size: int) -> int:
    return (size + 3) & ~3


class _Decompressor(Protocol):
    """What zlib, bz2, lzma and zstandard have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def _decompressor(head: bytes) -> tuple[str, _Decompressor | None]:
    """By the first bytes; None for lz4."""
    if head[:2] == b"\x1f\x8b":
        return "gzip", zlib.decompressobj(wbits=31)
    if head == b"\xfd7zXZ\0":
        return "xz", lzma.LZMADecompressor(format=lzma.FORMAT_XZ)
    if head[:3] == b"\x5d\0\0":
        return "lzma", lzma.LZMADecompressor(format=lzma.FORMAT_ALONE)
    if head[:3] == b"BZh":
        return "bzip2", bz2.BZ2Decompressor()
    if head[:4] == b"\x28\xb5\x2f\xfd":
        # The window that `zstd --ultra --long=27` may ask for, and the kernel's limit.
        return "zstd", zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
    if head[:4] == b"\x02\x21\x4c\x18":
        return "lz4", None
    raise DamagedError(f"initramfs: unknown format {head.hex()}", "known: gzip, xz, zstd, bzip2, lzma, lz4, plain cpio")


def _compressed(data: bytes, start: int, stream: _Stream, lz4: Unpack | None) -> int:
    """Read the compressed part at ``start``; where it ends."""
    name, unpacker = _decompressor(data[start : start + 6])
    where = f"initramfs: the {name} part at byte {start:,}"
    if unpacker is None:
        if lz4 is None:
            raise DamagedError(f"{where} cannot be unpacked here", "rebuild the initramfs with zstd")
        stream.feed(memoryview(lz4(data[start:])))
        return len(data)
    position = start
    try:
        while position < len(data) and not unpacker.eof:
            piece = data[position : position + _PIECE]
            stream.feed(memoryview(unpacker.decompress(piece)))
            position += len(piece)
    except (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError) as error:
        raise DamagedError(f"{where} is damaged: {error}") from error
    if not unpacker.eof:
        raise DamagedError(f"{where} is cut")
    return position - len(unpacker.unused_data)
