"""A whole image unpacked, one folder a volume, and what was changed there since."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.depot.catalogue import LoadedImage
from agent.depot.store import Depot
from agent.errors import RefusedError
from agent.image.target import remove
from agent.image.verify import verify_volume
from agent.image.write import write_volume
from agent.model.events import Emit


@contextmanager
def unpacked(depot: Depot, loaded: LoadedImage, folder: Path, emit: Emit) -> Iterator[dict[str, Path]]:
    """Volume id → where its tree is, below ``folder``; removed at the end, immutable files too.

    Raises RefusedError for what this file system, or this user, cannot hold: it would be missing from what is made.
    """
    places: dict[str, Path] = {}
    try:
        for volume in loaded.manifest.volumes:
            if volume.kind != "tree":
                raise RefusedError(
                    f"volume {volume.id} of {loaded.manifest.ref} holds {volume.kind}, expected files",
                    "restore the image, change it there, and capture again",
                )
            place = folder / f"volume-{volume.id}"
            place.mkdir(mode=0o755)
            places[volume.id] = place
            written = write_volume(depot, loaded, volume.id, place, emit)
            if written.warnings:
                raise RefusedError(
                    f"{len(written.warnings)} entries cannot be unpacked as they are; first: {written.warnings[0]}",
                    "work as root, with --work on a file system that has attributes, such as ext4",
                )
        yield places
    finally:
        _remove(folder, places)


def _remove(folder: Path, places: dict[str, Path]) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for place in places.values():
            remove(descriptor, os.fsencode(place.name), os.fstat(descriptor).st_dev)
    finally:
        os.close(descriptor)


def changes(depot: Depot, loaded: LoadedImage, places: dict[str, Path], emit: Emit) -> tuple[str, ...]:
    """How the trees differ from the image: one line an entry, as `verify_volume` says it."""
    found: list[str] = []
    for volume_id, place in places.items():
        found += verify_volume(depot, loaded, volume_id, place, emit).mismatches
    return tuple(found)


def allocated_bytes(place: Path) -> int:
    """What the files of a tree take on the disk, hard links once."""
    total = 0
    seen: set[int] = set()
    pending = [os.fsencode(place)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                found = entry.stat(follow_symlinks=False)
                if found.st_nlink == 1 or entry.is_dir(follow_symlinks=False) or found.st_ino not in seen:
                    total += found.st_blocks * 512
                seen.add(found.st_ino)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
    return total
