"""The tree that is written. Every name is opened relative to its directory, and no link is ever followed.

Whatever the tree or the listing holds, nothing outside the target's root is touched: directories are entered one
name at a time with O_NOFOLLOW, files are made relative to them.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections import OrderedDict
from pathlib import Path

from agent.errors import RefusedError, TargetIOError
from agent.image.flags import CARRIED, LOCKING, write_flags
from agent.image.mount_points import mount_number, mounts_below
from agent.model.wording import printable

_ENTER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
KEPT = 64
# Made by mkfs and needed by fsck; it is the file system's, whatever the image says.
LOST_AND_FOUND = b"lost+found"
MAX_DEPTH = 100  # of directories that are entered while one is removed
IN_USE = (errno.ENOTEMPTY, errno.EBUSY)  # of rmdir: something is mounted below, or there
DEFAULT_ACL = "system.posix_acl_default"


class Target:
    """Directories of a target, opened as they are needed. One instance a process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.device = os.fstat(self._top).st_dev
        self._open: OrderedDict[bytes, int] = OrderedDict()

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()
        os.close(self._top)

    def folder(self, name: bytes) -> int:
        """A descriptor of the directory ``name`` (O_PATH, for the …at calls), valid until the next call."""
        if not name:
            return self._top
        found = self._open.get(name)
        if found is not None:
            self._open.move_to_end(name)
            return found
        missing: list[bytes] = []
        reached = name
        while reached and reached not in self._open:
            missing.append(reached)
            reached = reached.rpartition(b"/")[0]
        descriptor = self._open[reached] if reached else self._top
        for each in reversed(missing):
            descriptor = self._enter(descriptor, each)
        return descriptor

    def _enter(self, parent: int, name: bytes) -> int:
        try:
            descriptor = os.open(name.rpartition(b"/")[2], _ENTER, dir_fd=parent)
        except OSError as error:
            raise self._wrong(name, error) from None
        self._open[name] = descriptor
        if len(self._open) > KEPT:
            os.close(self._open.popitem(last=False)[1])
        return descriptor

    def place(self, name: bytes) -> tuple[int, bytes]:
        """The directory of a path, and the last name in it."""
        parent, _, last = name.rpartition(b"/")
        return self.folder(parent), last

    def forget(self, name: bytes) -> None:
        """Close what was opened at ``name``: it is about to be replaced."""
        descriptor = self._open.pop(name, None)
        if descriptor is not None:
            os.close(descriptor)

    def open_directory(self, name: bytes) -> int:
        """A readable descriptor of a directory; the caller closes it."""
        if not name:
            return os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._top)
        folder, last = self.place(name)
        return os.open(last, _DIRECTORY, dir_fd=folder)

    def make_directory(self, name: bytes) -> bool:
        """Make sure there is a directory at ``name``; whether it is new. What else is there gives way."""
        if not name:
            self._calm(name)
            return False
        folder, last = self.place(name)
        try:
            os.mkdir(last, 0o700, dir_fd=folder)
        except FileExistsError:
            found = os.stat(last, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                if found.st_dev == self.device:
                    self._calm(name)
                return False
            remove(folder, last, self.device)
            os.mkdir(last, 0o700, dir_fd=folder)
        return True

    def _calm(self, name: bytes) -> None:
        """A directory from before: nothing about it shall pass to the files that are made in it."""
        descriptor = self.open_directory(name)
        try:
            found = os.fstat(descriptor)
            write_flags(descriptor, 0, CARRIED)
            if found.st_mode & stat.S_ISGID:
                os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & ~stat.S_ISGID)
            try:
                os.removexattr(descriptor, DEFAULT_ACL)
            except OSError as error:
                if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM):
                    raise
        finally:
            os.close(descriptor)

    def _wrong(self, name: bytes, error: OSError) -> TargetIOError:
        where = os.fsdecode(os.path.join(os.fsencode(self.root), name))
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            return TargetIOError(f"{where} is not a directory although one was made there", "who else writes to it?")
        return TargetIOError(f"{where}: {error.strerror}", "look at the kernel log")


