"""Removes from a tree what its image does not have.

    listing's names ──► arrive: kept for each directory on the way ──► left behind: what else is there goes

What is mounted below is another file system's, and stays.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from agent.image.aliases import strangers
from agent.image.target import LOST_AND_FOUND, Target, remove


class Cleaner:
    """Follows a listing through a target's directories, and cleans each when all of its names have come.

    Where a file is found under more than one name (FAT), all directories are cleaned at the end instead: a worker may
    be about to write what looks like something else now.
    """

    def __init__(self, target: Target, has_aliases: bool) -> None:
        self.has_aliases = has_aliases
        self.removed = 0  # names
        self._target = target
        # Directories, and what is listed in them; None: left alone.
        self._open: list[tuple[bytes, set[bytes] | None]] = []
        self._aside: list[tuple[bytes, set[bytes]]] = []  # to be cleaned at the end

    def enter(self, name: bytes, left_alone: bool) -> None:
        """The names in this directory come next; nothing is removed from one that is left alone."""
        self._open.append((name, None if left_alone else set()))

    def arrive(self, name: bytes) -> None:
        """The next listed name; the directories that it does not lie in are behind."""
        if not name:
            return
        parent, _, last = name.rpartition(b"/")
        while self._open and self._open[-1][0] != parent:
            self._leave()
        if self._open and (names := self._open[-1][1]) is not None:
            names.add(last)

    def leave_all(self) -> None:
        """No more names come."""
        while self._open:
            self._leave()

    def finish(self) -> None:
        """Everything is written: clean what could not be before."""
        for name, names in self._aside:
            folder = self._target.folder(name)
            found = os.listdir(b"/proc/self/fd/%d" % folder)
            self.clean(name, strangers(folder, found, names))

    def clean(self, name: bytes, extra: Sequence[bytes]) -> None:
        """Remove what is in a directory under these names, except where another file system is mounted."""
        if not extra:
            return
        descriptor = self._target.open_directory(name)
        try:
            for last in extra:
                if not name and last == LOST_AND_FOUND:
                    continue
                try:
                    found = os.stat(last, dir_fd=descriptor, follow_symlinks=False)
                except FileNotFoundError:  # since it was told
                    continue
                if found.st_dev != self._target.device:
                    continue
                self._target.forget(name + b"/" + last if name else last)
                remove(descriptor, last, self._target.device)
                self.removed += 1
        finally:
            os.close(descriptor)

    def _leave(self) -> None:
        name, names = self._open.pop()
        if names is None:
            return
        if self.has_aliases:
            self._aside.append((name, names))
            return
        found = os.listdir(b"/proc/self/fd/%d" % self._target.folder(name))
        self.clean(name, [last for last in found if last not in names])
