"""Removes from a tree what its image does not have.

    listing ──► names, kept for each directory on the way ──► the directory is left: what else is there goes

What is mounted below is another file system's, and stays; so do the directories that lead to it, and are told of.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from agent.errors import TargetIOError
from agent.image.aliases import strangers
from agent.image.listed_names import ListedNames
from agent.image.mount_points import mounts_below
from agent.image.target import IN_USE, LOST_AND_FOUND, Target, remove
from agent.model.wording import printable

SHOWN = 3  # mounts in a directory that stays


class Cleaner:
    """Follows a listing through a target's directories, and cleans each when all of its names have come.

    Where a file is found under more than one name (FAT), all directories are cleaned at the end instead: a worker may
    be about to write what looks like something else now.
    """

    def __init__(self, target: Target, has_aliases: bool) -> None:
        self.has_aliases = has_aliases
        self.removed = 0  # names
        self.notes: list[str] = []  # what had to stay, and why
        self._target = target
        self.names = ListedNames(self._left)
        self._aside: list[tuple[bytes, set[bytes]]] = []  # to be cleaned at the end

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
                path = name + b"/" + last if name else last
                self._target.forget(path)
                self._remove(descriptor, last, path)
        finally:
            os.close(descriptor)

    def _remove(self, folder: int, last: bytes, path: bytes) -> None:
        try:
            remove(folder, last, self._target.device)
        except OSError as error:
            where = os.path.join(os.path.realpath(os.fsencode(self._target.root)), path)
            mounted = [place for place, _ in mounts_below(where)] if error.errno in IN_USE else []
            if not mounted:
                raise TargetIOError(
                    f"{printable(os.fsdecode(where))} does not belong and cannot be removed: {error.strerror}",
                    "look at the kernel log and the disk's health",
                ) from None
            places = ", ".join(printable(os.fsdecode(place)) for place in mounted[:SHOWN])
            said = f"/{printable(os.fsdecode(path))}: was not removed: something is mounted in it, on {places}"
            self.notes.append(said + (f" and {len(mounted) - SHOWN} more" if len(mounted) > SHOWN else ""))
        else:
            self.removed += 1

    def _left(self, name: bytes, names: set[bytes]) -> None:
        if self.has_aliases:
            self._aside.append((name, names))
            return
        found = os.listdir(b"/proc/self/fd/%d" % self._target.folder(name))
        self.clean(name, [last for last in found if last not in names])
