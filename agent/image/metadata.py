"""Owner, mode, times, extended attributes: read for a listing, applied to a target, compared."""

from __future__ import annotations

import base64
import binascii
import errno
import os
import stat
from collections.abc import Iterator
from typing import Protocol

from agent.errors import DamagedError
from agent.image.entry import BLOCK, CHAR, DIRECTORY, FIFO, FILE, SOCKET, SYMLINK, Entry

KINDS = {
    FILE: stat.S_IFREG, DIRECTORY: stat.S_IFDIR, SYMLINK: stat.S_IFLNK, CHAR: stat.S_IFCHR, BLOCK: stat.S_IFBLK,
    FIFO: stat.S_IFIFO, SOCKET: stat.S_IFSOCK,
}  # fmt: skip
TYPE_OF = {kind: name for name, kind in KINDS.items()}
_BY_BYTES = "base64:"  # no namespace of attributes is called so: they end in a dot
_NOT_TAKEN = (errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL, errno.EACCES)
_NO_XATTRS = (errno.EOPNOTSUPP, errno.ENODATA, errno.EPERM, errno.EACCES)
# Made by the kernel or of no meaning elsewhere: overlayfs's own marks, NFS's ACL view, how XFS keeps POSIX ACLs.
NOT_CARRIED = ("system.nfs4_acl", "trusted.overlay.", "system.data", "trusted.SGI_ACL_")


def mtime_of(found: os.stat_result) -> int:
    """Nanoseconds since 1970; a time that 64 bits do not hold (btrfs has them) becomes the nearest, 1677 or 2554."""
    return min(max(found.st_mtime_ns, -(1 << 63)), (1 << 64) - 1)


