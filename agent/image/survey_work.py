"""The surveying worker: looks at whole directories, and says which lines of the listing are not as they should be."""

from __future__ import annotations

import os

import msgspec

from agent.errors import RegraftError
from agent.image.entry import DIRECTORY, FILE, MORE, SYMLINK, decoded_name
from agent.image.flags import LOCKING, read_flags
from agent.image.metadata import looks_right, read_xattrs
from agent.image.target import Target
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


class Folder:
    """A directory and its files, looked at one after the other by system calls."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._open = -1  # descriptor of the directory whose files come
        self._names: set[bytes] = set()  # that are in it, and were not listed so far

    def enter(self, line: Line) -> int:
        """Go into a directory; DIFFERS where anything but the names in it is not as listed."""
        name = decoded_name(line.path, line.raw)
        try:
            self._open = self._target.open_directory(name)
            found = os.fstat(self._open)
            if found.st_dev == self._target.device:
                self._names = set(os.listdir(b"/proc/self/fd/%d" % self._open))
                right = looks_right(line, found) and read_flags(self._open) == line.flags & ~LOCKING
                return RIGHT if right and read_xattrs(self._open) == line.xattrs else DIFFERS
        except (OSError, RegraftError):  # whoever makes it right says what is wrong with it
            pass
        self.leave()
        return DIFFERS

    def file(self, line: Line) -> int:
        """How a file of it is."""
        if self._open < 0:
            return DIFFERS
        last = decoded_name(line.path, line.raw).rpartition(b"/")[2]
        self._names.discard(last)
        return look_at(self._open, line, last)

    def leave(self) -> list[bytes] | None:
        """The names that were not listed as files; None where no such directory was entered."""
        if self._open < 0:
            return None
        os.close(self._open)
        self._open = -1
        return list(self._names)


def look_at(folder: int, line: Line, last: bytes) -> int:
    """How a file is, in an open directory."""
    if line.flags & LOCKING:
        return DIFFERS  # the lock is set last, and anew
    try:
        if line.type in (FILE, SYMLINK):
            found = os.stat(last, dir_fd=folder, follow_symlinks=False)
            right = looks_right(line, found) and (line.type == FILE or _is_link(folder, line, last))
            return RIGHT if right else DIFFERS
    except OSError:
        pass
    return DIFFERS


def _is_link(folder: int, line: Line, last: bytes) -> bool:
    return (
        os.readlink(last, dir_fd=folder) == decoded_name(line.target, line.raw_target)
        and read_xattrs(b"/proc/self/fd/%d/%s" % (folder, last)) == line.xattrs
    )


class Surveyor:
    """State of one worker."""

    def __init__(self, target: Target, ask: Ask) -> None:
        self._ask = ask
        self._folder = Folder(target)
        self._seen = Seen()

    def run(self) -> None:
        """Ask for lines until there are none."""
        decoder = msgspec.json.Decoder(Line)
        encoder = msgspec.msgpack.Encoder()
        for task in self._ask.tasks(lambda: encoder.encode(self._take_result())):
            view = memoryview(task)
            self._seen.first = int.from_bytes(view[:_FIRST_BYTES], "big")
            self._look(decoder.decode_lines(view[_FIRST_BYTES:]))

    def _take_result(self) -> Seen:
        done, self._seen = self._seen, Seen()
        return done

    def _look(self, lines: list[Line]) -> None:
        marks = bytearray(len(lines))
        mark = DIFFERS
        inside = False
        for number, line in enumerate(lines):
            if line.type == DIRECTORY:
                if inside:
                    self._seen.folders.append(self._folder.leave())
                mark, inside = self._folder.enter(line), True
            elif line.type != MORE:  # which is as the file that it continues
                mark = self._folder.file(line)
            marks[number] = mark
        if inside:
            self._seen.folders.append(self._folder.leave())
        self._seen.marks = bytes(marks)
