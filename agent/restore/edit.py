"""Editing: an image's tree, writable; then a new image of the same machine, in which only what changed is stored.

    image ─► every volume unpacked ─► mounted as one tree ─► change it ─► compared with the image ─► new image
                                                                                └─► nothing differs: nothing is made

The tree lies in a work folder and is forgotten afterwards; the image that was edited stays as it is.
Decision: docs/decisions/0021-editing-unpacks.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.depot.catalogue import LoadedImage
from agent.depot.store import WritableDepot
from agent.errors import RefusedError
from agent.image.capture import CaptureResult, CaptureSource, SourceVolume, capture_image
from agent.image.unpacked import allocated_bytes, changes, unpacked
from agent.model.edited import edited_filesystem, edited_profile
from agent.model.events import Emit
from agent.model.image import AT_REST, Volume
from agent.probe.live_tree import LiveTree
from agent.probe.machine import probe_root
from agent.process import run
from agent.restore.mounts import make_mountpoint


@dataclass(frozen=True, slots=True)
class Edited:
    """What an edit left: ``result`` is None when nothing had changed."""

    changes: tuple[str, ...]
    result: CaptureResult | None


def edit_image(
    depot: WritableDepot, loaded: LoadedImage, work: Path, emit: Emit, change: Callable[[Path], None]
) -> Edited:
    """Let ``change`` work on the tree and publish what it made of it; when it raises, nothing is published."""
    if os.geteuid() != 0:
        raise RefusedError("editing sets owners and mounts volumes, which needs root", "start it as root")
    volumes = loaded.manifest.volumes
    with unpacked(depot, loaded, work, emit) as places:
        before = {volume.id: allocated_bytes(places[volume.id]) for volume in volumes}
        with one_tree(volumes, places, work / "tree") as root:
            change(root)
            found = changes(depot, loaded, places, emit)
            if not found:
                return Edited((), None)
            grown = {volume.id: allocated_bytes(places[volume.id]) - before[volume.id] for volume in volumes}
            source = edited_source(loaded, root, places, grown)
        return Edited(found, capture_image(source, depot, emit, previous=loaded))


def edited_source(loaded: LoadedImage, root: Path, places: dict[str, Path], grown: dict[str, int]) -> CaptureSource:
    """The same machine, layout and file systems; the profile's software read from the edited tree."""
    manifest, source = loaded.manifest, loaded.profile
    profile = edited_profile(source, probe_root(LiveTree(root), source.machine, source.os.cmdline))
    volumes = tuple(
        SourceVolume(
            volume.id, edited_filesystem(volume.filesystem, grown[volume.id], volume.id), places[volume.id],
            volume.disk, volume.partition, read=AT_REST, subvolume=volume.subvolume, subvolumes=volume.subvolumes,
            device=volume.device,
        )
        for volume in manifest.volumes
    )  # fmt: skip
    hostname = profile.hostname or manifest.hostname
    return CaptureSource(source.machine, hostname, profile, manifest.disks, volumes, stack=manifest.stack)


@contextmanager
def one_tree(volumes: tuple[Volume, ...], places: dict[str, Path], top: Path) -> Iterator[Path]:
    """The volumes as the system sees them, bound together below ``top``; what is seen there is what is edited."""
    with ExitStack() as stack:
        for volume in sorted(volumes, key=lambda each: len(each.filesystem.mountpoint.rstrip("/"))):
            mountpoint = volume.filesystem.mountpoint or "/"
            top.mkdir(exist_ok=True)
            place = make_mountpoint(top, mountpoint)
            run(["mount", "--bind", places[volume.id], place])
            # Something that the person left running may still be in it; what it writes from here on is forgotten.
            stack.callback(run, ["umount", "--lazy", place])
        yield top
