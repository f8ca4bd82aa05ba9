"""Packages and archives as streams of plain bytes, whatever they are compressed with."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from typing import IO, cast

import zstandard

from agent.errors import DamagedError

# What reading a damaged one ends in.
UNPACKING_ERRORS = (tarfile.TarError, lzma.LZMAError, zstandard.ZstdError, EOFError, OSError)


def decompressed(stream: IO[bytes], suffix: str, place: str) -> IO[bytes]:
    """The plain bytes of ``stream``; ``suffix`` is the ending of a file's name, or what rpm calls the compressor."""
    match suffix:
        case "xz" | "lzma" | "txz":
            return lzma.LZMAFile(stream)
        case "zst" | "zstd":
            return cast(IO[bytes], zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True))
        case "gz" | "tgz" | "gzip":
            return cast(IO[bytes], gzip.GzipFile(fileobj=stream))
        case "bz2" | "bzip2":
            return bz2.BZ2File(stream)
        case "tar" | "":
            return stream
    raise DamagedError(f"{place} is compressed by {suffix}, expected xz, zst, gz or bz2")
