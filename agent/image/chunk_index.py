"""Which content is in the depot already, and where: what one capture stored so far, and the machine's last image.

The last image's listing is the index: no file of the depot grows with the number of images, and a capture needs to
know of nothing that it does not refer to.
"""

from __future__ import annotations

import struct

from agent.depot.catalogue import LoadedImage
from agent.depot.store import Depot, pack_path
from agent.image.listing import open_listing
from agent.image.pack import Frame
from agent.image.read_work import FrameRow, Locate, Places
from agent.model.image import ObjectRef

# Smaller chunks that lie elsewhere are stored again: fetching and unfolding a far frame costs more than they do…
NEAR_BYTES = 8 << 10
# …unless so much of their neighbourhood lies in the same frame.
TOGETHER_BYTES = 64 << 10
ID_BYTES = 32


class ChunkIndex:
    """Every known chunk, and every frame by number: 45 bytes a frame, some 200 a chunk."""

    _ROW = struct.Struct("<iIQIIB32s")
    _OLD = -1  # instead of a worker's number: a pack of the last image

    def __init__(self) -> None:
        self._rows = bytearray()
        self._known: dict[bytes, int] = {}
        self._count = 0
        self._old_packs: list[ObjectRef] = []
        self._new_packs: dict[int, list[ObjectRef]] = {}
        self.reused_bytes = 0

    def load(self, depot: Depot, last: LoadedImage) -> None:
        """Make the content of an image known, as far as its packs are there."""
        there = {pack.sha256 for pack in last.manifest.packs if depot.exists(pack_path(pack.sha256))}
        index = {pack.sha256: number for number, pack in enumerate(last.manifest.packs)}
        self._old_packs = list(last.manifest.packs)
        for volume in last.manifest.volumes:
            numbers: dict[int, int] = {}
            with open_listing(depot, last.manifest, volume) as listing:
                for entries in listing.entries():
                    for entry in entries:
                        for chunk in entry.chunks:
                            if chunk.frame not in numbers:
                                frame = listing.frames.get(chunk.frame)
                                pack = listing.frames.packs[frame.pack] if frame else ""
                                numbers[chunk.frame] = -1
                                if frame is not None and pack in there:
                                    numbers[chunk.frame] = self._add_old(index[pack], frame)
                            if numbers[chunk.frame] >= 0:
                                place = numbers[chunk.frame] << 32 | chunk.offset
                                self._known.setdefault(bytes.fromhex(chunk.id), place)

    def locate(self, request: Locate) -> Places:
        """Old places for known chunks, places in one new frame for the others."""
        ids = [request.ids[at : at + ID_BYTES] for at in range(0, len(request.ids), ID_BYTES)]
        together: dict[int, int] = {}
        for id_, size in zip(ids, request.sizes, strict=True):
            if (place := self._known.get(id_)) is not None:
                together[place >> 32] = together.get(place >> 32, 0) + size
        number, reached = -1, 0
        places: list[tuple[int, int]] = []
        for id_, size in zip(ids, request.sizes, strict=True):
            place = self._known.get(id_)
            if place is not None:
                frame = place >> 32
                if size >= NEAR_BYTES or frame == number or together.get(frame, 0) >= TOGETHER_BYTES:
                    places.append((frame, place & 0xFFFFFFFF))
                    self.reused_bytes += size
                    continue
            if number < 0:
                number = self._allocate()
            self._known[id_] = number << 32 | reached
            places.append((number, reached))
            reached += size
        return Places(number, places)

    def add_frame(self, worker: int, row: FrameRow) -> None:
        number, pack, offset, stored, plain, raw, digest = row
        self._ROW.pack_into(self._rows, number * self._ROW.size, worker, pack, offset, stored, plain, raw, digest)

    def add_packs(self, worker: int, packs: list[ObjectRef]) -> None:
        self._new_packs[worker] = packs

    def frame(self, number: int) -> tuple[ObjectRef, Frame]:
        """Where a frame is; its ``pack`` field says nothing here."""
        worker, pack, *rest = self._ROW.unpack_from(self._rows, number * self._ROW.size)
        packs = self._old_packs if worker == self._OLD else self._new_packs[worker]
        offset, stored, plain, raw, digest = rest
        return packs[pack], Frame(0, offset, stored, plain, bool(raw), digest)

    def _allocate(self) -> int:
        self._rows += bytes(self._ROW.size)
        self._count += 1
        return self._count - 1

    def _add_old(self, pack: int, frame: Frame) -> int:
        number = self._allocate()
        self.add_frame(self._OLD, (number, pack, frame.offset, frame.stored, frame.plain, frame.raw, frame.digest))
        return number
