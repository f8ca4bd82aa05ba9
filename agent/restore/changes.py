"""Which paths of the restored system programs have changed: what the report says differs from the image.

The kernel stamps a change time that no program can set back; names that are gone are told from a list made before.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

# Where the sandbox mounts its own; what stands there is not of the image.
NOT_OF_THE_IMAGE = ("/dev", "/proc", "/run", "/sys", "/tmp")
# File systems stamp with a clock that advances once a tick, at most 10 ms apart on any kernel we run on.
_TICK_S = 0.02


class ChangeWatch:
    """Remembers which names there are below ``root``; ``changed`` says what happened to them since.

    100,000 names take about one megabyte: they are kept compressed, in the order of the walk.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        squeezed = zlib.compressobj(1)
        self._names = b"".join(squeezed.compress(path + b"\0") for path, _ in _walk(root)) + squeezed.flush()
        time.sleep(_TICK_S)
        self._since_ns = time.time_ns()
        time.sleep(_TICK_S)

    def changed(self) -> tuple[str, ...]:
        """Paths made, changed or removed, sorted; each absolute inside the root."""
        since = self._since_ns
        found = {path for path, status in _walk(self.root) if status.st_ctime_ns >= since}
        found.update(path for path in self._gone(found))
        return tuple(sorted(os.fsdecode(path) for path in found))

    def _gone(self, changed: set[bytes]) -> Iterator[bytes]:
        """Names that were there and are not; only directories that changed, or went, can have lost any."""
        lost: set[bytes] = set()
        rest = b""
        reader = zlib.decompressobj()
        top = os.fsencode(self.root)
        for start in range(0, len(self._names), 65536):
            pieces = (rest + reader.decompress(self._names[start : start + 65536])).split(b"\0")
            rest = pieces.pop()
            for path in pieces:
                parent = path.rpartition(b"/")[0] or b"/"
                if (parent in changed or parent in lost) and not os.path.lexists(top + path):
                    lost.add(path)
        return iter(lost)


def _walk(root: Path) -> Iterator[tuple[bytes, os.stat_result]]:
    """(path inside the root, status) of everything, parents before what they hold."""
    top = os.fsencode(root)
    skipped = {os.fsencode(path) for path in NOT_OF_THE_IMAGE}
    yield b"/", os.lstat(top)
    queue = [b""]
    while queue:
        folder = queue.pop()
        with os.scandir(top + folder or b"/") as entries:
            for entry in entries:
                path = folder + b"/" + entry.name
                if path in skipped:
                    continue
                yield path, entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    queue.append(path)
