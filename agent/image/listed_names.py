"""Follows a listing through its directories, keeping the names listed in each until the walk has left it."""

from __future__ import annotations

from collections.abc import Callable

Left = Callable[[bytes, set[bytes]], None]  # a directory, and all that is listed in it


class ListedNames:
    """``left`` is called for each directory when no more of its names come."""

    def __init__(self, left: Left) -> None:
        self._left = left
        self._open: list[tuple[bytes, set[bytes] | None]] = []  # None: not asked for

    def enter(self, name: bytes, left_alone: bool) -> None:
        """The names in this directory come next; nothing is said of one that is left alone."""
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

    def _leave(self) -> None:
        name, names = self._open.pop()
        if names is not None:
            self._left(name, names)
