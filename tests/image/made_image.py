"""Images made of lines, in a depot in memory: what unit tests of readers look into."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import zstandard
from blake3 import blake3

from agent.depot.catalogue import LoadedImage
from agent.depot.store import listing_path, pack_path
from agent.errors import DamagedError
from agent.image.entry import DIRECTORY, MORE, Chunk, Entry, text_and_raw
from agent.image.image_tree import ImageTree
from agent.image.listing import Head
from agent.model.image import Manifest, ObjectRef, ProfileRef, Volume
from agent.model.profile import Profile
from agent.model.profile_xml import dump_profile
from agent.model.storage import FileSystem


@dataclass
class MemoryDepot:
    """Implements Depot. ``asked`` tells what was read of packs: path, offset, bytes."""

    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    location: str = "memory"
    is_remote: bool = False

    def read(self, path: str, limit_bytes: int = 0) -> bytes:
        try:
            return self.files[path]
        except KeyError:
            raise FileNotFoundError(path) from None

    def read_into(self, path: str, offset: int, buffer: memoryview) -> None:
        self.asked.append((path, offset, len(buffer)))
        data = self.read(path)[offset : offset + len(buffer)]
        if offset < 0 or len(data) != len(buffer):
            raise DamagedError(f"{path} ends before byte {offset + len(buffer):,}")
        buffer[:] = data

    def exists(self, path: str, size_bytes: int | None = None) -> bool:
        return path in self.files and size_bytes in (None, len(self.files[path]))


def entry(name: bytes | str, kind: str = "file", **facts: Any) -> Entry:
    path, raw = text_and_raw(name.encode() if isinstance(name, str) else name)
    return msgspec.structs.replace(Entry(path=path, raw=raw, type=kind), **facts)


def folder(name: bytes | str, **facts: Any) -> Entry:
    return entry(name, DIRECTORY, **{"mode": 0o755, **facts})


@dataclass
class Content:
    """Frames of one pack, raw; `file` and `parts` make entries whose bytes lie in them."""

    frames: list[bytes] = field(default_factory=list)

    def chunk(self, at: int, data: bytes) -> Chunk:
        self.frames.append(data)
        return Chunk(at, len(data), len(self.frames) - 1, 0, blake3(data).hexdigest())

    def file(self, name: bytes | str, data: bytes, **facts: Any) -> Entry:
        """A file of one chunk."""
        return entry(name, size=len(data), chunks=(self.chunk(0, data),) if data else (), **facts)

    def sparse(self, name: str, size: int, pieces: Mapping[int, bytes], **facts: Any) -> Entry:
        """A file with holes around these pieces."""
        return entry(name, size=size, chunks=tuple(self.chunk(at, data) for at, data in pieces.items()), **facts)

    def more(self, name: str, at: int, pieces: Mapping[int, bytes]) -> Entry:
        return entry(name, MORE, size=at, chunks=tuple(self.chunk(place, data) for place, data in pieces.items()))


def made_image(
    depot: MemoryDepot,
    volumes: Mapping[str, Sequence[Entry]],
    content: Content | None = None,
    profile: Profile | None = None,
    kinds: Mapping[str, str] | None = None,
    as_given: bool = False,
) -> LoadedImage:
    """An image with a volume at each mount point. Listings begin with their root; it is added here, and the entries
    are brought into a listing's order, where they are not ``as_given``."""
    frames = (content or Content()).frames
    pack = b"".join(frames)
    sha256 = hashlib.sha256(pack).hexdigest()
    depot.files[pack_path(sha256)] = pack
    made = []
    for number, (place, entries) in enumerate(volumes.items()):
        ordered = entries if as_given else in_order(entries)
        listing = _listing(depot, f"v{number}", sha256, frames, ordered)
        kind = (kinds or {}).get(place, "tree")
        made.append(
            Volume(f"v{number}", kind, FileSystem("ext4", mountpoint=place), listing, len(entries) + 1, 0, (sha256,))
        )
    manifest = Manifest(
        1, "web-1", "20261123T204140Z", "test", "web-1", ProfileRef("20261123T204140Z", "0" * 64, ""), (), tuple(made),
        (ObjectRef(sha256, len(pack)),),
    )  # fmt: skip
    return LoadedImage(manifest, "0" * 64, dump_profile(profile or Profile("web-1", "2026-11-23T20:41:40Z")))


def in_order(entries: Sequence[Entry]) -> list[Entry]:
    """Files of a directory by name, then its directories by name, each with all below it; parts behind their file."""
    folders = {each.name for each in entries if each.type == DIRECTORY}

    def place(each: Entry) -> list[tuple[bool, bytes]]:
        parts = each.name.split(b"/")
        return [(b"/".join(parts[: depth + 1]) in folders, part) for depth, part in enumerate(parts)]

    return sorted(entries, key=place)


def made_tree(
    volumes: Mapping[str, Sequence[Entry]], content: Content | None = None, as_given: bool = False
) -> ImageTree:
    depot = MemoryDepot()
    return ImageTree(depot, made_image(depot, volumes, content, as_given=as_given))


def _listing(depot: MemoryDepot, volume: str, pack: str, frames: list[bytes], entries: Sequence[Entry]) -> ObjectRef:
    encoder = msgspec.json.Encoder()
    count = 1 + sum(each.type != MORE for each in entries)
    lines: list[bytes] = [encoder.encode(Head(1, volume, (pack,), len(frames), count))]
    offset = 0
    for number, frame in enumerate(frames):
        size = len(frame)
        lines.append(encoder.encode((number, 0, offset, size, size, 1, blake3(frame).hexdigest())))
        offset += size
    lines += [encoder.encode(each) for each in (folder(""), *entries)]
    data = zstandard.ZstdCompressor().compress(b"\n".join(lines) + b"\n")
    sha256 = hashlib.sha256(data).hexdigest()
    depot.files[listing_path(sha256)] = data
    return ObjectRef(sha256, len(data))
