"""Has the kernel write back what was written, while the rest is still being unfolded.

Left to itself it waits for seconds, or for a share of the memory: the disk would idle first, and everybody wait for it
at the end. One call at a time, so that a slow disk is asked for large steps and a quick one for small ones.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from agent.errors import TargetIOError

STEP_BYTES = 32 << 20
LAST_STEP_BYTES = 4 << 20  # less is not worth a wait


class Settler:
    """Writes the file system at ``root`` back, in a thread, each time so much was written to it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._settled_bytes = 0
        self._written_bytes = 0
        self._descriptor = -1
        self._thread: threading.Thread | None = None
        self._failed: OSError | None = None

    def written(self, total_bytes: int) -> None:
        """Tell how much was written in all. Raises TargetIOError when the kernel could not write an earlier part."""
        self._written_bytes = total_bytes
        self._step(STEP_BYTES)

    def all_written(self) -> None:
        """What is left goes to the disk while names and times are still being set."""
        self._step(LAST_STEP_BYTES)

    def close(self) -> None:
        """Wait for the step under way; what it met is raised unless something else is on its way already."""
        if self._thread is not None:
            self._thread.join()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def finish(self) -> None:
        self.close()
        self._refuse_failure()

    def _step(self, least_bytes: int) -> None:
        is_busy = self._thread is not None and self._thread.is_alive()
        if is_busy or self._written_bytes - self._settled_bytes < least_bytes:
            return
        self._refuse_failure()
        if self._descriptor < 0:
            self._descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._settled_bytes = self._written_bytes
        self._thread = threading.Thread(target=self._settle)
        self._thread.start()

    def _settle(self) -> None:
        try:
            sync_filesystem(self._descriptor)
        except OSError as error:
            self._failed = error

    def _refuse_failure(self) -> None:
        if self._failed is not None:
            raise TargetIOError(f"{self._root}: {self._failed.strerror}", "look at the kernel log and the disk itself")


def write_back(root: Path) -> None:
    """Everything on the file system of a directory is on its disk, or OSError."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_filesystem(descriptor)
    finally:
        os.close(descriptor)


def sync_filesystem(descriptor: int) -> None:
    """syncfs(2): everything on the file system of an open file is on its disk, or OSError."""
    import ctypes  # noqa: PLC0415 - most extracts are too small to come here

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(descriptor) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