def read_xattrs(where: int | str | bytes) -> dict[str, str] | None:
    """Extended attributes of an open file, or of the path itself (links not followed), base64; None when none."""
    follow = isinstance(where, int)
    try:
        names = os.listxattr(where) if follow else os.listxattr(where, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return None
        raise
    if not names:
        return None
    found: dict[str, str] = {}
    for name in names:
        if name.startswith(NOT_CARRIED):
            continue
        try:
            value = os.getxattr(where, name) if follow else os.getxattr(where, name, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_XATTRS:
                raise
        else:
            found[attribute_key(name)] = base64.b64encode(value).decode()
    return dict(sorted(found.items())) or None


def attribute_key(name: str) -> str:
    """How an attribute is named in a listing: as it is, or as ``base64:…`` where its bytes are not UTF-8."""
    if name.isascii():
        return name
    try:
        name.encode()
    except UnicodeEncodeError:
        return _BY_BYTES + base64.b64encode(os.fsencode(name)).decode()
    return name


def attribute_name(key: str) -> str:
    """The name for system calls; binascii.Error for a key that is no base64."""
    return os.fsdecode(base64.b64decode(key[len(_BY_BYTES) :], validate=True)) if key.startswith(_BY_BYTES) else key


def _carried(entry: Entry) -> dict[str, str]:
    """What a listing says, less what older versions carried and should not have."""
    return {name: text for name, text in (entry.xattrs or {}).items() if not name.startswith(NOT_CARRIED)}


def apply_xattrs(where: int | str | bytes, entry: Entry, replace: bool) -> Iterator[str]:
    """Give a file exactly these attributes; yields a sentence for each that the file system did not take."""
    follow = isinstance(where, int)
    wanted = _carried(entry)
    if replace:
        for name in set(read_xattrs(where) or {}) - set(wanted):
            try:
                _remove(where, attribute_name(name), follow)
            except OSError as error:
                yield f"attribute {name} could not be removed: {error.strerror}"
    for key, text in wanted.items():
        try:
            name, value = attribute_name(key), base64.b64decode(text, validate=True)
        except binascii.Error:
            raise DamagedError(f"‘{entry.path}’: attribute {key} is not base64", "capture the image again") from None
        try:
            if follow:
                os.setxattr(where, name, value)
            else:
                os.setxattr(where, name, value, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NOT_TAKEN and not _is_too_long(where, error):
                raise
            yield f"attribute {key} of {len(value):,} bytes was not taken: {error.strerror}"


def _is_too_long(where: int | str | bytes, error: OSError) -> bool:
    """Whether no larger disk would help: ext4 has one block for all attributes of a file, and calls it ENOSPC."""
    if error.errno in (errno.E2BIG, errno.ERANGE):
        return True
    if error.errno != errno.ENOSPC:
        return False
    room = os.statvfs(where if isinstance(where, int) else os.path.dirname(os.fsencode(where)))
    return room.f_bavail > 0 and (not room.f_files or room.f_favail > 0)


def _remove(where: int | str | bytes, name: str, follow: bool) -> None:
    if follow:
        os.removexattr(where, name)
    else:
        os.removexattr(where, name, follow_symlinks=False)


class Looks(Protocol):
    """What of an entry a look at its inode can tell."""

    type: str
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int


def looks_right(entry: Looks, found: os.stat_result) -> bool:
    """Whether a file, directory or link has the type, size, time, mode and owner of an entry; a link's mode is none."""
    return (
        found.st_mtime_ns == entry.mtime
        and (found.st_mode == KINDS.get(entry.type, 0) | entry.mode or entry.type == SYMLINK)
        and (entry.type != FILE or found.st_size == entry.size)
        and found.st_uid == entry.uid
        and found.st_gid == entry.gid
    )


# File systems that keep neither owners nor modes, and times to two seconds only (FAT).
COARSE = frozenset({"vfat", "msdos", "exfat"})
COARSE_NS = 2_000_000_000


def coarse_differences(entry: Entry, found: os.stat_result, times: bool = True) -> Iterator[str]:
    """As `differences`, for what such a file system can keep."""
    kind = TYPE_OF.get(stat.S_IFMT(found.st_mode), "unknown")
    if kind != entry.type:
        yield f"is a {kind}, expected a {entry.type}"
    elif entry.type == FILE and found.st_size != entry.size:
        yield f"{found.st_size:,} bytes, expected {entry.size:,}"
    elif times and abs(found.st_mtime_ns - entry.mtime) > COARSE_NS:
        yield f"time {found.st_mtime_ns} ns, expected {entry.mtime} ns"


def differences(
    entry: Entry, found: os.stat_result, xattrs: dict[str, str] | None, times: bool = True
) -> Iterator[str]:
    """What of a file's metadata is not as the listing says: found against expected."""
    kind = TYPE_OF.get(stat.S_IFMT(found.st_mode), "unknown")
    if kind != entry.type:
        yield f"is a {kind}, expected a {entry.type}"
        return
    mode = stat.S_IMODE(found.st_mode)
    if entry.type != SYMLINK and mode != entry.mode:
        yield f"mode {mode:o}, expected {entry.mode:o}"
    if (found.st_uid, found.st_gid) != (entry.uid, entry.gid):
        yield f"owner {found.st_uid}:{found.st_gid}, expected {entry.uid}:{entry.gid}"
    if times and found.st_mtime_ns != entry.mtime:
        yield f"time {found.st_mtime_ns} ns, expected {entry.mtime} ns"
    if entry.type == FILE and found.st_size != entry.size:
        yield f"{found.st_size:,} bytes, expected {entry.size:,}"
    if entry.device and (os.major(found.st_rdev), os.minor(found.st_rdev)) != tuple(entry.device):
        yield f"device {os.major(found.st_rdev)}:{os.minor(found.st_rdev)}, expected {entry.device}"
    if xattrs != entry.xattrs and (xattrs or {}) != (expected := _carried(entry)):
        names = set(xattrs or {}) ^ set(expected)
        yield f"attributes differ: {', '.join(sorted(names)) or 'values'}"
