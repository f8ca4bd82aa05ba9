"""The same survey of a tree on ext4, from its tables of inodes and its directories, without a system call a file.

Its answer is that of `survey_work`. Where the disk says something that is not as known, a line, a directory or the
tree is looked at by system calls.
"""

from __future__ import annotations

import stat
from functools import cache
from itertools import pairwise
from pathlib import Path

import msgspec

from agent.image import ext4
from agent.image.entry import DIRECTORY, FILE, MORE, SYMLINK, decoded_name
from agent.image.ext4 import Fields, StrangeError, mtime_ns, owner
from agent.image.ext4_disk import Ext4Disk
from agent.image.flags import CARRIED, LOCKING, NOCOW
from agent.image.listing import Listing
from agent.image.metadata import NOT_CARRIED
from agent.image.survey_marks import Marks
from agent.image.survey_work import DIFFERS, RIGHT, Folder, Line, Seen, look_at
from agent.image.target import LOST_AND_FOUND, Target

Names = dict[bytes, int]
SEEN_LINES = 4000  # as many are told at once, or more
_FLAGS = CARRIED & ~NOCOW  # ext4 does not know that one
_KIND, _REGULAR, _LINK, _DIRECTORY = 0o170000, stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR
_JUDGED = (FILE, SYMLINK)  # of anything else nothing is known but its name
_PLACES = tuple(text.encode() for text in NOT_CARRIED)


class DiskSurveyor:
    """Looks at a tree as its listing comes. ``covered``: names at which something else is mounted."""

    def __init__(self, disk: Ext4Disk, target: Target, top: int, covered: frozenset[bytes], marks: Marks) -> None:
        self._disk = disk
        self._told = marks
        self._target = target
        self._top = top
        self._covered = [(parent, last) for parent, _, last in (each.rpartition(b"/") for each in covered)]
        self._open: list[tuple[bytes, Names | None]] = []  # directories on the way; of those looked at by calls: None
        self._names: Names = {}  # in the directory whose files come, and not listed so far
        self._is_there = False
        self._calls = Folder(self._target)
        self._calling = False  # its files are looked at by system calls
        self._piece = (0, b"")  # of the table of inodes, the last one that was looked at
        self._first = 0  # line
        self._marks = bytearray()  # of the lines since
        self._folders: list[list[bytes] | None] = []

    def run(self, listing: Listing) -> None:
        """Tell the marks, whole directories at a time."""
        decoder = msgspec.json.Decoder(Line)
        for _, raw in listing.entry_lines():
            lines = decoder.decode_lines(b"\n".join(raw))
            begins = [number for number, line in enumerate(lines) if line.type == DIRECTORY]
            self._files(lines[: begins[0]] if begins else lines)
            for start, stop in pairwise([*begins, len(lines)]):
                self._leave()
                if len(self._marks) >= SEEN_LINES:
                    self._tell()
                self._enter(lines[start])
                self._files(lines[start + 1 : stop])
        self._leave()
        self._told.end(self._first + len(self._marks))
        self._tell()

    def _tell(self) -> None:
        self._told.seen(Seen(self._first, bytes(self._marks), self._folders))
        self._first += len(self._marks)
        self._marks, self._folders = bytearray(), []

    # --- directories ----------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        if not self._open:
            return
        if self._calling:
            self._folders.append(self._calls.leave())
        elif self._is_there:
            self._folders.append(
                list(self._names) if len(self._open) > 1 else [name for name in self._names if name != LOST_AND_FOUND]
            )
        else:
            self._folders.append(None)

    def _enter(self, line: Line) -> None:
        name = decoded_name(line.path, line.raw)
        self._told.directory(name, self._first + len(self._marks))
        self._calling, self._is_there, self._names = False, False, {}
        mark = DIFFERS
        try:
            inode = self._find(name)
            if inode >= 0:
                mark = self._directory(line, name, inode)
        except StrangeError:
            self._calling = True
            mark = self._calls.enter(line)
        self._marks.append(mark)
        self._open.append((name, None if self._calling else self._names))

    def _find(self, name: bytes) -> int:
        """Of a directory its inode, -1 where there is none; StrangeError where it is not known."""
        if not name:
            return self._top
        parent, _, last = name.rpartition(b"/")
        while self._open and self._open[-1][0] != parent:
            self._open.pop()
        names = self._open[-1][1] if self._open else None
        if names is None:
            raise StrangeError("in a directory that is looked at by system calls")
        return names.get(last, -1)

    def _directory(self, line: Line, name: bytes, number: int) -> int:
        inode, fields = self._disk.inode(number)
        if stat.S_IFMT(fields[0]) != _DIRECTORY:
            return DIFFERS
        self._refuse_unknown(fields)
        self._names, self._is_there = self._disk.names(inode, fields), True
        for parent, last in self._covered:
            if parent == name and last in self._names:
                self._names[last] = 0  # no file’s inode: the kernel is asked
        right = (
            fields[0] == _DIRECTORY | line.mode
            and mtime_ns(fields) == line.mtime
            and owner(fields) == (line.uid, line.gid)
            and fields[7] & _FLAGS == line.flags & ~LOCKING
        )
        return RIGHT if right and self._attributes(inode, fields) == line.xattrs else DIFFERS

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
        if self._calling:
            for line in lines:
                self._marks.append(self._calls.file(line) if line.type != MORE else self._marks[-1])
        elif self._is_there:
            self._files_of_disk(lines)
        else:
            self._marks += bytes([DIFFERS]) * len(lines)

    def _files_of_disk(self, lines: list[Line]) -> None:
        """The same by their inodes. Of all this program does the most often done: written out for that reason."""
        folder = self._open[-1][0]
        behind = len(folder) + 1 if folder else 0
        piece_of, parse, size_bytes = self._disk.piece, self._disk.parse, self._disk.layout.inode_bytes
        pop, append = self._names.pop, self._marks.append
        low, piece = self._piece
        mark = self._marks[-1] if self._marks else DIFFERS
        for line in lines:
            kind = line.type
            if kind == MORE:  # is as the file that it continues
                append(mark)
                continue
            last = decoded_name(line.path, line.raw)[behind:] if line.raw else line.path.encode()[behind:]
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
        self._piece = low, piece

    def _is_link(self, line: Line, inode: bytes, fields: Fields) -> bool:
        text = ext4.link_text(inode, fields)
        return text == decoded_name(line.target, line.raw_target) and self._attributes(inode, fields) == line.xattrs


@cache
def _is_labelled() -> bool:
    """Whether SELinux or Smack answers for the attributes of its own."""
    return any(Path(place).exists() for place in ("/sys/fs/selinux/enforce", "/sys/fs/smackfs/load2"))
