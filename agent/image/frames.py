"""Frames on their way out of packs: fetched in large ranges, checked, unfolded, kept for a moment."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

import zstandard
from blake3 import blake3

from agent.depot.store import Depot, pack_path
from agent.errors import DamagedError
from agent.image.entry import FrameTable
from agent.image.pack import MAX_FRAME_BYTES, Frame

RANGE_BYTES = 8 << 20
GAP_BYTES = 64 << 10  # cheaper to fetch and drop than to ask again
KEPT_FRAMES = 6
WHOLE_FROM = 0.9  # of a frame: more than so much of it is unfolded in one go
HINT = "copy the pack from a second depot, or restore an older image"


class FrameReader:
    """One worker's way to content. `want` what comes next, then `get` it."""

    def __init__(self, depot: Depot, table: FrameTable) -> None:
        self._depot = depot
        self._table = table
        self._plain: OrderedDict[int, bytes] = OrderedDict()
        self._stored: dict[int, memoryview] = {}
        self._wanted: dict[int, Frame] = {}
        self._ends: dict[int, int] = {}  # of frames that are needed in part
        self._short: set[int] = set()  # of which no more than that was unfolded
        self._buffer = bytearray(RANGE_BYTES)
        self._single = bytearray()  # of frames that are fetched alone
        self._decompressor = zstandard.ZstdDecompressor()
        self.fetched = 0

    def want(self, numbers: Iterable[int]) -> None:
        """The frames that will be asked for; neighbours in a pack are fetched together."""
        self._ends = {}
        self._wanted = {number: self._frame(number) for number in numbers if number not in self._plain}

    def want_more(self, numbers: Iterable[int]) -> None:
        """Further frames beside those."""
        self._wanted |= {number: self._frame(number) for number in numbers if number not in self._plain}

    def want_parts(self, ends: Mapping[int, int]) -> None:
        """The same of frames of which only the bytes up to an end will be asked for."""
        self.want(ends)
        self._ends = dict(ends)

    def get(self, number: int, end: int = 0) -> bytes:
        """The plain bytes of a frame, its digest checked: all, or with an ``end`` at least those before it."""
        self._wanted.pop(number, None)  # it need not be fetched along with others any more
        plain = self._plain.get(number)
        if plain is not None:
            if number not in self._short or 0 < end <= len(plain):
                self._plain.move_to_end(number)
                return plain
            self._ends.pop(number, None)  # more of it is needed than was thought
        elif not 0 < end <= self._ends.get(number, 0):
            self._ends.pop(number, None)
        stored = self._stored.get(number)
        if stored is None:
            stored = self._fetch(number)
        frame = self._frame(number)
        plain = self._unfold(number, frame, stored)
        self._plain[number] = plain
        (self._short.discard if len(plain) == frame.plain else self._short.add)(number)
        while len(self._plain) > KEPT_FRAMES:
            self._short.discard(self._plain.popitem(last=False)[0])
        return plain

    def _frame(self, number: int) -> Frame:
        frame = self._table.get(number)
        if frame is None:
            raise DamagedError(f"frame {number} is not listed", "capture the image again")
        return frame

    def _fetch(self, number: int) -> memoryview:
        """The stored bytes of a frame, and with them those wanted frames that lie just behind it in its pack."""
        first = self._frame(number)
        behind = sorted(
            ((frame.offset, other) for other, frame in self._wanted.items()
             if frame.pack == first.pack and frame.offset > first.offset and other not in self._stored)
        )  # fmt: skip
        group, end = [(first.offset, number)], first.offset + first.stored
        for offset, other in behind:
            frame = self._wanted[other]
            if offset > end + GAP_BYTES or offset + frame.stored - first.offset > RANGE_BYTES:
                break
            group.append((offset, other))
            end = offset + frame.stored
        size = end - first.offset
        if len(group) == 1:  # unfolded at once: the buffer of others stays as it is
            if size > len(self._single):
                self._single = bytearray(size)
            view = memoryview(self._single)[:size]
        else:
            self._stored = {}  # the views into the buffer that is about to be filled anew
            if size > len(self._buffer):
                self._buffer = bytearray(size)
            view = memoryview(self._buffer)[:size]
        self._read(first, view)
        if len(group) > 1:
            for offset, other in group:
                at = offset - first.offset
                self._stored[other] = view[at : at + self._frame(other).stored]
        return view[: first.stored]

    def _read(self, first: Frame, view: memoryview) -> None:
        path = pack_path(self._table.packs[first.pack])
        try:
            self._depot.read_into(path, first.offset, view)
        except FileNotFoundError:
            raise DamagedError(f"{path} is absent from depot {self._depot.location}", HINT) from None
        self.fetched += len(view)

    def _unfold(self, number: int, frame: Frame, stored: memoryview) -> bytes:
        place = f"{pack_path(self._table.packs[frame.pack])}, bytes {frame.offset:,} to {frame.offset + frame.stored:,}"
        if blake3(stored).digest() != frame.digest:
            raise DamagedError(f"{place}: the content does not match its digest (frame {number})", HINT)
        if frame.raw:
            return bytes(stored)
        try:
            # The frame's own header is asked first: it may not promise more than the listing says.
            size = zstandard.frame_content_size(stored)
            if size != frame.plain or size > MAX_FRAME_BYTES:
                raise DamagedError(f"{place}: unfolds to {size:,} bytes, expected {frame.plain:,}", HINT)
            end = self._ends.get(number, frame.plain)
            if end > frame.plain * WHOLE_FROM:
                return self._decompressor.decompress(stored, max_output_size=frame.plain)
            with self._decompressor.stream_reader(stored) as reader:
                plain = reader.read(end)
            if len(plain) < end:
                raise DamagedError(f"{place}: ends after {len(plain):,} plain bytes, expected {end:,} or more", HINT)
            return plain
        except zstandard.ZstdError as error:
            raise DamagedError(f"{place}: {error}", HINT) from None
