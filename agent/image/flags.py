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
CARRIED = SYNC | IMMUTABLE | APPEND | NODUMP | NOATIME | DIRSYNC | NOCOW
LOCKING = IMMUTABLE | APPEND  # set last: nothing can be changed after them
FIRST = NOCOW  # has a meaning only while the file is empty
_UNSUPPORTED = (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM)


def read_flags(descriptor: int) -> int:
    """The carried flags of an open file; 0 where the file system has none."""
    try:
        return int(_INT.unpack(fcntl.ioctl(descriptor, GET, _NOTHING))[0]) & CARRIED
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return 0
        raise


def write_flags(descriptor: int, flags: int, mask: int = CARRIED) -> bool:
    """Make the carried flags in ``mask`` what ``flags`` says; whether the file system took it."""
    try:
        found = int(_INT.unpack(fcntl.ioctl(descriptor, GET, _NOTHING))[0])
        wanted = (found & ~mask) | (flags & mask)
        if wanted != found:
            fcntl.ioctl(descriptor, SET, _INT.pack(wanted))
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return flags & mask == 0
        raise
    return True
