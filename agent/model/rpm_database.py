"""SUSE's database of rpm, Packages.db ("ndb"): package headers in blocks of 16 bytes, found by slots.

    "RpmP", version, generation, slot pages, … (32 bytes) │ slots: "Slot", package, block, blocks │ blobs

rpm, lib/backend/ndb/rpmpkg.c; numbers are little-endian. The other two formats are SQLite's and Berkeley DB's, which
`agent.probe.rpm_packages` reads with their own tools.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from agent.errors import DamagedError

_HEADER_BYTES, _SLOT_BYTES, _BLOCK_BYTES, _PAGE_BYTES = 32, 16, 16, 4096


def ndb_headers(data: bytes, place: str) -> Iterator[bytes]:
    """The header of every package. Raises DamagedError saying where it is not what it should be."""
    if len(data) < _HEADER_BYTES or data[:4] != b"RpmP":
        raise DamagedError(f"{place} does not begin with RpmP")
    version, _, pages = struct.unpack_from("<III", data, 4)
    if version != 0 or pages * _PAGE_BYTES > len(data):
        raise DamagedError(f"{place} has version {version} and {pages:,} pages of slots in {len(data):,} bytes")
    for offset in range(_HEADER_BYTES, pages * _PAGE_BYTES, _SLOT_BYTES):
        magic, package, block, _ = struct.unpack_from("<4sIII", data, offset)
        if magic != b"Slot":
            raise DamagedError(f"{place}: slot at byte {offset:,} is damaged")
        if block:
            yield _blob(data, package, block * _BLOCK_BYTES, place)


def _blob(data: bytes, package: int, begin: int, place: str) -> bytes:
    try:
        magic, found, _, size = struct.unpack_from("<4sIII", data, begin)
    except struct.error:
        raise DamagedError(f"{place}: package {package} lies beyond the end") from None
    start = begin + _BLOCK_BYTES
    if magic != b"BlbS" or found != package or start + size > len(data):
        raise DamagedError(f"{place}: package {package} at byte {begin:,} is damaged")
    return data[start : start + size]
