"""Opens what lies deeper than a path can say: system calls take 4,095 bytes, trees go on below."""

from __future__ import annotations

import errno
import os

PIECE_BYTES = 4000
_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_path(path: bytes, flags: int, folder: int | None = None) -> int:
    """As os.open(path, flags, dir_fd=folder), for a path of any length."""
    try:
        return os.open(path, flags, dir_fd=folder)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG or len(path) <= PIECE_BYTES:
            raise
    cut = path.rindex(b"/", 1, PIECE_BYTES)
    step = os.open(path[:cut], _STEP, dir_fd=folder)
    try:
        return open_path(path[cut + 1 :], flags, step)
    finally:
        os.close(step)
