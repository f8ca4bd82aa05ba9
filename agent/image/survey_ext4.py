"""The same survey of a tree on ext4, from its tables of inodes and its directories, without a system call a file.

Its answer is that of `survey_work`. Where the disk says something that is not as known, a line, a directory or the
tree is looked at by system calls.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import msgspec

from agent.image import ext4
from agent.image.entry import DIRECTORY, FILE, MORE, SYMLINK, decoded_name
from agent.image.entry_check import NO_NAMES
from agent.image.ext4 import Fields, StrangeError, mtime_ns, owner
from agent.image.ext4_disk import Ext4Disk
from agent.image.flags import CARRIED, LOCKING, NOCOW
from agent.image.metadata import NOT_CARRIED
from agent.image.survey_marks import OutOfOrderError
from agent.image.survey_work import DIFFERS, RIGHT, Folder, Line, Seen, look_at
from agent.image.target import Target

Names = dict[bytes, int]
SEEN_LINES = 4000  # as many are told at once, or more
_FLAGS = CARRIED & ~NOCOW  # ext4 does not know that one
_KIND, _REGULAR, _LINK, _DIRECTORY = 0o170000, stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR
_JUDGED = (FILE, SYMLINK)  # of anything else nothing is known but its name
_PLACES = tuple(text.encode() for text in NOT_CARRIED)


class Told(Protocol):
    """Whoever is told what was seen, as `Marks` is."""

    def directory(self, name: bytes, line: int, /) -> None: ...

    def seen(self, seen: Seen, /) -> None: ...


class Half(msgspec.Struct):
    """What was seen of the second half, to be told by another process than the one that looked."""

    directories: list[tuple[bytes, int]] = msgspec.field(default_factory=list)
    everything: list[Seen] = msgspec.field(default_factory=list)
    lines: int = 0
    further: int = 0  # of these lines, those that continue a file

    def directory(self, name: bytes, line: int) -> None:
        self.directories.append((name, line))

    def seen(self, seen: Seen) -> None:
        self.everything.append(seen)

    def tell(self, told: Told) -> None:
        """Say all of it again."""
        for name, line in self.directories:
            told.directory(name, line)
        for seen in self.everything:
            told.seen(seen)


@dataclass(slots=True)
class _Folder:
    """A directory on the way from the root to where the listing is read."""

    name: bytes
    names: Names | None  # in it, those of files that were listed no more; None where it is looked at by calls


class DiskSurveyor:
    """Looks at a tree as its listing comes. ``covered``: names at which something else is mounted.

    What it says is right is sound as well: each line has its place, and what is on the disk can be. Chunks are passed
    over. Raises OutOfOrderError where the lines do not follow each other as they must.
    """

    def __init__(self, disk: Ext4Disk, target: Target, top: int, covered: frozenset[bytes], told: Told) -> None:
        self._disk = disk
        self._told = told
        self._target = target
        self._top = top
        self._covered = [(parent, last) for parent, _, last in (each.rpartition(b"/") for each in covered)]
        self._open: list[_Folder] = []
        self._names: Names = {}  # in the directory whose files come, and not listed so far
        self._last = b""  # the last of its files, by name
        self._file: Line | None = None  # and that file
        self._is_inside = False  # whether there is one
        self._is_there = False  # and is looked at by the disk
        self._calls = Folder(self._target)  # or else it is looked at by system calls, or is not there
        self._piece = (0, b"")  # of the table of inodes, the last one that was looked at
        self._first = 0  # line
        self._marks = bytearray()  # of the lines since
        self._folders: list[list[bytes] | None] = []
        self.further = 0  # lines that continue a file

    @property
    def reached(self) -> int:
        """The number of the next line."""
        return self._first + len(self._marks)

    def run(self, blocks: Iterable[tuple[int, list[Line]]]) -> None:
        """Tell the marks of lines that follow each other, whole directories at a time; each block with the number of
        its first line. The first line of all is a directory."""
        try:
            for number, lines in blocks:
                if not self._is_inside:
                    if not lines or lines[0].type != DIRECTORY:
                        raise OutOfOrderError
                    self._first = number
                    self._open_way(decoded_name(lines[0].path, lines[0].raw))
                self._block(lines)
            self._leave()
            self._tell()
        finally:
            self._calls.leave()

    def _block(self, lines: list[Line]) -> None:
        begins = [place for place, line in enumerate(lines) if line.type == DIRECTORY]
        self._files(lines[: begins[0]] if begins else lines)
        for start, stop in pairwise([*begins, len(lines)]):
            self._leave()
            if len(self._marks) >= SEEN_LINES:
                self._tell()
            self._enter(lines[start])
            self._files(lines[start + 1 : stop])

    def _tell(self) -> None:
        self._told.seen(Seen(self._first, bytes(self._marks), self._folders))
        self._first += len(self._marks)
        self._marks, self._folders = bytearray(), []

    # --- directories ----------------------------------------------------------------------------------------------

    def _open_way(self, name: bytes) -> None:
        """Open the directories that lead to a directory; what is in them is told by whoever looks at their lines."""
        parts = name.split(b"/")
        for count in range(len(parts) if name else 0):
            way = b"/".join(parts[:count])
            names: Names | None = {}
            try:
                inode = self._find(way)
                found = self._disk.inode(inode) if inode >= 0 else None
                if found and stat.S_IFMT(found[1][0]) == _DIRECTORY:
                    names = self._names_of(way, *found)
            except StrangeError:
                names = None
            self._open.append(_Folder(way, names))

    def _leave(self) -> None:
        if self._is_inside:
            self._folders.append(list(self._names) if self._is_there else self._calls.leave())

    def _enter(self, line: Line) -> None:
        name = decoded_name(line.path, line.raw)
        parent, slash, last = name.rpartition(b"/")
        if name and (not _is_name(last) or (slash and not parent)):
            raise OutOfOrderError
        self._told.directory(name, self.reached)
        self._is_inside, self._is_there, self._names, self._last, self._file = True, False, {}, b"", None
        mark = DIFFERS
        try:
            inode = self._find(name)
            if inode >= 0:
                mark = self._directory(line, name, inode)
            self._open.append(_Folder(name, self._names))
        except StrangeError:
            self._is_there = False
            mark = self._calls.enter(line)
            self._open.append(_Folder(name, None))
        self._marks.append(mark)

    def _find(self, name: bytes) -> int:
        """Of a directory its inode, -1 where there is none; StrangeError where it is not known."""
        if not name:
            return self._top
        parent, _, last = name.rpartition(b"/")
        while self._open and self._open[-1].name != parent:
            self._open.pop()
        names = self._open[-1].names if self._open else None
        if names is None:
            raise StrangeError("in a directory that is looked at by system calls")
        return names.get(last, -1)

    def _directory(self, line: Line, name: bytes, number: int) -> int:
        inode, fields = self._disk.inode(number)
        if stat.S_IFMT(fields[0]) != _DIRECTORY:
            return DIFFERS
        self._names, self._is_there = self._names_of(name, inode, fields), True
        right = (
            fields[0] == _DIRECTORY | line.mode
            and mtime_ns(fields) == line.mtime
            and owner(fields) == (line.uid, line.gid)
            and fields[7] & _FLAGS == line.flags & ~LOCKING
        )
        return RIGHT if right and self._attributes(inode, fields) == line.xattrs else DIFFERS

    def _names_of(self, name: bytes, inode: bytes, fields: Fields) -> Names:
        self._refuse_unknown(fields)
        names = self._disk.names(inode, fields)
        for parent, last in self._covered:
            if parent == name and last in names:
                names[last] = 0  # no file’s inode: the kernel is asked
        return names

    def _refuse_unknown(self, fields: Fields) -> None:
        if not fields[5] or not ext4.is_known_extra(fields[14], self._disk.layout.inode_bytes):
            raise StrangeError("an inode that is not as usual")

    def _attributes(self, inode: bytes, fields: Fields) -> dict[str, str] | None:
        found = self._disk.attributes(inode, fields)
        if not found:
            return None
        if _is_labelled() and any(name.startswith(b"security.") for name in found):
            raise StrangeError("the kernel’s labels need not be those on the disk")
        return ext4.listed_form({name: value for name, value in found.items() if not name.startswith(_PLACES)})

    # --- files ----------------------------------------------------------------------------------------------------

    def _files(self, lines: list[Line]) -> None:
        """Those of one directory, or some of them."""
        if not lines:
            return
        if self._is_there:
            self._files_of_disk(lines)
            return
        self._follow(lines)
        for line in lines:
            self._marks.append(self._calls.file(line) if line.type != MORE else self._marks[-1])

    def _follow(self, lines: list[Line]) -> None:
        """Refuse files that cannot come here."""
        folder = self._open[-1].name
        prefix = folder + b"/" if folder else b""
        for line in lines:
            name = decoded_name(line.path, line.raw)
            if line.type == MORE:
                self._continue(line)
                continue
            last = name[len(prefix) :]
            if last <= self._last or not name.startswith(prefix) or not _is_name(last):
                raise OutOfOrderError
            self._last, self._file = last, line

    def _continue(self, line: Line) -> None:
        file = self._file
        if file is None or (file.type, file.path, file.raw) != (FILE, line.path, line.raw):
            raise OutOfOrderError
        self.further += 1

    def _files_of_disk(self, lines: list[Line]) -> None:
        """The same by their inodes. Of all this program does the most often done: written out for that reason."""
        folder = self._open[-1].name
        prefix = folder + b"/" if folder else b""
        behind = len(prefix)
        piece_of, parse, size_bytes = self._disk.piece, self._disk.parse, self._disk.layout.inode_bytes
        pop, append = self._names.pop, self._marks.append
        low, piece = self._piece
        before, file = self._last, self._file
        mark = DIFFERS
        for line in lines:
            kind = line.type
            if kind == MORE:  # is as the file that it continues
                self._file = file
                self._continue(line)
                append(self._marks[-1])
                continue
            file = line
            name = decoded_name(line.path, line.raw) if line.raw else line.path.encode()
            last = name[behind:]
            if last <= before or not name.startswith(prefix):
                raise OutOfOrderError
            before = last
            inode = pop(last, -1)
            mark = DIFFERS
            if inode >= 0 and kind in _JUDGED and not line.flags & LOCKING:
                try:
                    at = (inode - low) * size_bytes
                    if not 0 <= at < len(piece):
                        low, piece = piece_of(inode)
                        at = (inode - low) * size_bytes
                    fields = parse(piece, at)
                    mode, user, size, time, group, links, _, _, _, size_2, _, _, user_2, group_2, extra, time_2 = fields
                    if extra != ext4.USUAL_EXTRA or not links:
                        self._refuse_unknown(fields)
                    if (
                        (time + ((time_2 & 3) << 32)) * 1_000_000_000 + (time_2 >> 2) == line.mtime
                        and user | user_2 << 16 == line.uid
                        and group | group_2 << 16 == line.gid
                        and (
                            (mode == _REGULAR | line.mode and size | size_2 << 32 == line.size)
                            if kind == FILE
                            else mode & _KIND == _LINK and self._is_link(line, piece[at : at + size_bytes], fields)
                        )
                    ):
                        mark = RIGHT
                except StrangeError:
                    mark = look_at(self._target.folder(folder), line, last)
            append(mark)
        self._piece, self._last, self._file = (low, piece), before, file

    def _is_link(self, line: Line, inode: bytes, fields: Fields) -> bool:
        text = ext4.link_text(inode, fields)
        return text == decoded_name(line.target, line.raw_target) and self._attributes(inode, fields) == line.xattrs


def _is_name(last: bytes) -> bool:
    """Whether the kernel may be asked for it in a directory."""
    return last not in NO_NAMES and b"/" not in last and b"\0" not in last


@cache
def _is_labelled() -> bool:
    """Whether SELinux or Smack answers for the attributes of its own."""
    return any(Path(place).exists() for place in ("/sys/fs/selinux/enforce", "/sys/fs/smackfs/load2"))
