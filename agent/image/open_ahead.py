"""Opens files some ahead of their turn, and has the disk bring the small ones meanwhile.

Read one after the other, small files keep one request on its way; disks, and more so the networks behind some, answer
many at once in hardly more time.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress

from agent.image.long_path import open_path
from agent.image.uncached import UNCACHED_BYTES

AHEAD = 16
Opened = int | OSError  # a descriptor for reading, or why there is none
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_file(name: bytes, folder: int) -> Opened:
    """Open for reading without touching the access time, where that is allowed (open(2), O_NOATIME)."""
    try:
        try:
            return open_path(name, _OPEN | os.O_NOATIME, folder)
        except PermissionError:
            return open_path(name, _OPEN, folder)
    except OSError as error:
        return error


def open_in_turn(names: Sequence[bytes], folder: int) -> Generator[Opened, None, None]:
    """Each file of a directory in order. Who takes a descriptor closes it; those never taken are closed at the end."""
    waiting: deque[Opened] = deque()
    try:
        for name in names:
            waiting.append(_coming(name, folder))
            if len(waiting) > AHEAD:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        for opened in waiting:
            if isinstance(opened, int):
                os.close(opened)


def _coming(name: bytes, folder: int) -> Opened:
    """Opened; a small one is on its way. Large ones are read past the page cache, where they must not be brought."""
    opened = open_file(name, folder)
    if isinstance(opened, int):
        with suppress(OSError):
            found = os.fstat(opened)
            if stat.S_ISREG(found.st_mode) and 0 < found.st_size < UNCACHED_BYTES:
                os.posix_fadvise(opened, 0, found.st_size, os.POSIX_FADV_WILLNEED)
    return opened
