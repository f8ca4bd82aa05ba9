"""Two of rpm's databases as bytes. The third, Berkeley DB's, is read by rpm's own tool (`agent.probe.rpm_packages`).

SUSE's Packages.db ("ndb"): package headers in blocks of 16 bytes, found by slots; numbers are little-endian
(rpm, lib/backend/ndb/rpmpkg.c):

    "RpmP", version, generation, slot pages, … (32 bytes) │ slots: "Slot", package, block, blocks │ blobs

rpmdb.sqlite and its write-ahead log: SQLite reads the former from memory, once the log's pages are in their places
(SQLite, "Database File Format", section 4).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from agent.errors import DamagedError

LIMIT_BYTES = 1 << 30
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


_WAL_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24
_WAL_MAGIC = (0x377F0682, 0x377F0683)


def with_log(database: bytes, log: bytes) -> bytes:
    """The database with every transaction of its write-ahead log that was committed, as one that needs no log."""
    if len(database) < 100:
        return database
    whole = bytearray(database)
    if len(log) > _WAL_HEADER_BYTES:
        magic, _, page_bytes = struct.unpack_from(">III", log)
        if magic not in _WAL_MAGIC or not 512 <= page_bytes <= 65536:
            raise DamagedError(f"write-ahead log begins with {log[:4]!r} and has pages of {page_bytes:,} bytes")
        pending: dict[int, bytes] = {}
        for begin in range(_WAL_HEADER_BYTES, len(log) - page_bytes, _FRAME_HEADER_BYTES + page_bytes):
            number, pages_after = struct.unpack_from(">II", log, begin)
            if log[begin + 8 : begin + 16] != log[16:24] or not number:
                break  # left over from before the log was begun anew
            start = begin + _FRAME_HEADER_BYTES
            pending[number] = log[start : start + page_bytes]
            if pages_after:  # the last frame of a transaction
                _put_pages(whole, pending, page_bytes, pages_after)
                pending = {}
    whole[18:20] = b"\x01\x01"  # journal mode: none that needs other files
    return bytes(whole)


def _put_pages(whole: bytearray, pages: dict[int, bytes], page_bytes: int, count: int) -> None:
    size = count * page_bytes
    if size > LIMIT_BYTES:
        raise DamagedError(f"write-ahead log makes the database {size:,} bytes long, at most {LIMIT_BYTES:,} are read")
    whole.extend(bytes(max(0, size - len(whole))))
    for number, page in pages.items():
        if number <= count:
            whole[(number - 1) * page_bytes : number * page_bytes] = page
    del whole[size:]