def refuse_second_views(root: Path) -> None:
    """RefusedError where a place below ``root`` shows the same file system once more (a bind mount): what is removed
    there is gone elsewhere too, and by its device it cannot be told from what belongs to ``root``."""
    top, device = os.path.realpath(os.fsencode(root)), os.stat(root).st_dev
    for place, number in mounts_below(top):
        try:
            descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # it lies below another mount, out of reach
        try:
            is_seen = mount_number(descriptor) == number  # and not hidden by a later mount
            if is_seen and os.fstat(descriptor).st_dev == device:
                raise RefusedError(
                    f"{printable(os.fsdecode(place))} shows a part of the same file system as {root}: what is removed "
                    "there would be gone from where it lies, too",
                    "unmount it, then start again",
                )
        finally:
            os.close(descriptor)


def remove(folder: int, last: bytes, device: int) -> None:
    """Remove whatever is at a name, on this file system only, immutable or not. Where something is mounted it stays,
    also when that is a part of this file system. Raises OSError (ENOTEMPTY) for a directory below which something is
    mounted, when all else in it is gone."""
    try:
        found = os.stat(last, dir_fd=folder, follow_symlinks=False)
        if found.st_dev != device:
            return
        if not stat.S_ISDIR(found.st_mode):
            _unlink(folder, last)
            return
        _remove_tree(folder, last, device)
    except FileNotFoundError:
        return


def _remove_tree(folder: int, last: bytes, device: int) -> None:
    """A directory and all it holds. Trees may be deeper than calls and open files can be: directories far down are
    moved up beside the top first."""
    top = os.open(last, _DIRECTORY, dir_fd=folder)
    try:
        if mount_number(top) != mount_number(folder):
            return
        write_flags(top, 0, LOCKING)
        stay: set[bytes] = set()
        while names := [name for name in _removable(top, device) if name not in stay]:
            stay.update(name for name in names if not _remove_below(top, name, device, top, 1))
    finally:
        os.close(top)
    os.rmdir(last, dir_fd=folder)


def _remove_below(folder: int, last: bytes, device: int, top: int, depth: int) -> bool:
    """Remove a name in a directory that lies ``depth`` below ``top``; from MAX_DEPTH on it is moved into ``top``.
    False: it stays, because not all that it holds could go."""
    found = os.stat(last, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISDIR(found.st_mode):
        _unlink(folder, last)
        return True
    descriptor = os.open(last, _DIRECTORY, dir_fd=folder)
    try:
        write_flags(descriptor, 0, LOCKING)
        if depth > MAX_DEPTH:
            os.rename(last, f".regraft-{secrets.token_hex(8)}", src_dir_fd=folder, dst_dir_fd=top)
            return True
        for name in _removable(descriptor, device):
            _remove_below(descriptor, name, device, top, depth + 1)
    finally:
        os.close(descriptor)
    try:
        os.rmdir(last, dir_fd=folder)
    except OSError as error:
        if error.errno not in IN_USE:
            raise
        return False
    return True


def _removable(descriptor: int, device: int) -> list[bytes]:
    """What lies in a directory on this file system; what is mounted there belongs elsewhere."""
    with os.scandir(descriptor) as scan:
        names = [os.fsencode(child.name) for child in scan]
    number = mount_number(descriptor)
    return [name for name in names if _is_here(descriptor, name, device, number)]


def _is_here(folder: int, last: bytes, device: int, number: int) -> bool:
    found = os.stat(last, dir_fd=folder, follow_symlinks=False)
    if found.st_dev != device or not stat.S_ISDIR(found.st_mode):
        return found.st_dev == device
    descriptor = os.open(last, _ENTER, dir_fd=folder)
    try:
        return mount_number(descriptor) == number
    finally:
        os.close(descriptor)


def _unlink(folder: int, last: bytes) -> None:
    try:
        os.unlink(last, dir_fd=folder)
    except PermissionError:
        descriptor = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            write_flags(descriptor, 0, LOCKING)
        finally:
            os.close(descriptor)
        os.unlink(last, dir_fd=folder)
