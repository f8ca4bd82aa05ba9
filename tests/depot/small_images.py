"""Images of a few bytes, for tests of a depot that never look into packs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from agent.depot.local import LocalDepot
from agent.depot.store import listing_path, pack_path
from agent.model.image import ImageRef, Manifest, ObjectRef, ProfileRef, Volume
from agent.model.profile import Profile
from agent.model.profile_xml import dump_profile
from agent.model.storage import FileSystem


def put(depot: LocalDepot, folder: Path, data: bytes, listing: bool = False) -> ObjectRef:
    sha256 = hashlib.sha256(data).hexdigest()
    (folder / "file").write_bytes(data)
    depot.put_file(listing_path(sha256) if listing else pack_path(sha256), folder / "file")
    return ObjectRef(sha256, len(data))


def small_manifest(
    depot: LocalDepot, folder: Path, time: str, packs: tuple[bytes, ...], machine: str = "web-1"
) -> Manifest:
    """A manifest whose packs, listing and profile are in the depot; not published."""
    published = depot.publish_profile(dump_profile(Profile(machine=machine, time="2026-11-23T20:41:40Z")))
    refs = tuple(put(depot, folder, data) for data in packs)
    listing = put(depot, folder, f"listing of {machine} {time}".encode(), listing=True)
    volume = Volume(
        "root", "tree", FileSystem("ext4", mountpoint="/"), listing, 1, 0, tuple(each.sha256 for each in refs)
    )
    return Manifest(
        1, machine, time, "test", machine, ProfileRef(published.time, published.sha256, "f"), (), (volume,), refs
    )


def publish(depot: LocalDepot, folder: Path, time: str, packs: tuple[bytes, ...], machine: str = "web-1") -> ImageRef:
    manifest = small_manifest(depot, folder, time, packs, machine)
    depot.publish_image(msgspec.json.encode(manifest))
    return manifest.ref


def path_of(data: bytes) -> str:
    """Where a pack of these bytes lies."""
    return pack_path(hashlib.sha256(data).hexdigest())
