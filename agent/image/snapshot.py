"""Holds a btrfs volume still while it is captured: a read-only snapshot of it and of the subvolumes in it.

    mount point/.regraft-snapshot-XXXXXXXX/tree     the volume as it was at one moment, its subvolumes at their places

The folder is locked (flock) as long as its capture runs; what a killed one left behind is not, and is removed by the
next. Nothing of it is seen in the image, and the mount point's own time is put back.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.errors import RegraftError
from agent.image.capture import CaptureSource, SourceVolume
from agent.image.mount_points import mount_points
from agent.image.mountinfo import mounted_kind
from agent.image.walk import swap_inodes
from agent.model.events import Emit, Event
from agent.model.image import LIVE, SNAPSHOT, TREE, Excluded
from agent.process import ProcessError, run

PREFIX = ".regraft-snapshot-"
SUBVOLUME_INODE = 256  # of every subvolume's root: BTRFS_FIRST_FREE_OBJECTID
TOP = ("/", "<FS_TREE>")  # what the program calls the file system's own root


@contextmanager
def held_still(source: CaptureSource, emit: Emit) -> Iterator[CaptureSource]:
    """The source, its btrfs volumes that are in use as they are at this moment; the snapshots go at the end.

    Its stamps count from before the first snapshot: a file that is written to while one is made may have the same
    ctime in it and, with other content, in the volume.

    Where none can be made (no btrfs-progs, an active swap file), the volume is read file by file, and that is told.
    """
    begun_ns = time.time_ns()
    with ExitStack() as stack:
        volumes: list[SourceVolume] = []
        left_out: list[Excluded] = []
        for volume in source.volumes:
            if not is_subvolume(volume):
                volumes.append(volume)
                continue
            try:
                taken = stack.enter_context(_taken(volume, emit))
            except (RegraftError, OSError) as error:
                _tell(emit, volume, error)
                volumes.append(volume)
                continue
            volumes.append(replace(volume, path=taken.tree, live=volume.path, read=SNAPSHOT))
            left_out += taken.left_out
        left_out += source.left_out
        yield replace(source, volumes=tuple(volumes), left_out=tuple(left_out), begun_ns=begun_ns)


def is_subvolume(volume: SourceVolume) -> bool:
    """Whether a volume is in use, and a whole subvolume of btrfs."""
    if volume.kind != TREE or volume.read != LIVE or mounted_kind(volume.path) != "btrfs":
        return False
    return volume.path.stat().st_ino == SUBVOLUME_INODE


def _tell(emit: Emit, volume: SourceVolume, error: RegraftError | OSError) -> None:
    reason = error.message if isinstance(error, RegraftError) else str(error)
    if isinstance(error, ProcessError):
        missing = error.status == 127
        reason = "the program btrfs is not there (btrfs-progs)" if missing else error.stderr.strip() or reason
    _message(emit, f"{volume.path} is read file by file while it changes, for there is no snapshot of it: {reason}")


def _message(emit: Emit, text: str) -> None:
    emit(Event(seq=0, time="", kind="message", phase="capture", text=text))


@dataclass(slots=True)
class _Snapshot:
    """A snapshot in the making, or made."""

    live: Path
    folder: Path
    mountpoint: str
    whole: bool  # with the subvolumes in it
    left_out: list[Excluded] = field(default_factory=list)

    @property
    def tree(self) -> Path:
        return self.folder / "tree"

    def take(self) -> None:
        _snapshot(self.live, self.tree)
        with _same_times(self.tree):
            for left in self.tree.glob(f"{PREFIX}*"):
                shutil.rmtree(left)  # folders of captures that run, empty here
        made = [self.tree]
        for name in _subvolumes(self.live, nested=self.whole):
            if _is_subvolume(self.live / name) and not (self.live / name).is_relative_to(self.folder):
                made += self._take_nested(name)
        for path in reversed(made):
            run(["btrfs", "property", "set", "-ts", path, "ro", "true"])

    def _take_nested(self, name: str) -> list[Path]:
        """A subvolume in the volume, at its place, where a snapshot has an empty directory."""
        if name.startswith(PREFIX):
            return []
        if not self.whole:
            self._leave_out(name, "another file system")
            return []
        place = self.tree / name
        with _same_times(place.parent):
            place.rmdir()
            try:
                _snapshot(self.live / name, place)
            except ProcessError:
                place.mkdir()
                if not _holds_only_swap(self.live / name, self.live):
                    raise
                shutil.copystat(self.live / name, place)
                self._leave_out(f"{name}/*", "swap file")
                return []
        return [place]

    def _leave_out(self, name: str, reason: str) -> None:
        self.left_out.append(Excluded(f"{self.mountpoint.rstrip('/')}/{name}", reason))


@contextmanager
def _taken(volume: SourceVolume, emit: Emit) -> Iterator[_Snapshot]:
    _remove_left_behind(volume.path)
    with ExitStack() as stack:
        with _same_times(volume.path):
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=volume.path))
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, lock)
        stack.callback(_let_go, volume.path, folder, emit)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mountpoint = volume.filesystem.mountpoint or "/"
        whole = volume.filesystem.kind == "btrfs" and not volume.subvolume  # else those in it are volumes of their own
        taken = _Snapshot(volume.path, folder, mountpoint, whole)
        taken.take()
        yield taken


def _remove_left_behind(root: Path) -> None:
    """Folders of captures that do not run any more."""
    for folder in root.glob(f"{PREFIX}*"):
        with suppress(FileNotFoundError, NotADirectoryError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            finally:
                os.close(lock)
            _remove(root, folder)


def _let_go(root: Path, folder: Path, emit: Emit) -> None:
    """At the end, whatever happened; the image that was made meanwhile is none the worse when it fails."""
    try:
        _remove(root, folder)
    except (RegraftError, OSError) as error:
        _message(emit, f"{folder} could not be removed, the next capture tries again: {error}")


def _remove(root: Path, folder: Path) -> None:
    """A folder with the snapshots in it. Only a writable subvolume lets go of those in it."""
    with _same_times(root):
        for tree in folder.iterdir() if folder.exists() else ():
            for path in (tree, *(tree / name for name in _subvolumes(tree, nested=True))):
                run(["btrfs", "property", "set", "-ts", path, "ro", "false"])
            for name in reversed(_subvolumes(tree, nested=True)):
                run(["btrfs", "subvolume", "delete", tree / name])
            run(["btrfs", "subvolume", "delete", tree])
        folder.rmdir()


def _snapshot(source: Path, target: Path) -> None:
    run(["btrfs", "subvolume", "snapshot", source, target])


def _subvolumes(root: Path, nested: bool) -> list[str]:
    """Paths of the subvolumes in a subvolume, parents before what is in them; not ``nested``: of the first level."""
    own = run(["btrfs", "subvolume", "show", root]).stdout.splitlines()[0].strip()
    prefix = "" if own in TOP else f"{own}/"
    found: list[str] = []
    pending = [root]
    while pending:
        lines = run(["btrfs", "subvolume", "list", "-o", pending.pop()]).stdout.splitlines()
        paths = [line.partition(" path ")[2] for line in lines]
        below = [path.removeprefix(prefix) for path in paths if path.startswith(prefix)]
        found += below
        pending += [root / name for name in below if nested and _is_subvolume(root / name)]
    return sorted(found)


def _is_subvolume(path: Path) -> bool:
    """False also where something else is mounted, or the name is not what the program printed."""
    with suppress(OSError):
        if path.lstat().st_ino == SUBVOLUME_INODE:  # os.path.ismount holds every subvolume for a mount
            return os.path.realpath(os.fsencode(path)) not in mount_points(path, None)
    return False


def _holds_only_swap(folder: Path, root: Path) -> bool:
    """The kernel takes no snapshot of a subvolume with an active swap file, so people give it one of its own."""
    swaps = swap_inodes(root)
    found = [path.lstat() for path in folder.iterdir()]
    return bool(found) and all((each.st_dev, each.st_ino) in swaps for each in found)


@contextmanager
def _same_times(folder: Path) -> Iterator[None]:
    """What is made and removed in a directory meanwhile leaves its time as it was."""
    found = folder.stat()
    yield
    os.utime(folder, ns=(found.st_atime_ns, found.st_mtime_ns))
