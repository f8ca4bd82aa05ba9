"""The surveying worker: looks at whole directories, and says which lines of the listing are not as they should be."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import msgspec

from agent.errors import RegraftError
from agent.image.entry import DIRECTORY, FILE, MORE, SYMLINK, decoded_name
from agent.image.flags import LOCKING, read_flags
from agent.image.metadata import looks_right, read_xattrs
from agent.image.target import LOST_AND_FOUND, Target
from agent.image.workers import Ask

RIGHT, DIFFERS = 0, 1
_FIRST_BYTES = 8


class Line(msgspec.Struct, gc=False):
    """Of an entry what metadata can tell; its chunks are passed over unread."""

    path: str
    type: str
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    target: str = ""
    xattrs: dict[str, str] | None = None
    flags: int = 0
    raw: str = ""
    raw_target: str = ""


class Seen(msgspec.Struct):
    """The result of a task; the first request of a worker is an empty one.

    ``folders``: for each directory of the task the names in it that are not listed as files; None where there is no
    such directory on this file system.
    """

    first: int = 0
    marks: bytes = b""
    folders: list[list[bytes] | None] = msgspec.field(default_factory=list)


def encode_task(first: int, lines: list[bytes]) -> bytes:
    """Lines that follow each other, ``first`` the number of the first among all entry lines."""
    return first.to_bytes(_FIRST_BYTES, "big") + b"\n".join(lines)


@dataclass(slots=True)
class Surveyor:
    """State of one worker."""

    target: Target
    ask: Ask
    seen: Seen = field(default_factory=Seen)
    _folder: int = -1  # descriptor of the directory whose files come
    _names: set[bytes] = field(default_factory=set)  # that are in it, and were not listed so far

    def run(self) -> None:
        """Ask for lines until there are none."""
        decoder = msgspec.json.Decoder(Line)
        encoder = msgspec.msgpack.Encoder()
        for task in self.ask.tasks(lambda: encoder.encode(self._take_result())):
            view = memoryview(task)
            self.seen.first = int.from_bytes(view[:_FIRST_BYTES], "big")
            self._look(decoder.decode_lines(view[_FIRST_BYTES:]))

    def _take_result(self) -> Seen:
        done, self.seen = self.seen, Seen()
        return done

    def _look(self, lines: list[Line]) -> None:
        marks = bytearray(len(lines))
        mark = DIFFERS
        for number, line in enumerate(lines):
            if line.type == DIRECTORY:
                mark = self._directory(line)
            elif line.type != MORE:  # which is as the file that it continues
                mark = self._file(line)
            marks[number] = mark
        self._leave()
        self.seen.marks = bytes(marks)

    def _leave(self) -> None:
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1
            self.seen.folders.append(list(self._names))

    def _directory(self, line: Line) -> int:
        """Go into a directory; DIFFERS where anything but the names in it is not as listed."""
        self._leave()
        name = decoded_name(line.path, line.raw)
        try:
            self._folder = self.target.open_directory(name)
            found = os.fstat(self._folder)
            if found.st_dev == self.target.device:
                self._names = set(os.listdir(b"/proc/self/fd/%d" % self._folder))
                if not name:
                    self._names.discard(LOST_AND_FOUND)
                right = looks_right(line, found) and read_flags(self._folder) == line.flags & ~LOCKING
                return RIGHT if right and read_xattrs(self._folder) == line.xattrs else DIFFERS
        except (OSError, RegraftError):  # whoever makes it right says what is wrong with it
            pass
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1
        self.seen.folders.append(None)
        return DIFFERS

    def _file(self, line: Line) -> int:
        if self._folder < 0:
            return DIFFERS
        last = decoded_name(line.path, line.raw).rpartition(b"/")[2]
        self._names.discard(last)
        if line.flags & LOCKING:
            return DIFFERS  # the lock is set last, and anew
        try:
            if line.type in (FILE, SYMLINK):
                found = os.stat(last, dir_fd=self._folder, follow_symlinks=False)
                right = looks_right(line, found) and (line.type == FILE or self._is_link(line, last))
                return RIGHT if right else DIFFERS
        except OSError:
            pass
        return DIFFERS

    def _is_link(self, line: Line, last: bytes) -> bool:
        return (
            os.readlink(last, dir_fd=self._folder) == decoded_name(line.target, line.raw_target)
            and read_xattrs(b"/proc/self/fd/%d/%s" % (self._folder, last)) == line.xattrs
        )
