"""Which content is in the depot already, and where: what one capture stored so far, the machine's last image, that of
a machine with the same software, and the packs of captures that were cut since.

Their listings are the index: no file of the depot grows with the number of images, and a capture needs to know of
nothing that it does not refer to. Their chunks are looked at only once something is read that may be among them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from contextlib import suppress

from agent.depot.catalogue import LoadedImage
from agent.depot.store import Depot, pack_path
from agent.errors import DamagedError
from agent.image.chunk_map import ABSENT, ID_BYTES, ChunkMap
from agent.image.listing import open_listing
from agent.image.pack import Frame, read_table
from agent.image.read_work import FrameRow, Locate, Places
from agent.model.image import ObjectRef, Volume

# Smaller chunks that lie elsewhere are stored again: fetching and unfolding a far frame costs more than they do…
NEAR_BYTES = 8 << 10
# …unless so much of their neighbourhood lies in the same frame.
TOGETHER_BYTES = 64 << 10
# Frames of the last image keep their numbers, as long as those are not absurdly far apart.
SPREAD = 4
SPREAD_FROM = 1 << 16
GONE = -1


class ChunkIndex:
    """Every known chunk, and every frame by number: 45 bytes a frame, some 45 a chunk."""

    _ROW = struct.Struct("<iIQIIB32s")
    _OLD = -1  # instead of a worker's number: a pack of the last image

    def __init__(self) -> None:
        self._rows = bytearray()
        self._known = ChunkMap()
        self._old_packs: list[ObjectRef] = []
        self._there: dict[str, int] = {}  # those of them that can be referred to, by SHA-256
        self._new_packs: dict[int, list[ObjectRef]] = {}
        self._unread: tuple[Depot, LoadedImage] | None = None  # its chunks are not known yet
        self._relatives: list[tuple[Depot, LoadedImage]] = []  # nor are theirs
        self._moved: dict[str, dict[int, int]] = {}
        self.reused_bytes = 0

    def load(self, depot: Depot, last: LoadedImage) -> None:
        """Make the content of an image known, as far as its packs are there and whole. Raises DamagedError, and then
        knows nothing of it, when a listing is not what it should be."""
        self._enter_packs(depot, last)
        try:
            for volume in last.manifest.volumes:
                self._moved[volume.id] = self._adopt(depot, last, volume)
        except DamagedError:  # then it knows nothing of it
            self._rows.clear()
            self._moved.clear()
            self._old_packs.clear()
            self._there.clear()
            raise
        self._unread = (depot, last)

    def relate(self, depot: Depot, image: LoadedImage) -> None:
        """Make the content of another machine's image known, too, as far as its packs are there and whole."""
        self._relatives.append((depot, image))

    def adopt_pack(self, depot: Depot, pack: ObjectRef) -> None:
        """Make the content of a pack known that no image names, by its own table; after `load`.

        Raises DamagedError when it is not whole, and then knows nothing of it.
        """
        frames, chunks = read_table(depot, pack)
        first = len(self._rows) // self._ROW.size
        place = (self._OLD, self._enter_pack(pack))
        for frame in frames:
            row = (frame.offset, frame.stored, frame.plain, int(frame.raw), frame.digest)
            self._rows += self._ROW.pack(*place, *row)
        for id_, frame_number, offset, _ in chunks:
            if self._known.find(id_) == ABSENT:
                self._known.put(id_, first + frame_number << 32 | offset)

    def moved(self, volume_id: str) -> Mapping[int, int]:
        """Frames of a volume of the last image that have another number now, or `GONE`."""
        return self._moved.get(volume_id, {})

    def locate(self, request: Locate) -> Places:
        """Old places for known chunks, places in one new frame for the others."""
        self._read_last()
        ids = [request.ids[at : at + ID_BYTES] for at in range(0, len(request.ids), ID_BYTES)]
        found = [self._known.find(id_) for id_ in ids]
        together: dict[int, int] = {}
        for place, size in zip(found, request.sizes, strict=True):
            if place != ABSENT:
                together[place >> 32] = together.get(place >> 32, 0) + size
        number, reached = -1, 0
        places: list[tuple[int, int]] = []
        new: dict[bytes, int] = {}
        for id_, known, size in zip(ids, found, request.sizes, strict=True):
            place = new.get(id_, known)
            if place != ABSENT:
                frame = place >> 32
                if size >= NEAR_BYTES or frame == number or together.get(frame, 0) >= TOGETHER_BYTES:
                    places.append((frame, place & 0xFFFFFFFF))
                    self.reused_bytes += size
                    continue
            if number < 0:
                number = self._allocate()
            new[id_] = number << 32 | reached
            self._known.put(id_, new[id_])
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

    # --- the last image -------------------------------------------------------------------------------------------

    def _enter_packs(self, depot: Depot, image: LoadedImage) -> None:
        """Make its packs known that the depot has whole: what refers to another could not be published."""
        for pack in image.manifest.packs:
            if pack.sha256 not in self._there and depot.exists(pack_path(pack.sha256), pack.size_bytes):
                self._enter_pack(pack)

    def _enter_pack(self, pack: ObjectRef) -> int:
        self._old_packs.append(pack)
        self._there[pack.sha256] = len(self._old_packs) - 1
        return self._there[pack.sha256]

    def _adopt(self, depot: Depot, last: LoadedImage, volume: Volume) -> dict[int, int]:
        """Give the frames of a volume their old numbers; which could not have them."""
        moved: dict[int, int] = {}
        with open_listing(depot, last.manifest, volume) as listing:
            limit = SPREAD_FROM + SPREAD * len(listing.frames)
            for number, frame in listing.frames:
                pack = self._there.get(listing.frames.packs[frame.pack])
                if pack is None:
                    moved[number] = GONE
                    continue
                place = (self._OLD, pack, frame.offset, frame.stored, frame.plain, int(frame.raw), frame.digest)
                row = self._ROW.pack(*place)
                if number >= limit or not self._take_number(number, row):
                    moved[number] = self._allocate()
                    self._take_number(moved[number], row)
        return moved

    def _take_number(self, number: int, row: bytes) -> bool:
        """Whether the number was free, or this frame's already."""
        at = number * len(row)
        if len(self._rows) < at + len(row):
            self._rows += bytes(at + len(row) - len(self._rows))
        there = self._rows[at : at + len(row)]
        if any(there) and there != row:
            return False
        self._rows[at : at + len(row)] = row
        return True

    def _read_last(self) -> None:
        """Enter the chunks of the last image and of others, once."""
        relatives, self._relatives = self._relatives, []
        if self._unread is not None:
            self._read_chunks_of_last(*self._unread)
            self._unread = None
        for depot, image in relatives:
            with suppress(DamagedError):  # then less of it is known; ‘regraft check’ says what is wrong with it
                self._read_relative(depot, image)

    def _read_chunks_of_last(self, depot: Depot, last: LoadedImage) -> None:
        for volume in last.manifest.volumes:
            moved = self._moved[volume.id]
            with open_listing(depot, last.manifest, volume) as listing:
                for entries in listing.entries():
                    for entry in entries:
                        for chunk in entry.chunks:
                            frame = moved.get(chunk.frame, chunk.frame)
                            id_ = bytes.fromhex(chunk.id)
                            if frame != GONE and self._known.find(id_) == ABSENT:
                                self._known.put(id_, frame << 32 | chunk.offset)

    def _read_relative(self, depot: Depot, image: LoadedImage) -> None:
        """Enter the chunks of another machine's image; its frames get numbers that are free here."""
        self._enter_packs(depot, image)
        for volume in image.manifest.volumes:
            numbers: dict[int, int] = {}
            with open_listing(depot, image.manifest, volume) as listing:
                for old, frame in listing.frames:
                    at = self._there.get(listing.frames.packs[frame.pack])
                    if at is not None:
                        numbers[old] = self._allocate()
                        place = (self._OLD, at, frame.offset, frame.stored, frame.plain, int(frame.raw), frame.digest)
                        self._take_number(numbers[old], self._ROW.pack(*place))
                for entries in listing.entries():
                    for entry in entries:
                        for chunk in entry.chunks:
                            id_ = bytes.fromhex(chunk.id)
                            if chunk.frame in numbers and self._known.find(id_) == ABSENT:
                                self._known.put(id_, numbers[chunk.frame] << 32 | chunk.offset)

    def _allocate(self) -> int:
        self._rows += bytes(self._ROW.size)
        return len(self._rows) // self._ROW.size - 1
