"""A whole image seen as the root file system it will be: every volume at its place, nothing mounted or written."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from agent.depot.catalogue import LoadedImage
from agent.depot.store import Depot
from agent.errors import DamagedError
from agent.image.entry import FrameTable
from agent.image.frame_cache import DirectFrames, Frames
from agent.image.listing import open_listing
from agent.image.tree_index import TreeIndex
from agent.model.image import Volume

READ_LIMIT_BYTES = 512 << 20
BLOCK_BYTES = 1 << 20


def file_volumes(loaded: LoadedImage) -> list[Volume]:
    """The volumes that hold files, those nearest to the root first."""
    trees = list(loaded.manifest.trees)
    return sorted(trees, key=lambda volume: (mountpoint(volume).count("/"), mountpoint(volume)))


def skipped_volumes(loaded: LoadedImage) -> list[Volume]:
    """The volumes that are no trees of files."""
    return list(loaded.manifest.blocks)


def mountpoint(volume: Volume) -> str:
    """Where a volume belongs: "" for the root, else a path that begins with a slash."""
    return (volume.filesystem.mountpoint or "/").rstrip("/")


def load_index(depot: Depot, loaded: LoadedImage) -> TreeIndex:
    """The index of all volumes that hold files; every listing is checked as it is read."""
    index = TreeIndex()
    for volume in file_volumes(loaded):
        with open_listing(depot, loaded.manifest, volume) as listing:
            index.add_volume(listing, mountpoint(volume))
    index.finish()
    return index


class TreeContent:
    """The bytes of an image's files. Safe to use from many threads, if the frames are."""

    def __init__(self, index: TreeIndex, frames: Frames) -> None:
        self._index = index
        self._frames = frames

    def close(self) -> None:
        self._frames.close()

    def read(self, node: int, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes of a file from ``offset``, fewer only at its end. Raises DamagedError."""
        size = min(size, self._index.status(node).size - offset)
        if size <= 0:
            return b""
        end = offset + size
        volume = self._index.volume_of(node)
        found: bytearray | None = None
        for run in self._index.runs(node, offset):
            if run.at >= end:
                break
            start, stop = max(offset, run.at), min(end, run.at + run.size)
            begin = run.offset + start - run.at
            piece = self._frames.get(volume, run.frame)[begin : begin + stop - start]
            if len(piece) == size:
                return piece
            found = found or bytearray(size)
            found[start - offset : stop - offset] = piece
        return bytes(found or size)

    def blocks(self, node: int) -> Iterator[bytes]:
        """A whole file, 1 MiB at a time."""
        for offset in range(0, self._index.status(node).size, BLOCK_BYTES):
            yield self.read(node, offset, BLOCK_BYTES)


@dataclass(slots=True)
class ImageTree:
    """Implements model.tree.Tree. Listings are read at the first look into the image."""

    depot: Depot
    loaded: LoadedImage
    frames: Callable[[Depot, list[FrameTable]], Frames] = DirectFrames
    _opened: list[tuple[TreeIndex, TreeContent]] = field(default_factory=list)

    @property
    def index(self) -> TreeIndex:
        return self._open()[0]

    @property
    def content(self) -> TreeContent:
        return self._open()[1]

    def read_bytes(self, path: str) -> bytes:
        node = self._node(path, stat.S_IFREG)
        if node is None:
            raise FileNotFoundError(path)
        size = self.index.status(node).size
        if size > READ_LIMIT_BYTES:
            raise DamagedError(f"{path} of {self.loaded.manifest.ref} has {size:,} bytes, too many to look into")
        return self.content.read(node, 0, size)

    def size(self, path: str) -> int:
        """Bytes of a file; 0 of what is none."""
        node = self._node(path, stat.S_IFREG)
        return self.index.status(node).size if node is not None else 0

    def exists(self, path: str) -> bool:
        return self.index.resolve(os.fsencode(path)) is not None

    def is_file(self, path: str) -> bool:
        return self._node(path, stat.S_IFREG) is not None

    def is_dir(self, path: str) -> bool:
        return self._node(path, stat.S_IFDIR) is not None

    def list_dir(self, path: str) -> tuple[str, ...]:
        node = self._node(path, stat.S_IFDIR)
        if node is None:
            return ()
        return tuple(sorted(os.fsdecode(self.index.name(each)) for each in self.index.children(node)))

    def read_link(self, path: str) -> str | None:
        node = self.index.resolve(os.fsencode(path), follow=False)
        if node is None or self.index.status(node).kind != stat.S_IFLNK:
            return None
        return os.fsdecode(self.index.target(node))

    def _node(self, path: str, kind: int) -> int | None:
        node = self.index.resolve(os.fsencode(path))
        return node if node is not None and self.index.status(node).kind == kind else None

    def _open(self) -> tuple[TreeIndex, TreeContent]:
        if not self._opened:
            index = load_index(self.depot, self.loaded)
            frames = self.frames(self.depot, [root.frames for root in index.roots])
            self._opened.append((index, TreeContent(index, frames)))
        return self._opened[0]
