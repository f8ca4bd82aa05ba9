"""A whole image seen as the root file system it will be: every volume at its place, nothing mounted or written."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import msgspec

from agent.depot.catalogue import LoadedImage
from agent.depot.store import Depot
from agent.errors import DamagedError
from agent.image.frames import FrameReader
from agent.image.listing import DIRECTORY, FILE, HARDLINK, MORE, SYMLINK, Entry, FrameTable, open_listing
from agent.model.image import Volume
from agent.model.tree import MAX_LINKS

READ_LIMIT_BYTES = 512 << 20


@dataclass(slots=True)
class _Index:
    """The entries of one volume by path, still as lines: a hundred bytes an entry instead of a thousand."""

    lines: dict[str, bytes]
    more: dict[str, list[bytes]]
    frames: FrameTable
    reader: FrameReader


@dataclass(slots=True)
class ImageTree:
    """Implements model.tree.Tree. Listings are read at the first look into their volume."""

    depot: Depot
    loaded: LoadedImage
    _indexes: dict[str, _Index] = field(default_factory=dict)
    _names: dict[str, set[str]] = field(default_factory=dict)
    _decoder: msgspec.json.Decoder[Entry] = field(default_factory=lambda: msgspec.json.Decoder(Entry))

    def read_bytes(self, path: str) -> bytes:
        found = self._resolve(path)
        if found is None or found[1].type != FILE:
            raise FileNotFoundError(path)
        return self._content(*found)

    def exists(self, path: str) -> bool:
        return self._resolve(path) is not None

    def is_file(self, path: str) -> bool:
        found = self._resolve(path)
        return found is not None and found[1].type == FILE

    def is_dir(self, path: str) -> bool:
        found = self._resolve(path)
        return found is not None and found[1].type == DIRECTORY

    def list_dir(self, path: str) -> tuple[str, ...]:
        real = self._real(path)
        if real is None:
            return ()
        volume, below = self._volume_of(real)
        self._index(volume)
        return tuple(sorted(self._names.get(f"{volume.id}:{below}", ())))

    def read_link(self, path: str) -> str | None:
        parent, _, last = posixpath.normpath(path).rpartition("/")
        real = self._real(parent or "/")
        found = self._entry(posixpath.join(real, last)) if real is not None else None
        if found is None or found[1].type != SYMLINK:
            return None
        return found[1].target_name.decode("utf-8", "surrogateescape")

    def entry(self, path: str) -> Entry | None:
        """The entry at ``path``, links followed: size, mode, owner, times."""
        found = self._resolve(path)
        return found[1] if found else None

    # --- paths ----------------------------------------------------------------------------------------------------

    def _resolve(self, path: str) -> tuple[Volume, Entry] | None:
        real = self._real(path)
        return self._entry(real) if real is not None else None

    def _real(self, path: str) -> str | None:
        """The path with every link in it followed inside the tree; None when it leads nowhere."""
        parts = [part for part in path.split("/") if part not in ("", ".")][::-1]
        real, links = "", 0
        while parts:
            part = parts.pop()
            if part == "..":
                real = real.rpartition("/")[0]
                continue
            found = self._entry(f"{real}/{part}")
            if found is None:
                return None
            if found[1].type != SYMLINK:
                real = f"{real}/{part}"
                continue
            links += 1
            if links > MAX_LINKS:
                return None
            target = found[1].target_name.decode("utf-8", "surrogateescape")
            if target.startswith("/"):
                real = ""
            parts.extend([each for each in target.split("/") if each not in ("", ".")][::-1])
        return real or "/"

    def _volume_of(self, path: str) -> tuple[Volume, str]:
        """The volume a path lies in (the longest mount point wins), and the path below its root."""
        best: tuple[Volume, str] | None = None
        length = -1
        for volume in self.loaded.manifest.trees:
            mount = (volume.filesystem.mountpoint or "/").rstrip("/")
            if (path == mount or path.startswith(mount + "/")) and len(mount) > length:
                best, length = (volume, path[len(mount) :].strip("/")), len(mount)
        if best is None:
            raise FileNotFoundError(path)
        return best

    def _entry(self, path: str) -> tuple[Volume, Entry] | None:
        try:
            volume, below = self._volume_of(path)
        except FileNotFoundError:
            return None
        index = self._index(volume)
        line = index.lines.get(below)
        if line is None:
            return None
        entry = self._decoder.decode(line)
        if entry.type == HARDLINK:
            line = index.lines.get(entry.target_name.decode("utf-8", "surrogateescape"))
            return (volume, self._decoder.decode(line)) if line is not None else None
        return volume, entry

    # --- content --------------------------------------------------------------------------------------------------

    def _index(self, volume: Volume) -> _Index:
        if volume.id not in self._indexes:
            self._indexes[volume.id] = self._load(volume)
        return self._indexes[volume.id]

    def _load(self, volume: Volume) -> _Index:
        encoder = msgspec.json.Encoder()
        lines: dict[str, bytes] = {}
        more: dict[str, list[bytes]] = {}
        with ExitStack() as stack:
            listing = stack.enter_context(open_listing(self.depot, self.loaded.manifest, volume))
            for entries in listing.entries():
                for entry in entries:
                    name = entry.name.decode("utf-8", "surrogateescape")
                    if entry.type == MORE:
                        more.setdefault(name, []).append(encoder.encode(entry))
                        continue
                    lines[name] = encoder.encode(entry)
                    if name:
                        parent, _, last = name.rpartition("/")
                        self._names.setdefault(f"{volume.id}:{parent}", set()).add(last)
        return _Index(lines, more, listing.frames, FrameReader(self.depot, listing.frames))

    def _parts(self, volume: Volume, entry: Entry) -> Iterator[Entry]:
        yield entry
        name = entry.name.decode("utf-8", "surrogateescape")
        for line in self._index(volume).more.get(name, ()):
            yield self._decoder.decode(line)

    def _content(self, volume: Volume, entry: Entry) -> bytes:
        if entry.size > READ_LIMIT_BYTES:
            raise DamagedError(
                f"/{entry.path} of {self.loaded.manifest.ref} has {entry.size:,} bytes, too many to look into"
            )
        index = self._index(volume)
        if len(entry.chunks) == 1 and entry.chunks[0].size == entry.size:
            chunk = entry.chunks[0]
            return index.reader.get(chunk.frame)[chunk.offset : chunk.offset + chunk.size]
        content = bytearray(entry.size)
        for part in self._parts(volume, entry):
            for chunk in part.chunks:
                plain = index.reader.get(chunk.frame)
                content[chunk.at : chunk.at + chunk.size] = plain[chunk.offset : chunk.offset + chunk.size]
        return bytes(content)
