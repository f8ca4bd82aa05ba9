"""Takes files out of an image, complete with metadata, as far as the user who runs it may set it."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.depot.catalogue import LoadedImage
from agent.depot.store import Depot
from agent.errors import NoImageError, RefusedError, UsageError
from agent.image.entry import DIRECTORY, HARDLINK, MORE, Entry
from agent.image.listing import open_listing
from agent.image.write import write_volume
from agent.model.events import Emit
from agent.model.image import Volume


@dataclass(frozen=True, slots=True)
class ExtractResult:
    entries: int
    bytes_written: int
    warnings: tuple[str, ...]
    bytes_kept: int = 0  # were there already, and right
    removed: int = 0


@dataclass(frozen=True, slots=True)
class Existing:
    """What becomes of files that are in the way. By default they are read, and written where they differ."""

    trust_metadata: bool = False  # a file of the right size, time, mode and owner is right
    delete: bool = False  # what is not in the image goes


def extract(  # noqa: PLR0913 - the last has a default
    depot: Depot,
    loaded: LoadedImage,
    paths: Sequence[str],
    to: Path,
    emit: Emit,
    existing: Existing = Existing(),
) -> ExtractResult:
    """Write the entries at ``paths`` (system paths; none: everything) below ``to``, at the paths they have there.

    Directories come with all they hold. Other files in ``to`` stay, unless ``existing`` says that they go; that is for
    whole images only (UsageError). Raises NoImageError when a path is not there.
    """
    if existing.delete and paths:
        raise UsageError("only a whole image can say what does not belong", "leave out the paths, or --delete")
    wanted = [_parts(path) for path in paths]
    _prepare(to)
    entries = written = kept = removed = 0
    warnings: list[str] = []
    found: set[tuple[bytes, ...]] = set()
    if not loaded.manifest.trees:
        raise NoImageError(f"image {loaded.manifest.ref} has no files to extract: it holds blocks", "restore it whole")
    for volume in sorted(loaded.manifest.trees, key=lambda each: len(each.filesystem.mountpoint)):
        mount = _parts(volume.filesystem.mountpoint)
        chosen = _choose(depot, loaded, volume, mount, wanted)
        found |= chosen.found
        if not chosen.names:
            continue
        root = _place(to, mount, volume)
        select = None if existing.delete else lambda entry, chosen=chosen: chosen.takes(entry)
        result = write_volume(
            depot, loaded, volume.id, root, emit, select=select, trust_metadata=existing.trust_metadata,
            elsewhere=_mount_points(loaded, mount),
        )  # fmt: skip
        entries += result.entries
        written += result.bytes_written
        kept += result.bytes_kept
        removed += result.removed
        warnings += result.warnings
    absent = [path for path, parts in zip(paths, wanted, strict=True) if parts not in found]
    if absent:
        raise NoImageError(
            f"image {loaded.manifest.ref} has no {', '.join(absent)}", "paths begin at the system’s root"
        )
    return ExtractResult(entries, written, tuple(warnings), kept, removed)


def _parts(path: str) -> tuple[bytes, ...]:
    parts = tuple(part for part in os.fsencode(path).split(b"/") if part not in (b"", b"."))
    if b".." in parts:
        raise UsageError(f"‘{path}’ leads upwards", "give the path from the system’s root")
    return parts


def _mount_points(loaded: LoadedImage, mount: tuple[bytes, ...]) -> frozenset[bytes]:
    """Where other volumes lie in the one that is mounted at ``mount``."""
    others = (_parts(volume.filesystem.mountpoint) for volume in loaded.manifest.volumes)
    return frozenset(b"/".join(parts[len(mount) :]) for parts in others if parts[: len(mount)] == mount != parts)


def _place(to: Path, mount: tuple[bytes, ...], volume: Volume) -> Path:
    """The directory of a volume below ``to``, made where it is not there; no link on the way is followed: the root
    volume of the same image may have brought one."""
    place = to
    for name in mount:
        place = place / os.fsdecode(name)
        try:
            place.mkdir()
        except FileExistsError:
            if not stat.S_ISDIR(place.lstat().st_mode):
                raise RefusedError(
                    f"volume {volume.id} belongs at {volume.filesystem.mountpoint}, and {place} is no directory",
                    "move it out of the way, or extract into an empty directory",
                ) from None
    return place


def _prepare(to: Path) -> None:
    if to.is_symlink() or (to.exists() and not to.is_dir()):
        raise UsageError(f"{to} is not a directory")
    to.mkdir(parents=True, exist_ok=True)


@dataclass(slots=True)
class _Chosen:
    """What of one volume is taken."""

    names: set[bytes]
    found: set[tuple[bytes, ...]]
    everything: bool

    def takes(self, entry: Entry) -> bool:
        return self.everything or entry.name in self.names


def _choose(
    depot: Depot, loaded: LoadedImage, volume: Volume, mount: tuple[bytes, ...], wanted: list[tuple[bytes, ...]]
) -> _Chosen:
    """The names to write: what was asked for, the directories that lead there, the first names of hard links."""
    if not wanted:
        return _Chosen({b""}, set(), True)
    chosen = _Chosen(set(), set(), False)
    with open_listing(depot, loaded.manifest, volume) as listing:
        for block in listing.entries():
            for entry in block:
                if entry.type == MORE:
                    continue
                name = entry.name
                full = mount + tuple(part for part in name.split(b"/") if part)
                below = [each for each in wanted if full[: len(each)] == each]
                chosen.found.update(each for each in below if each == full)
                if below or (entry.type == DIRECTORY and any(each[: len(full)] == full for each in wanted)):
                    chosen.names.add(name)
                    if entry.type == HARDLINK:
                        chosen.names |= _with_parents(entry.target_name)
    if not any(each[: len(mount)] == mount or mount[: len(each)] == each for each in wanted):
        chosen.names.clear()
    return chosen


def _with_parents(name: bytes) -> set[bytes]:
    parts = name.split(b"/")
    return {b"/".join(parts[:count]) for count in range(len(parts) + 1)}
