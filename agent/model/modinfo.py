"""What a kernel module says of itself: the ``.modinfo`` section of its ELF file, as modinfo(8) shows it."""

from __future__ import annotations

import gzip
import lzma
import struct
from collections.abc import Iterator

import zstandard

from agent.errors import DamagedError

_LIMIT_BYTES = 256 << 20


def modinfo(data: bytes, name: str) -> Iterator[tuple[str, str]]:
    """(key, value) of every record; ``name`` tells by its suffix whether and how the module is compressed."""
    for record in _section(plain(data, name), b".modinfo", name).split(b"\0"):
        key, equals, value = record.decode("utf-8", "replace").partition("=")
        if equals:
            yield key, value


def plain(data: bytes, name: str) -> bytes:
    """The module itself; ``name`` tells by its suffix how it is compressed."""
    try:
        if name.endswith(".xz"):
            return lzma.decompress(data)
        if name.endswith(".gz"):
            return gzip.decompress(data)
        if name.endswith(".zst"):
            return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    except (lzma.LZMAError, zstandard.ZstdError, OSError, EOFError) as error:
        raise DamagedError(f"module {name} cannot be decompressed: {error}") from error
    return data


def _section(elf: bytes, wanted: bytes, name: str) -> bytes:
    """A section's bytes; ELF-64 and ELF-32, either byte order (System V ABI, "Sections")."""
    if elf[:4] != b"\x7fELF" or len(elf) < 64:
        raise DamagedError(f"module {name} is not an ELF file")
    wide, order = elf[4] == 2, "<" if elf[5] == 1 else ">"
    try:
        if wide:
            table, size, count, names = (
                *struct.unpack_from(order + "Q", elf, 40),
                *struct.unpack_from(order + "HHH", elf, 58),
            )
        else:
            table, size, count, names = (
                *struct.unpack_from(order + "I", elf, 32),
                *struct.unpack_from(order + "HHH", elf, 46),
            )
        layout = order + ("IIQQQQ" if wide else "IIIIII")
        headers = [struct.unpack_from(layout, elf, table + number * size) for number in range(count)]
        strings = headers[names][4]
        for header in headers:
            end = elf.index(b"\0", strings + header[0])
            if elf[strings + header[0] : end] == wanted:
                return elf[header[4] : header[4] + header[5]]
    except (struct.error, IndexError, ValueError) as error:
        raise DamagedError(f"module {name} is damaged: {error}") from error
    return b""
