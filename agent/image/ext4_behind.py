"""Finds the block device behind a directory of a mounted ext4, and makes sure that it says what stat(2) says."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.image import ext4
from agent.image.ext4 import StrangeError, mtime_ns, owner
from agent.image.ext4_disk import Ext4Disk
from agent.image.mountinfo import mounts
from agent.image.settle import sync_filesystem

DRIVERS = frozenset({b"ext4", b"ext3"})  # that keep directories in the page cache of the device; ext2's own does not
# Options with which stat(2) and listxattr(2) do not say what is on the disk.
OTHER_VIEWS = frozenset({b"nouid32", b"nouser_xattr", b"noacl", b"idmapped"})
EVERYBODY = ["0", "0", "4294967295"]  # /proc/pid/uid_map where identifiers are what they are


@contextmanager
def disk_behind(root: Path) -> Iterator[tuple[Ext4Disk, int, frozenset[bytes]]]:
    """The file system of a directory, looked at from below; with the inode of the directory, and the names in it at
    which something else is mounted.

    Raises StrangeError or OSError where it must not be looked at so.
    """
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = os.fstat(top)
        covered = _refuse_other_views(found.st_dev, os.path.realpath(os.fsencode(root)))
        sync_filesystem(top)
        device = _open_device(found.st_dev)
        try:
            layout = ext4.read_layout(os.pread(device, ext4.SUPERBLOCK_BYTES, ext4.SUPERBLOCK_AT))
            told = os.statvfs(top)
            if (told.f_fsid, told.f_frsize, told.f_files) != (layout.fsid, layout.block_bytes, layout.inodes):
                raise StrangeError("the device holds another file system than the one that is mounted")
            disk = Ext4Disk(device, layout)
            _refuse_another_root(disk, os.fstat(top))
            yield disk, found.st_ino, covered
        finally:
            os.close(device)
    finally:
        os.close(top)


def _open_device(number: int) -> int:
    """The block device of this number, by the name that the kernel gave it."""
    about = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/uevent").read_text()
    names = [line.partition("=")[2] for line in about.splitlines() if line.startswith("DEVNAME=")]
    if not names:
        raise StrangeError("a device without a name")
    device = os.open(f"/dev/{names[0]}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    found = os.fstat(device)
    if not stat.S_ISBLK(found.st_mode) or found.st_rdev != number:
        os.close(device)
        raise StrangeError(f"/dev/{names[0]} is another device")
    return device


def _refuse_other_views(number: int, root: bytes) -> frozenset[bytes]:
    """StrangeError where another driver or view lies between the disk and stat(2); else what is mounted below."""
    for kind in ("uid_map", "gid_map"):
        if Path(f"/proc/self/{kind}").read_text().split() != EVERYBODY:
            raise StrangeError("identifiers are mapped")
    device = b"%d:%d" % (os.major(number), os.minor(number))
    below = root.rstrip(b"/") + b"/"
    kinds: set[bytes] = set()
    covered: set[bytes] = set()
    for mount in mounts():
        if mount.place.startswith(below):
            covered.add(mount.place.removeprefix(below))
        if mount.device == device:
            kinds.add(mount.kind)
            if OTHER_VIEWS & mount.options:
                raise StrangeError("mounted with another view")
    if not kinds or not kinds <= DRIVERS:
        raise StrangeError("no ext4")
    return frozenset(covered)


def _refuse_another_root(disk: Ext4Disk, found: os.stat_result) -> None:
    _, fields = disk.inode(found.st_ino)
    told = (found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, found.st_size)
    if told != (fields[0], *owner(fields), mtime_ns(fields), fields[2] | fields[9] << 32):
        raise StrangeError("the device says something else about the directory than stat(2)")
