"""Who uses which bytes of a depot's packs: what an image costs alone, what sharing saves, what is dead.

Counted by frames, as the listings name them: a frame is the smallest thing that can be fetched or left out. Chunks
that nothing refers to inside a frame that is used are not seen.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from agent.depot.store import Depot
from agent.image.listing import open_listing
from agent.image.pack import table_bytes
from agent.model.image import ImageRef, Manifest, ObjectRef

# A frame's place and size in one number: no pack has 2^38 bytes, no stored frame 2^25 (pack.MAX_FRAME_BYTES).
SIZE_BITS = 25
SIZE_MASK = (1 << SIZE_BITS) - 1
SHARED = -1


@dataclass(frozen=True, slots=True)
class ImageUse:
    """Bytes of one image. ``alone`` counts frames that no other image uses; ``freed`` whole packs, which is what
    forgetting the image and pruning gives back as long as packs are not rewritten."""

    image: ImageRef
    content_bytes: int  # plain bytes of its files
    stored_bytes: int  # frames that it uses, as they are stored
    alone_bytes: int
    freed_bytes: int

    @property
    def shared_bytes(self) -> int:
        return self.stored_bytes - self.alone_bytes


@dataclass(frozen=True, slots=True)
class DepotUse:
    """Bytes of all images together."""

    images: tuple[ImageUse, ...]
    packs: int
    pack_bytes: int
    live_bytes: int  # frames that an image uses
    dead_bytes: int  # frames that none uses, in packs that are used
    partly_used: int  # packs that have such frames
    listing_bytes: int

    @property
    def content_bytes(self) -> int:
        """What the images would be, each by itself and not compressed."""
        return sum(image.content_bytes for image in self.images)


@dataclass(slots=True)
class _Pack:
    """The frames of one pack that are used: 12 bytes each. ``owners``: number of the image, or SHARED."""

    size_bytes: int
    keys: array[int] = field(default_factory=lambda: array("Q"))
    owners: array[int] = field(default_factory=lambda: array("i"))
    users: set[int] = field(default_factory=set)

    def add(self, image: int, keys: list[int]) -> None:
        """Merge the sorted frames that an image uses."""
        self.users.add(image)
        merged, owners, old = array("Q"), array("i"), 0
        for key in keys:
            while old < len(self.keys) and self.keys[old] < key:
                merged.append(self.keys[old])
                owners.append(self.owners[old])
                old += 1
            known = old < len(self.keys) and self.keys[old] == key
            merged.append(key)
            owners.append(SHARED if known else image)
            old += known
        merged.extend(self.keys[old:])
        owners.extend(self.owners[old:])
        self.keys, self.owners = merged, owners


def measure(depot: Depot, manifests: Iterable[Manifest]) -> DepotUse:
    """Read the listings' frames of these images, which should be all of a depot. Memory: 12 bytes a stored frame.

    Raises DamagedError where a listing or a pack's table is not whole.
    """
    packs: dict[str, _Pack] = {}
    listings: dict[str, int] = {}
    found: list[tuple[Manifest, int]] = []
    for number, manifest in enumerate(manifests):
        sizes = {pack.sha256: pack.size_bytes for pack in manifest.packs}
        stored = 0
        for sha256, keys in frames_by_pack(depot, manifest).items():
            packs.setdefault(sha256, _Pack(sizes[sha256])).add(number, keys)
            stored += sum(key & SIZE_MASK for key in keys)
        found.append((manifest, stored))
        listings.update((each.sha256, each.size_bytes) for each in manifest.objects)
    alone, freed = _by_image(packs, len(found))
    live, dead, partly = _whole(depot, packs)
    images = tuple(
        ImageUse(manifest.ref, sum(volume.content_bytes for volume in manifest.volumes), stored, alone[number],
                 freed[number])
        for number, (manifest, stored) in enumerate(found)
    )  # fmt: skip
    size = sum(pack.size_bytes for pack in packs.values())
    return DepotUse(images, len(packs), size, live, dead, partly, sum(listings.values()))


def frames_by_pack(depot: Depot, manifest: Manifest) -> dict[str, list[int]]:
    """The frames that an image uses, sorted: SHA-256 of the pack → offset << SIZE_BITS | stored bytes."""
    found: dict[str, set[int]] = {}
    for volume in manifest.volumes:
        with open_listing(depot, manifest, volume) as listing:
            for _, frame in listing.frames:
                key = frame.offset << SIZE_BITS | frame.stored
                found.setdefault(listing.frames.packs[frame.pack], set()).add(key)
    return {sha256: sorted(keys) for sha256, keys in found.items()}


def _by_image(packs: dict[str, _Pack], count: int) -> tuple[list[int], list[int]]:
    """For each image the bytes of frames, and of packs, that only it uses."""
    alone, freed = [0] * count, [0] * count
    for pack in packs.values():
        for key, owner in zip(pack.keys, pack.owners, strict=True):
            if owner != SHARED:
                alone[owner] += key & SIZE_MASK
        if len(pack.users) == 1:
            freed[next(iter(pack.users))] += pack.size_bytes
    return alone, freed


def _whole(depot: Depot, packs: dict[str, _Pack]) -> tuple[int, int, int]:
    """Bytes that are used, bytes of frames that nothing uses, and in how many packs the latter are."""
    live = dead = partly = 0
    for sha256, pack in packs.items():
        used = sum(key & SIZE_MASK for key in pack.keys)
        unused = pack.size_bytes - used - table_bytes(depot, ObjectRef(sha256, pack.size_bytes))
        live, dead, partly = live + used, dead + unused, partly + bool(unused)
    return live, dead, partly
