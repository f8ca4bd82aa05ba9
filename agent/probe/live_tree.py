"""A directory of this machine as a tree: ``/`` while it runs, or where a disk's file systems are mounted.

Links are resolved inside the directory only: ``/etc/localtime -> /usr/share/…`` of a mounted system must not lead to
the running system's file.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from agent.model.tree import MAX_LINKS


@dataclass(frozen=True, slots=True)
class LiveTree:
    """A `agent.model.tree.Tree` of the files below ``root``; names that are not UTF-8 hold surrogates."""

    root: Path

    def read_bytes(self, path: str) -> bytes:
        found = self._resolve(path)
        if found is None or not stat.S_ISREG(found.stat().st_mode):
            raise FileNotFoundError(errno.ENOENT, "no regular file", path)
        return found.read_bytes()

    def exists(self, path: str) -> bool:
        return self._resolve(path) is not None

    def is_file(self, path: str) -> bool:
        found = self._resolve(path)
        return found is not None and stat.S_ISREG(found.lstat().st_mode)

    def size(self, path: str) -> int:
        found = self._resolve(path)
        told = found.lstat() if found is not None else None
        return told.st_size if told and stat.S_ISREG(told.st_mode) else 0

    def list_dir(self, path: str) -> tuple[str, ...]:
        found = self._resolve(path)
        try:
            return tuple(sorted(os.listdir(found))) if found else ()  # noqa: PTH208 - names only
        except (NotADirectoryError, FileNotFoundError, PermissionError):
            return ()

    def read_link(self, path: str) -> str | None:
        parent, _, name = path.rstrip("/").rpartition("/")
        folder = self._resolve(parent or "/")
        if folder is None or not name:
            return None
        try:
            return os.readlink(folder / name)  # noqa: PTH115 - the text itself, not a path made of it
        except OSError:
            return None

    def host_path(self, path: str) -> Path | None:
        """Where this machine has what the tree calls ``path``, links followed; None when it is not there."""
        return self._resolve(path)

    def _resolve(self, path: str) -> Path | None:
        waiting = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        here: list[str] = []
        links = 0
        while waiting:
            part = waiting.pop()
            if part == "..":
                here[-1:] = []
                continue
            below = self.root.joinpath(*here, part)
            try:
                mode = below.lstat().st_mode
            except (OSError, ValueError):
                return None
            if stat.S_ISLNK(mode):
                links += 1
                if links > MAX_LINKS:
                    return None
                target = os.readlink(below)  # noqa: PTH115
                if target.startswith("/"):
                    here = []
                waiting += [step for step in reversed(target.split("/")) if step not in ("", ".")]
                continue
            if waiting and not stat.S_ISDIR(mode):
                return None
            here.append(part)
        return self.root.joinpath(*here)
