"""From chunk ids to places, for millions of chunks: 38 bytes each and what the buckets grow ahead."""

from __future__ import annotations

ID_BYTES = 32
_PREFIX_BYTES = 2  # of an id: the number of its bucket
_PLACE_BYTES = 8
_REST_BYTES = ID_BYTES - _PREFIX_BYTES
_RECORD_BYTES = _REST_BYTES + _PLACE_BYTES
ABSENT = -1


class ChunkMap:
    """A mapping of 32-byte ids, which are evenly spread, to numbers below 2**64. A dict takes five times the memory."""

    def __init__(self) -> None:
        self._buckets: list[bytearray | None] = [None] * 256**_PREFIX_BYTES

    def find(self, id_: bytes) -> int:
        """The place, or ABSENT."""
        bucket = self._buckets[id_[0] << 8 | id_[1]]
        at = _record(bucket, id_[_PREFIX_BYTES:]) if bucket else -1
        if bucket is None or at < 0:
            return ABSENT
        return int.from_bytes(bucket[at + _REST_BYTES : at + _RECORD_BYTES], "little")

    def put(self, id_: bytes, place: int) -> None:
        """Enter an id, or give it another place."""
        number = id_[0] << 8 | id_[1]
        bucket = self._buckets[number]
        if bucket is None:
            bucket = self._buckets[number] = bytearray()
        rest, value = id_[_PREFIX_BYTES:], place.to_bytes(_PLACE_BYTES, "little")
        at = _record(bucket, rest)
        if at < 0:
            bucket += rest + value
        else:
            bucket[at + _REST_BYTES : at + _RECORD_BYTES] = value


def _record(bucket: bytearray, rest: bytes) -> int:
    """Where the record of an id begins; -1 when there is none."""
    at = bucket.find(rest)
    while at % _RECORD_BYTES and at >= 0:  # the same bytes across two records
        at = bucket.find(rest, at + 1)
    return at
