"""Reads and writes that leave nothing behind in the page cache.

A restore writes, and a capture reads, more than most machines have memory, and none of it twice. Left to itself the
kernel takes fresh memory for each page until there is none, and then takes it from what the machine works with.
RWF_DONTCACHE (preadv2(2), pwritev2(2)) gives the memory of each piece back as soon as the disk has it, for the next
piece to use; a write goes on its way at once. What others have in the cache stays there.
"""

from __future__ import annotations

import errno
import os
import re

UNCACHED_BYTES = 128 << 10  # from here a piece is worth a way to the disk of its own
_RWF_DONTCACHE = 0x80  # linux/fs.h; Python has no name for it
_REFUSED = (errno.EOPNOTSUPP, errno.EINVAL)  # by this file system


def is_sound(release: str) -> bool:
    """Whether a kernel of this release (uname(2)) has it without the fault of the first ones.

    Linux 6.14 brought it with a race that freed pages twice; 6.15 switched it off, 6.16 mended it and switched it on
    (“Disable FOP_DONTCACHE for now due to bugs”, 478ad02d6844, and its revert, 7b2b67dbd449).
    """
    found = re.match(r"(\d+)\.(\d+)", release)
    return found is not None and (int(found[1]), int(found[2])) >= (6, 16)


_KERNEL_HAS_IT = is_sound(os.uname().release)


def write(descriptor: int, view: memoryview, at: int) -> int:
    """As pwrite(2): how many bytes were written at ``at``, which may be fewer. Raises OSError."""
    if _KERNEL_HAS_IT and len(view) >= UNCACHED_BYTES:
        try:
            return os.pwritev(descriptor, [view], at, _RWF_DONTCACHE)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
    return os.pwrite(descriptor, view, at)


def read(descriptor: int, size: int, at: int) -> bytes | bytearray:
    """As pread(2): up to ``size`` bytes from ``at``. Raises OSError."""
    if _KERNEL_HAS_IT and size >= UNCACHED_BYTES:
        data = bytearray(size)
        try:
            del data[os.preadv(descriptor, [data], at, _RWF_DONTCACHE) :]
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
        else:
            return data
    return os.pread(descriptor, size, at)
