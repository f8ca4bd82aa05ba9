"""How what was seen in single directories adds up to what of a listing has to be done."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from dataclasses import dataclass, field

from agent.image.survey_work import DIFFERS, RIGHT, Seen
from agent.image.target import LOST_AND_FOUND

# A directory of which is not known what does not belong, or whether a name comes twice: all that lies directly in it is
# marked.
EVERY_NAME = 2
NAMED = 3  # is right, and listed in such a directory: only its name is asked for
EXTRA_NAMES = 50_000  # so many names that do not belong are kept; of further directories every name is asked for
_IS_RIGHT = (RIGHT, NAMED)
_NAMES_OF_RIGHT = bytes([NAMED, *range(1, 256)])


@dataclass(slots=True)
class _Folder:
    """A directory on the way from the root to where the listing is read."""

    name: bytes
    number: int
    below: set[bytes] = field(default_factory=set)  # the directories listed in it
    last: bytes = b""  # the last of them


class OutOfOrderError(Exception):
    """The lines of a listing do not follow each other as they must."""


class Marks:
    """A byte a line: 0, it is right; DIFFERS; EVERY_NAME; NAMED. Some sixteen bytes a directory besides.

    A directory that differs may be right but for the names in it: ``extra`` has those that do not belong.
    """

    def __init__(self, elsewhere: frozenset[bytes]) -> None:
        self._elsewhere = elsewhere
        self._marks = bytearray()
        self._lines = array("Q")  # of each directory its line
        self._above = array("Q")  # and the number of the directory it lies in
        self._open: list[_Folder] = []
        self._split: set[int] = set()
        self.extra: dict[bytes, list[bytes]] = {}  # by directory: names in it that do not belong
        self._room = EXTRA_NAMES
        # Of each directory what is listed and what was found in it, until both are known.
        self._listed: dict[int, tuple[bytes, set[bytes]]] = {}
        self._found: dict[int, list[bytes] | None] = {}

    def __getitem__(self, lines: slice) -> bytes:
        return bytes(self._marks[lines])

    def directory(self, name: bytes, line: int) -> None:
        """The next one of the listing, in order; OutOfOrderError where it cannot come here."""
        number = len(self._lines)
        parent, _, last = name.rpartition(b"/")
        while len(self._open) > 1 and self._open[-1].name != parent:
            self._close()
        if self._open:
            folder = self._open[-1]
            if folder.name != parent or last <= folder.last:
                raise OutOfOrderError
            folder.last = last
            folder.below.add(last)
        elif name:
            raise OutOfOrderError
        self._lines.append(line)
        self._above.append(self._open[-1].number if self._open else number)
        self._open.append(_Folder(name, number))

    def split(self) -> None:
        """The lines of the open directory go on in another task: no worker knows all of its names."""
        self._split.add(self._open[-1].number)

    def end(self, lines: int) -> None:
        """There are so many lines."""
        while self._open:
            self._close()
        self._marks.extend(bytes(lines - len(self._marks)))

    def seen(self, seen: Seen) -> None:
        """The result of a task."""
        end = seen.first + len(seen.marks)
        self._marks.extend(bytes(max(0, end - len(self._marks))))
        self._marks[seen.first : end] = seen.marks
        for number, found in enumerate(seen.folders, bisect_left(self._lines, seen.first)):
            self._found[number] = found
            self._compare(number)

    def finish(self) -> None:
        """Mark what must go with what is marked."""
        marks, ends = self._marks, array("Q", [*self._lines[1:], len(self._marks)])
        for number, (line, end) in enumerate(zip(self._lines, ends, strict=True)):
            if number and marks[self._lines[self._above[number]]] == EVERY_NAME:
                marks[line] = marks[line] or NAMED
            if marks[line] == EVERY_NAME:
                marks[line + 1 : end] = marks[line + 1 : end].translate(_NAMES_OF_RIGHT)
        for number in reversed(range(len(self._lines))):
            line, above = self._lines[number], self._lines[self._above[number]]
            if marks[line] in _IS_RIGHT and marks.find(DIFFERS, line + 1, ends[number]) >= 0:
                marks[line] = DIFFERS
            if marks[line] not in _IS_RIGHT and marks[above] in _IS_RIGHT:
                marks[above] = DIFFERS

    def _close(self) -> None:
        folder = self._open.pop()
        self._listed[folder.number] = folder.name, folder.below
        self._compare(folder.number)

    def _compare(self, number: int) -> None:
        if number not in self._found or number not in self._listed:
            return
        found, (name, below) = self._found.pop(number), self._listed.pop(number)
        if found is None:
            return
        more = [each for each in found if each not in below]
        # A file may be listed under the name of a directory that is absent: it must come along to be refused.
        is_one_absent = len(found) - len(more) < len(below)
        if name in self._elsewhere:
            more = []
        elif not name and LOST_AND_FOUND in more:
            more.remove(LOST_AND_FOUND)
        line = self._lines[number]
        if is_one_absent or number in self._split or len(more) > self._room:
            self._marks[line] = EVERY_NAME
        elif more:
            self._room -= len(more)
            self.extra[name] = more
            self._marks[line] = DIFFERS
