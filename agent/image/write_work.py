"""The writing worker: takes entries, fetches their frames, writes files with the fewest system calls.

A new file costs open, write, utime, close; owner, attributes and flags only where they are not the usual ones. A
file that is there is read and compared first: what is right stays untouched.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec
from blake3 import blake3

from agent.errors import DoesNotFitError, TargetIOError
from agent.image import uncached
from agent.image.entry import BLOCK, CHAR, FILE, MORE, PART_BYTES, SYMLINK, Chunk, Entry
from agent.image.flags import CARRIED, FIRST, LOCKING, flags_not_taken, write_flags
from agent.image.frames import FrameReader
from agent.image.metadata import KINDS, apply_xattrs, differences, looks_right, read_xattrs
from agent.image.target import Target, remove
from agent.image.workers import Ask

PIECE_BYTES = 1 << 20
ZEROS = bytes(PIECE_BYTES)
# What a task begins with: whether its directories were all made just now, or files may be there.
FRESH, FOUND = b"+", b"-"
NOTES = 20  # sentences a task may send; the rest is counted
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OLD = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Written(msgspec.Struct):
    """The result of a task; the first request of a worker is an empty one."""

    done: int = 0  # plain bytes dealt with: progress
    written: int = 0
    kept: int = 0  # bytes that were there already
    fetched: int = 0
    notes: list[str] = msgspec.field(default_factory=list)
    note_count: int = 0


@dataclass(slots=True)
class Writer:
    """State of one worker."""

    target: Target
    frames: FrameReader
    ask: Ask
    trust: bool = False  # files that look right are right
    owner: bool = field(default_factory=lambda: os.geteuid() == 0)
    result: Written = field(default_factory=Written)
    _encoder: msgspec.msgpack.Encoder = field(default_factory=msgspec.msgpack.Encoder)

    def run(self) -> None:
        """Ask for entries until there are none."""
        os.umask(0)
        decoder = msgspec.json.Decoder(Entry)
        for task in self.ask.tasks(self._take_result):
            before = self.frames.fetched
            entries = decoder.decode_lines(memoryview(task)[1:])
            known = entries  # of which is known what of them has to be fetched
            if task[:1] == FOUND:  # looked at first, so that nothing is fetched for what is right
                if not self.trust:
                    for entry in entries:
                        self._read_ahead(entry)
                entries = [entry for entry in entries if not self._stays(entry)]
                known = [entry for entry in entries if not is_part(entry)]  # parts are looked at in their turn
            self.frames.want_parts(wanted_ends(known))
            for entry in entries:
                self._entry(entry)
            self.result.fetched += self.frames.fetched - before

    def _take_result(self) -> bytes:
        done, self.result = self.result, Written()
        return self._encoder.encode(done)

    def _entry(self, entry: Entry) -> None:
        folder, last = self.target.place(entry.name)
        try:
            if is_part(entry):
                self._part(entry, folder, last)
            elif entry.type == FILE:
                self._file(entry, folder, last)
            else:
                self._special(entry, folder, last)
        except OSError as error:
            raise self._failed(entry, error) from None
        for chunk in entry.chunks:
            self.result.done += chunk.size

    # --- files ----------------------------------------------------------------------------------------------------

    def _file(self, entry: Entry, folder: int, last: bytes) -> None:
        try:
            descriptor = os.open(last, _NEW, entry.mode & 0o777, dir_fd=folder)
        except FileExistsError:
            remove(folder, last, self.target.device)
            descriptor = os.open(last, _NEW, entry.mode & 0o777, dir_fd=folder)
        try:
            if entry.flags & FIRST:
                write_flags(descriptor, entry.flags, FIRST)
            if entry.size != sum(chunk.size for chunk in entry.chunks):
                # Before anything is written: XFS fills the gaps of a file that grows, with blocks it took ahead.
                os.ftruncate(descriptor, entry.size)
            for chunk in entry.chunks:
                self._write(descriptor, chunk)
                self.result.written += chunk.size
            if entry.mode > 0o777 or (self.owner and (entry.uid or entry.gid)):
                self._note(entry, apply_owner_and_mode(entry, descriptor, os.fstat(descriptor), self.owner))
            self._finish(entry, descriptor, replace=False)
        finally:
            os.close(descriptor)

    def _read_ahead(self, entry: Entry) -> None:
        """Have the disk bring what `_keep` will read, of many files at once, in place of one after another."""
        if entry.type != FILE or not 0 < entry.size <= PART_BYTES:
            return
        folder, last = self.target.place(entry.name)
        with suppress(OSError):  # whoever reads it meets it again, and says so
            found = os.stat(last, dir_fd=folder, follow_symlinks=False)
            if not may_be_right(entry, found):
                return
            descriptor = os.open(last, _LOOK, dir_fd=folder)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(descriptor)

    def _stays(self, entry: Entry) -> bool:
        """Whether a file is there and right, or was made right without writing its content."""
        if entry.type != FILE or entry.size > PART_BYTES:
            return False
        folder, last = self.target.place(entry.name)
        try:
            found = os.stat(last, dir_fd=folder, follow_symlinks=False)
            stays = (self.trust and looks_right(entry, found)) or self._keep(entry, folder, last, found)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._failed(entry, error) from None
        if stays:
            size = sum(chunk.size for chunk in entry.chunks)
            self.result.kept += size
            self.result.done += size
        return stays

    def _write(self, descriptor: int, chunk: Chunk) -> None:
        plain = self.frames.get(chunk.frame, chunk.offset + chunk.size)
        view = memoryview(plain)[chunk.offset : chunk.offset + chunk.size]
        count = uncached.write(descriptor, view, chunk.at)
        while count < chunk.size:
            count += uncached.write(descriptor, view[count:], chunk.at + count)

    def _finish(self, entry: Entry, descriptor: int, replace: bool) -> None:
        """Attributes, time and those flags that do not lock the file."""
        if entry.xattrs or replace:
            self._note(entry, apply_xattrs(descriptor, entry, replace))
        if not replace or os.fstat(descriptor).st_mtime_ns != entry.mtime:  # what is right keeps its ctime, too
            os.utime(descriptor, ns=(entry.mtime, entry.mtime))
        if entry.flags & ~LOCKING or replace:
            self._note(entry, flags_not_taken(write_flags(descriptor, entry.flags, CARRIED & ~LOCKING)))

    def _keep(self, entry: Entry, folder: int, last: bytes, found: os.stat_result) -> bool:
        """Whether the file that is there has the right content; its metadata is then made right.

        Where metadata are trusted, the time tells whether its content was changed.
        """
        if not may_be_right(entry, found) or (self.trust and found.st_mtime_ns != entry.mtime):
            return False
        try:
            descriptor = os.open(last, _LOOK, dir_fd=folder)
        except PermissionError:
            return False
        try:
            write_flags(descriptor, 0, LOCKING)
            if not self.trust and not self._holds(descriptor, entry):
                return False
            self._note(entry, apply_owner_and_mode(entry, descriptor, found, self.owner))
            self._finish(entry, descriptor, replace=True)
            return True
        finally:
            os.close(descriptor)

    def _holds(self, descriptor: int, entry: Entry) -> bool:
        """Whether all content of a file is there."""
        same = all(self._same(descriptor, chunk) for chunk in entry.chunks)
        return same and gaps_are_zero(descriptor, entry.chunks, 0, entry.size)

    def _same(self, descriptor: int, chunk: Chunk) -> bool:
        return blake3(uncached.read(descriptor, chunk.size, chunk.at)).hexdigest() == chunk.id

    def _part(self, entry: Entry, folder: int, last: bytes) -> None:
        """A part of a large file that the parent has made, with its size. Metadata comes at the end."""
        descriptor = os.open(last, _OLD, dir_fd=folder)
        try:
            found = os.fstat(descriptor)
            fresh = found.st_blocks == 0
            wrong = entry.chunks
            if not fresh:
                wrong = tuple(chunk for chunk in entry.chunks if not self._same(descriptor, chunk))
                self.result.kept += sum(chunk.size for chunk in entry.chunks) - sum(chunk.size for chunk in wrong)
            self.frames.want_more(dict.fromkeys(chunk.frame for chunk in wrong))
            for chunk in wrong:
                self._write(descriptor, chunk)
                self.result.written += chunk.size
            if not fresh:
                start = entry.size if entry.type == MORE else 0
                _make_holes(descriptor, entry.chunks, start, min(start + PART_BYTES, found.st_size))
        finally:
            os.close(descriptor)

    # --- the rest -------------------------------------------------------------------------------------------------

    def _special(self, entry: Entry, folder: int, last: bytes) -> None:
        """Symbolic links, device nodes, fifos, sockets."""
        try:
            if not self._make_anew(entry, folder, last):
                return
        except OSError as error:
            if not self._cannot_be_held(entry, error):
                raise
            self._note(entry, [f"the {entry.type} was not made: {error.strerror}"])
            return
        if self.owner:
            os.chown(last, entry.uid, entry.gid, dir_fd=folder, follow_symlinks=False)
        if entry.type != SYMLINK and entry.mode > 0o777:
            os.chmod(last, entry.mode, dir_fd=folder)
        if entry.xattrs:
            self._note(entry, apply_xattrs(b"/proc/self/fd/%d/%s" % (folder, last), entry, replace=False))
        os.utime(last, ns=(entry.mtime, entry.mtime), dir_fd=folder, follow_symlinks=False)

    def _make_anew(self, entry: Entry, folder: int, last: bytes) -> bool:
        """False: it is there already, and right."""
        try:
            self._make(entry, folder, last)
        except FileExistsError:
            if self._is_right(entry, folder, last):
                return False
            remove(folder, last, self.target.device)
            self._make(entry, folder, last)
        return True

    def _cannot_be_held(self, entry: Entry, error: OSError) -> bool:
        """Whether this file system (XFS: texts of links above 1023 bytes, large device numbers) or this user cannot
        have it."""
        if entry.type == SYMLINK:
            return error.errno == errno.ENAMETOOLONG
        if entry.type in (CHAR, BLOCK):
            return error.errno == errno.EINVAL or (error.errno == errno.EPERM and not self.owner)
        return False

    def _make(self, entry: Entry, folder: int, last: bytes) -> None:
        if entry.type == SYMLINK:
            os.symlink(entry.target_name, last, dir_fd=folder)
        else:
            device = os.makedev(*entry.device) if entry.device else 0
            os.mknod(last, KINDS[entry.type] | entry.mode, device, dir_fd=folder)

    def _is_right(self, entry: Entry, folder: int, last: bytes) -> bool:
        found = os.stat(last, dir_fd=folder, follow_symlinks=False)
        if any(differences(entry, found, read_xattrs(b"/proc/self/fd/%d/%s" % (folder, last)))):
            return False
        return entry.type != SYMLINK or os.readlink(last, dir_fd=folder) == entry.target_name

    def _note(self, entry: Entry, sentences: Iterable[str]) -> None:
        for sentence in sentences:
            self.result.note_count += 1
            if len(self.result.notes) < NOTES:
                self.result.notes.append(f"/{entry.path}: {sentence}")

    def _failed(self, entry: Entry, error: OSError) -> TargetIOError | DoesNotFitError:
        where = f"{self.target.root}/{entry.path}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return DoesNotFitError(f"{where}: no room left for {entry.size:,} bytes", "choose a larger disk")
        return TargetIOError(f"{where}: {error.strerror}", "look at the kernel log and the disk's health")


def is_part(entry: Entry) -> bool:
    """Whether a line stands for a part of a file that has several: the first, or one that continues it."""
    return entry.type == MORE or (entry.type == FILE and entry.size > PART_BYTES)


def may_be_right(entry: Entry, found: os.stat_result) -> bool:
    """Whether what is there can have a file's content: one file of its size, under this name alone."""
    return stat.S_ISREG(found.st_mode) and found.st_size == entry.size and found.st_nlink <= 1


