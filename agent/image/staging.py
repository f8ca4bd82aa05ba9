"""Errors of the directory in which a capture makes its packs and listings, said with what is full and the next act."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.depot.store import WritableDepot
from agent.errors import StorageFullError, TargetIOError
from agent.image.pack import PACK_BYTES
from agent.model.wording import size_text

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def room_in(depot: WritableDepot, folder: Path) -> Iterator[None]:
    """Nothing but a capture's own ``folder`` can be full while it runs. Raises StorageFullError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        free = shutil.disk_usage(folder.parent).free
        needed = f"a pack needs up to {PACK_BYTES:,} bytes, {free:,} bytes ({size_text(free)}) are free"
        if depot.staging is not None:
            raise StorageFullError(
                f"no room in depot {depot.location} for this capture: {needed}; no image was made",
                "free or add space on the depot's disk, then start the same capture again: it goes on from there",
            ) from None
        raise StorageFullError(
            f"no room in {folder.parent} for packs on their way to depot {depot.location}: {needed}; no image was made",
            "free or add space there, or set TMPDIR to a directory that has more, then start the same capture again",
        ) from None


@contextmanager
def storing(depot: WritableDepot, folder: Path) -> Iterator[None]:
    """Around what stores: errors of the depot must never be taken for those of a file that is being read."""
    try:
        with room_in(depot, folder):
            yield
    except OSError as error:
        where = error.filename or folder
        raise TargetIOError(f"depot {depot.location}, {where}: {error.strerror}", "check the depot's disk") from None
