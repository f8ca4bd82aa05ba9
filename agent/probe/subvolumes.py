"""The subvolumes of a btrfs, and the volumes of a system that lies in them; see `agent.model.subvolumes`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from agent.errors import RefusedError
from agent.image.capture import SourceVolume
from agent.model.image import Excluded
from agent.model.storage import FileSystem
from agent.model.subvolumes import TOP, Seen, found_subvolumes, made_for
from agent.probe.filesystems import mounted_use
from agent.probe.mounts import FstabEntry, read_mounts
from agent.process import ProcessError, run

INODE = 256  # of every subvolume's root: BTRFS_FIRST_FREE_OBJECTID
_LINE = re.compile(r"ID (\d+) gen \d+ top level \d+ path (?:<FS_TREE>/)?(.*)")
_DEFAULT = re.compile(r"ID (\d+)")
TOP_ID = "5"  # BTRFS_FS_TREE_OBJECTID


def is_subvolume(where: Path) -> bool:
    """Whether a directory of a btrfs is the root of a subvolume."""
    try:
        return where.stat().st_ino == INODE
    except OSError:
        return False


def seen_on(where: Path) -> tuple[Seen, ...]:
    """Every subvolume of the btrfs that is mounted at ``where``, the top among them."""
    try:
        every = _listed(["btrfs", "subvolume", "list", "-a", where])
        read_only = _listed(["btrfs", "subvolume", "list", "-a", "-r", where])
        told = _DEFAULT.match(run(["btrfs", "subvolume", "get-default", where]).stdout)
    except ProcessError as error:
        if error.status != 127:
            raise
        raise RefusedError(
            f"the subvolumes of the btrfs at {where} cannot be listed: the program btrfs is not there",
            "install btrfs-progs",
        ) from error
    default = told[1] if told else TOP_ID
    named = [Seen(path, id_ in read_only, id_ == default) for id_, path in every.items()]
    return (Seen(TOP, default=default == TOP_ID), *named)


def shown_subvolume(where: Path) -> str:
    """The subvolume that is mounted at ``where``; the top for every other kind of file system."""
    mounts = {mount.mountpoint: mount for mount in read_mounts()}
    found = mounts.get(str(where.resolve()))
    return found.root if found else TOP


def _listed(words: list[str | Path]) -> dict[str, str]:
    """Id → path from the top. A name with a line break in it cannot be told, and is passed over."""
    found = (_LINE.fullmatch(line) for line in run(words).stdout.splitlines())
    return {line[1]: f"/{line[2]}" for line in found if line}


@dataclass(frozen=True, slots=True)
class Lies:
    """Where a file system lies."""

    kernel: str  # name of its device
    disk: str = ""
    partition: int = 0  # 0: the whole disk
    device: str = ""  # of the stack, in place of disk and partition

    def volume(self, filesystem: FileSystem, where: Path, read: str) -> SourceVolume:
        """What is seen at ``where`` as a volume, without a name yet."""
        used = mounted_use(filesystem, where)
        return SourceVolume("", used, where, self.disk, self.partition, read=read, device=self.device)


@dataclass(frozen=True, slots=True)
class Mounted:
    """A subvolume that a system mounts."""

    subvolume: str
    mountpoint: str
    path: Path  # where it is mounted now


@dataclass(frozen=True, slots=True)
class System:
    """What of one file system belongs to a system."""

    volumes: tuple[SourceVolume, ...]  # without names yet
    left_out: tuple[Excluded, ...] = ()
    excludes: tuple[Excluded, ...] = ()  # patterns of system paths


def volumes_in(
    mounted: Iterable[Mounted], lies: Lies, held: FileSystem, entries: Iterable[FstabEntry], read: str
) -> System:
    """A volume for each subvolume that belongs to the system.

    One that is all of a file system without subvolumes is told as such a file system.
    """
    mounted = tuple(mounted)
    seen = seen_on(mounted[0].path)
    paths = {each.subvolume: each for each in mounted}
    found = found_subvolumes(seen, {each.subvolume: each.mountpoint for each in mounted}, lies.kernel)
    plain = set(found.places) == {TOP}
    options = {entry.mountpoint: entry.options for entry in entries}
    volumes = []
    for path, mountpoint in sorted(found.places.items(), key=lambda each: (each[1].count("/"), each[1])):
        where = paths[path].path if path in paths else _below(paths, path)
        if not is_subvolume(where):
            continue  # it vanished meanwhile
        known = replace(held, mountpoint=mountpoint, options=options.get(mountpoint, ""))
        volume = lies.volume(known, where, read)
        if not plain:
            volume = replace(volume, subvolume=path, subvolumes=made_for(path, seen, found.places))
        volumes.append(volume)
    return System(tuple(volumes), found.left_out, found.globs)


def _below(paths: Mapping[str, Mounted], path: str) -> Path:
    """Where a subvolume is seen inside of a mounted one."""
    outer = max((each for each in paths if path.startswith(each.rstrip("/") + "/")), key=len)
    return paths[outer].path / os.path.relpath(path, outer)
