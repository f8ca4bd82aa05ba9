"""What lies in a depot's directory, whatever its catalogue says: for those who delete and those who check."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from agent.depot.catalogue import decode_manifest, read_catalogue
from agent.depot.lease import FOLDER as LEASES
from agent.depot.lease import LeaseFile, decode
from agent.depot.local import LOCK_FILE, LocalDepot
from agent.depot.store import SMALL_FILE_LIMIT_BYTES, image_path, pack_path
from agent.depot.unfinished import decode_lines, unfinished_path
from agent.model.image import NAME, TIME_IN_NAMES, ImageRef, Manifest, ObjectRef

OBJECT = re.compile(r"packs/([0-9a-f]{2})/\1[0-9a-f]{62}\.pack|objects/[0-9a-f]{64}\.jsonl\.zst")


def stored_images(depot: LocalDepot) -> tuple[ImageRef, ...]:
    """Every image that has a manifest, by machine and time."""
    found = []
    for path in depot.root.glob("machines/*/images/*.json"):
        machine, time = path.parts[-3], path.stem
        if NAME.fullmatch(machine) and TIME_IN_NAMES.fullmatch(time):
            found.append(ImageRef(machine, time))
    return tuple(sorted(found, key=lambda ref: (ref.machine, ref.time)))


def known_images(depot: LocalDepot) -> tuple[ImageRef, ...]:
    """Every image that has a manifest or stands in the catalogue; usually these are the same."""
    listed = {ImageRef(each.machine, each.time) for each in read_catalogue(depot).images}
    return tuple(sorted({*listed, *stored_images(depot)}, key=lambda ref: (ref.machine, ref.time)))


def read_manifest(depot: LocalDepot, ref: ImageRef) -> Manifest:
    """A manifest as it lies there, its signature not asked for. Raises FileNotFoundError, DamagedError."""
    path = image_path(ref.machine, ref.time)
    return decode_manifest(depot.read(path, SMALL_FILE_LIMIT_BYTES), path)


def stored_objects(depot: LocalDepot) -> dict[str, int]:
    """Packs and listings: path → bytes. Files with other names are nobody's business here."""
    found: dict[str, int] = {}
    for pattern in ("packs/*/*.pack", "objects/*.jsonl.zst"):
        for path in depot.root.glob(pattern):
            name = path.relative_to(depot.root).as_posix()
            if OBJECT.fullmatch(name) and path.is_file():
                found[name] = path.stat().st_size
    return found


def live_leases(depot: LocalDepot, now: str) -> tuple[LeaseFile, ...]:
    """Leases that have not expired at ``now``."""
    found = (decode(path.read_bytes()) for path in sorted((depot.root / LEASES).glob("*.json")))
    return tuple(lease for lease in found if lease is not None and lease.expires >= now)


def expired_leases(depot: LocalDepot, now: str) -> tuple[Path, ...]:
    """Files of leases that have expired; what is no lease counts as one that has."""
    found = [(path, decode(path.read_bytes())) for path in sorted((depot.root / LEASES).glob("*.json"))]
    return tuple(path for path, lease in found if lease is None or lease.expires < now)


def idle_notes(depot: LocalDepot) -> tuple[Path, ...]:
    """What captures that were cut told of packs, where none of these is there any more."""
    found = (path for path in sorted(depot.root.glob(unfinished_path("*"))) if path.is_file())
    return tuple(path for path in found if not any(_is_there(depot, pack) for pack in decode_lines(path.read_bytes())))


def _is_there(depot: LocalDepot, pack: ObjectRef) -> bool:
    return (depot.root / pack_path(pack.sha256)).is_file()


def leftovers(depot: LocalDepot) -> Iterator[tuple[str, int, float]]:
    """What work that was cut left behind: path, bytes, when it was written to last (seconds since 1970).

    Files and folders in tmp/, and signatures of manifests that are not there.
    """
    for path in sorted((depot.root / "tmp").glob("*")):
        if path.name != LOCK_FILE:
            yield path.relative_to(depot.root).as_posix(), *_size_and_time(path)
    for path in sorted(depot.root.glob("machines/*/images/*.json.sig")):
        if not path.with_suffix("").exists():
            yield path.relative_to(depot.root).as_posix(), *_size_and_time(path)


def _size_and_time(path: Path) -> tuple[int, float]:
    """Bytes of a file or of all that a folder holds, and its newest time."""
    size, newest = 0, 0.0
    for folder, _, names in os.walk(path):
        for each in (Path(folder), *(Path(folder, name) for name in names)):
            found = each.lstat()
            size += found.st_size if each.is_file() else 0
            newest = max(newest, found.st_mtime)
    if not path.is_dir():
        found = path.lstat()
        size, newest = found.st_size, found.st_mtime
    return size, newest
