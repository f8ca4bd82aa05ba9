"""The volumes of a restored disk, mounted read-only to be compared with their image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath

from agent.errors import ReadBackError
from agent.model.image import Manifest, Volume
from agent.model.storage import Disk
from agent.probe.disks import partition_name
from agent.probe.live_tree import LiveTree
from agent.probe.source import inside, mount_read_only
from agent.probe.stack_open import KeyOf, Places, no_keys, opened_places


@contextmanager
def mounted_volumes(
    disks: Sequence[Disk], manifest: Manifest, mount_root: Path, machine: Sequence[Disk] = (), key_of: KeyOf = no_keys
) -> Iterator[Path]:
    """The volumes of an image, as they lie on the disks, mounted read-only below one root; unmounted at the end.

    ``machine``: all disks, to which a stack may reach; ``key_of`` opens what is encrypted.
    """
    with ExitStack() as stack:
        opened: list[Places] = []
        for disk in disks:
            # What stands on several of the disks is opened once, with the first.
            reached = any(disk.name == other.name for places in opened for other in places.others)
            opened.append(Places(disk) if reached else stack.enter_context(opened_places(disk, machine, key_of)))
        every = ((held.uuid, (places, number)) for places in opened for number, held in places.contents() if held.uuid)
        found = dict(reversed([*every]))  # a further disk may have a copy: what lies on the first is meant
        for volume in sorted(manifest.trees, key=lambda v: len(PurePosixPath(v.filesystem.mountpoint).parts)):
            place = found.get(volume.filesystem.uuid)
            if place is None:
                raise ReadBackError(
                    f"disk {names_of(disks)} has no file system {volume.filesystem.uuid} (volume {volume.id} of "
                    f"{manifest.ref}), found {', '.join(sorted(found)) or 'none'}",
                    "name every disk that the image was restored to, or restore again",
                )
            mountpoint = volume.filesystem.mountpoint
            where = mount_root if mountpoint == "/" else inside(LiveTree(mount_root), mountpoint)
            mount_read_only(*place, where, stack, volume.subvolume)
        yield mount_root


def names_of(disks: Sequence[Disk]) -> str:
    return ", ".join(disk.name for disk in disks)


def node_of_volume(disks: Sequence[Disk], manifest: Manifest, volume: Volume) -> Path:
    """The partition that a blocks volume was restored to: of the same PARTUUID, else of the same number on the first
    disk."""
    sources = {source.name: source for source in manifest.disks}
    source = sources.get(volume.disk)
    part = next((part for part in source.partitions if part.number == volume.partition), None) if source else None
    places = [(disk, each) for disk in disks for each in disk.partitions]
    same = [place for place in places if part and part.part_uuid and place[1].part_uuid == part.part_uuid]
    same = same or [(disks[0], each) for each in disks[0].partitions if each.number == max(volume.partition, 1)]
    name = partition_name(Path("/"), same[0][0].name, same[0][1].number) if same else ""
    if not name:
        raise ReadBackError(
            f"disk {names_of(disks)} has no partition {volume.partition} (volume {volume.id} of {manifest.ref})",
            "name the disk that the image was restored to, or restore again",
        )
    return Path("/dev") / name
