"""Entries that are kept for later: compressed, some twenty bytes each, so that millions of them may wait."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import zstandard

from agent.image.entry import Entry

BLOCK_ENTRIES = 1024


class Kept:
    """Entries in the order they came, or in reverse."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._open: list[Entry] = []
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(Entry)
        self._compressor = zstandard.ZstdCompressor(level=1)

    def add(self, entry: Entry) -> None:
        self._open.append(entry)
        if len(self._open) == BLOCK_ENTRIES:
            self._blocks.append(self._compressor.compress(self._encoder.encode_lines(self._open)))
            self._open.clear()

    def __iter__(self) -> Iterator[Entry]:
        for block in self._blocks:
            yield from self._unfold(block)
        yield from self._open

    def __reversed__(self) -> Iterator[Entry]:
        yield from reversed(self._open)
        for block in reversed(self._blocks):
            yield from reversed(self._unfold(block))

    def _unfold(self, block: bytes) -> list[Entry]:
        return self._decoder.decode_lines(zstandard.decompress(block))
