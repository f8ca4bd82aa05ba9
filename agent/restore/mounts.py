"""The target's file systems under one root, outermost first, and always taken down again.

Mounted nodev and nosuid: what was restored can be written, not used, while the agent works. Not noexec: programs of
the image run from here, in the sandbox only, which has a /dev of its own.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from agent.errors import PatchError, TargetIOError
from agent.image.mountinfo import mounts
from agent.model.plan import MakeFilesystem, PlannedFilesystem
from agent.process import ProcessError, run
from agent.restore.filesystems import matches, planned_subvolumes

OPTIONS = "nodev,nosuid,noatime"
# ext: inode tables are finished by the restored system, in the background; xfs: the source disk may be attached too.
KIND_OPTIONS = {"ext3": "noinit_itable", "ext4": "noinit_itable", "xfs": "nouuid", "vfat": "umask=0077,utf8"}
UNMOUNT_TRIES = 20
UNMOUNT_PAUSE_S = 0.25
NodeOf = Callable[[str, int], Path]  # disk as steps name it, partition → device node


@contextmanager
def mounted_target(node_of: NodeOf, made: Sequence[MakeFilesystem], mount_root: Path) -> Iterator[Path]:
    """Mount every file system of the plan that has a mount point, below ``mount_root``; unmount them in any case."""
    mount_root.mkdir(mode=0o700, parents=True, exist_ok=True)
    mounted: list[Path] = []
    try:
        for each in in_mount_order(made):
            place = make_mountpoint(mount_root, each.mountpoint)
            run(["mount", "-t", each.kind, "-o", each.options, node_of(each.disk, each.partition), place])
            mounted.append(place)
        yield mount_root
    except BaseException:
        _unmount(mounted)
        raise
    left = _unmount(mounted)
    if left:
        raise TargetIOError(
            f"{', '.join(map(str, left))} stayed busy and was detached: its last writes may not have reached the disk",
            "see what still runs, then restore again",
        )


def is_there(node: Path, planned: PlannedFilesystem) -> bool:
    """Whether the planned file system is on a device already, and the kernel takes it: blkid also recognises one that
    is damaged, or larger than its device."""
    return matches(node, planned) and _can_be_mounted(node, planned)


def _can_be_mounted(node: Path, planned: PlannedFilesystem) -> bool:
    with TemporaryDirectory(prefix="regraft-try-") as folder:
        options = _joined([OPTIONS, KIND_OPTIONS.get(planned.kind, "")])
        try:
            run(["mount", "-t", planned.kind, "-o", options, node, folder])
        except ProcessError:
            return False
        run(["umount", folder])
        return True


@dataclass(frozen=True, slots=True)
class Wanted:
    """A mount of a file system, or of one subvolume of it."""

    disk: str
    partition: int
    kind: str
    mountpoint: str
    options: str


def in_mount_order(made: Sequence[MakeFilesystem]) -> list[Wanted]:
    """The root first, then by depth: ``/srv`` before ``/srv/www``."""
    named = [
        Wanted(step.disk, step.partition, step.filesystem.kind, mountpoint, options)
        for step in made
        for mountpoint, options in mounts_of(step.filesystem)
    ]
    return sorted(named, key=lambda each: (len(_parts(each.mountpoint)), each.mountpoint))


def mounts_of(planned: PlannedFilesystem) -> list[tuple[str, str]]:
    """(mount point, options) of every mount of a file system."""
    common = [OPTIONS, KIND_OPTIONS.get(planned.kind, "")]
    if planned.kind == "btrfs" and (subvolumes := planned.subvolumes or planned_subvolumes(planned)):
        mounted = [each for each in subvolumes if each.mountpoint]
        return [(each.mountpoint, _joined([*common, f"subvol={each.path}", each.options])) for each in mounted]
    return [(planned.mountpoint, _joined(common))] if planned.mountpoint else []


def _joined(words: Sequence[str]) -> str:
    return ",".join(word for word in words if word)


def make_mountpoint(root: Path, mountpoint: str) -> Path:
    """The directory for a mount, made if it is not there. A link on the way, from a run that was cut, is refused."""
    place = root
    for name in _parts(mountpoint):
        place = place / name
        try:
            place.mkdir(mode=0o755)
        except FileExistsError:
            if not stat.S_ISDIR(place.lstat().st_mode):
                raise PatchError(
                    f"{mountpoint} cannot be mounted: {place.relative_to(root)} in the restored system is no directory",
                    "restore onto a cleared disk",
                ) from None
    return place


def where_mounted(node: Path, root: Path) -> Path | None:
    """Where below ``root`` the file system of a device is mounted."""
    number = node.stat().st_rdev
    wanted = f"{os.major(number)}:{os.minor(number)}"
    places = (Path(os.fsdecode(mount.place)) for mount in mounts() if mount.device == wanted.encode())
    return next((place for place in places if place.is_relative_to(root)), None)


def top_inside_filesystem(path: Path) -> str:
    """Where in its file system the mount that holds ``path`` begins: ``/``, or a btrfs subvolume, ``/@rootfs``."""
    holding = [mount for mount in mounts() if path.is_relative_to(os.fsdecode(mount.place))]
    deepest = max(holding, key=lambda mount: mount.place.rstrip(b"/").count(b"/"), default=None)
    return os.fsdecode(deepest.top) if deepest else "/"


def _parts(mountpoint: str) -> tuple[str, ...]:
    parts = PurePosixPath(mountpoint).parts[1:]
    if not mountpoint.startswith("/") or ".." in parts:
        raise PatchError(f"‘{mountpoint}’ is no mount point; expected an absolute path without ..")
    return parts


def _unmount(mounted: list[Path]) -> list[Path]:
    """Unmount, innermost first; what stays busy is detached and returned."""
    os.sync()
    left = []
    for place in reversed(mounted):
        if not _unmounted(place):
            run(["umount", "--lazy", place])
            left.append(place)
    return left


def _unmounted(place: Path) -> bool:
    for _ in range(UNMOUNT_TRIES):
        try:
            run(["umount", place])
        except ProcessError:
            time.sleep(UNMOUNT_PAUSE_S)
        else:
            return True
    return False