def wanted_frames(entries: list[Entry]) -> list[int]:
    """Frames in the order these entries need them, each once."""
    return list(dict.fromkeys(chunk.frame for entry in entries for chunk in entry.chunks))


def wanted_ends(entries: list[Entry]) -> dict[int, int]:
    """The same, each with the end of what is needed of it."""
    ends: dict[int, int] = {}
    for entry in entries:
        for chunk in entry.chunks:
            ends[chunk.frame] = max(ends.get(chunk.frame, 0), chunk.offset + chunk.size)
    return ends


def fix_metadata(entry: Entry, descriptor: int, found: os.stat_result, owner: bool) -> None:
    """Owner and mode of an open file, changed only where they are wrong. Changing the owner clears setuid."""
    changed = owner and (found.st_uid, found.st_gid) != (entry.uid, entry.gid)
    if changed:
        os.fchown(descriptor, entry.uid, entry.gid)
    if changed or stat.S_IMODE(found.st_mode) != entry.mode:
        os.fchmod(descriptor, entry.mode)


def apply_owner_and_mode(entry: Entry, descriptor: int, found: os.stat_result, owner: bool) -> Iterator[str]:
    """As `fix_metadata`; yields a sentence where the file system keeps no owners or modes (FAT)."""
    try:
        fix_metadata(entry, descriptor, found, owner)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP):
            raise
        yield f"owner and mode were not taken: {error.strerror}"


def gaps(chunks: tuple[Chunk, ...], start: int, end: int) -> Iterator[tuple[int, int]]:
    """(offset, size) of what lies between the chunks, a MiB at most each."""
    reached = start
    for at, size in [*((chunk.at, chunk.size) for chunk in chunks), (end, 0)]:
        while reached < at:
            count = min(at - reached, PIECE_BYTES)
            yield reached, count
            reached += count
        reached = at + size


def gaps_are_zero(descriptor: int, chunks: tuple[Chunk, ...], start: int, end: int) -> bool:
    """Whether everything between the chunks reads as zeros."""
    return all(os.pread(descriptor, size, at) == ZEROS[:size] for at, size in gaps(chunks, start, end))


def _make_holes(descriptor: int, chunks: tuple[Chunk, ...], start: int, end: int) -> None:
    """Zeros between the chunks of a file from before, where there are none yet."""
    for at, size in gaps(chunks, start, end):
        if os.pread(descriptor, size, at) != ZEROS[:size]:
            os.pwrite(descriptor, ZEROS[:size], at)
