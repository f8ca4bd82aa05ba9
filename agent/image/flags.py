"""File attributes of chattr(1), as far as an image carries them (linux/fs.h, ioctl_iflags(2))."""

from __future__ import annotations

import errno
import fcntl
import struct

GET = 0x80086601  # FS_IOC_GETFLAGS
SET = 0x40086602  # FS_IOC_SETFLAGS
_INT = struct.Struct("=i")
_NOTHING = _INT.pack(0)

SYNC, IMMUTABLE, APPEND, NODUMP, NOATIME = 0x8, 0x10, 0x20, 0x40, 0x80
DIRSYNC, NOCOW = 0x10000, 0x800000
NAMES = {
    SYNC: "sync", IMMUTABLE: "immutable", APPEND: "append-only", NODUMP: "nodump", NOATIME: "noatime",
    DIRSYNC: "dirsync", NOCOW: "nodatacow",
}  # fmt: skip
CARRIED = SYNC | IMMUTABLE | APPEND | NODUMP | NOATIME | DIRSYNC | NOCOW
LOCKING = IMMUTABLE | APPEND  # set last: nothing can be changed after them
FIRST = NOCOW  # has a meaning only while the file is empty
_UNSUPPORTED = (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM)


def read_flags(descriptor: int) -> int:
    """The carried flags of an open file; 0 where the file system has none."""
    try:
        return _get(descriptor) & CARRIED
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return 0
        raise


def write_flags(descriptor: int, flags: int, mask: int = CARRIED) -> int:
    """Make the carried flags in ``mask`` what ``flags`` says; those that the file system did not take."""
    try:
        found = _get(descriptor)
        wanted = (found & ~mask) | (flags & mask)
        if wanted != found:
            _set(descriptor, wanted)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return _one_by_one(descriptor, flags & mask)
    return 0


def flags_not_taken(refused: int) -> list[str]:
    """What to say of them, nothing where there are none."""
    names = [name for flag, name in NAMES.items() if refused & flag]
    return [f"flags were not taken by the file system: {', '.join(names)}"] if names else []


def _one_by_one(descriptor: int, flags: int) -> int:
    """File systems refuse a set for one flag that they do not know. Those that were not taken."""
    refused = 0
    for flag in (1 << bit for bit in range(flags.bit_length()) if flags >> bit & 1):
        try:
            _set(descriptor, _get(descriptor) | flag)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            refused |= flag
    return refused


def _get(descriptor: int) -> int:
    return int(_INT.unpack(fcntl.ioctl(descriptor, GET, _NOTHING))[0])


def _set(descriptor: int, flags: int) -> None:
    fcntl.ioctl(descriptor, SET, _INT.pack(flags))
