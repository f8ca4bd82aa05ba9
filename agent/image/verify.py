"""Reads a tree back and compares it with a volume: every byte by its chunk ids, all metadata, and nothing besides."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from blake3 import blake3

from agent.depot.catalogue import LoadedImage
from agent.depot.store import Depot
from agent.errors import TargetIOError
from agent.image import uncached
from agent.image.entry import DIRECTORY, FILE, HARDLINK, MORE, PART_BYTES, SYMLINK, Entry
from agent.image.flags import read_flags
from agent.image.listed_names import ListedNames
from agent.image.listing import Listing, open_listing
from agent.image.metadata import COARSE, coarse_differences, differences, read_xattrs
from agent.image.target import LOST_AND_FOUND, Target
from agent.image.workers import Ask, default_jobs, pool
from agent.image.write import TASK_BYTES, TASK_ENTRIES, find_volume
from agent.image.write_work import gaps_are_zero
from agent.model.events import Emit, Event
from agent.model.image import Volume

PROGRESS_S = 0.5
KEPT_MISMATCHES = 10_000
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """``mismatches``: one line each, beginning with the path as the system knows it."""

    mismatches: tuple[str, ...]
    bytes_read: int
    entries: int
    seconds: float
    bytes_trusted: int = 0  # not read, because their files have not changed since


class Compared(msgspec.Struct):
    """The result of a task."""

    read: int = 0
    trusted: int = 0
    mismatches: list[str] = msgspec.field(default_factory=list)


def verify_volume(  # noqa: PLR0913 - three of them have defaults
    depot: Depot,
    loaded: LoadedImage,
    volume_id: str,
    root: Path,
    emit: Emit,
    except_paths: frozenset[str] = frozenset(),
    jobs: int | None = None,
    changed_since_ns: int = 0,
) -> VerifyResult:
    """Compare the tree at ``root``. Paths in ``except_paths`` (system paths) may differ or be absent; so may the
    times of the directories they lie in. The content of files whose ctime is before ``changed_since_ns`` (since 1970)
    is not read; all else about them is compared."""
    volume = find_volume(loaded, volume_id)
    started = time.monotonic()
    with ExitStack() as stack:
        listing = stack.enter_context(open_listing(depot, loaded.manifest, volume))
        target = Target(root)
        stack.callback(target.close)
        run = _Run(volume, target, emit, except_paths, changed_since_ns)
        run.verify(listing, jobs or default_jobs())
    seconds = round(time.monotonic() - started, 2)
    return VerifyResult(tuple(run.mismatches), run.read, run.entries, seconds, run.trusted)


@dataclass(slots=True)
class _Run:
    """One comparison under way: the parent of the workers."""

    volume: Volume
    target: Target
    emit: Emit
    excepted: frozenset[str]
    changed_since_ns: int
    mismatches: list[str] = field(default_factory=list)
    read: int = 0
    trusted: int = 0
    entries: int = 0
    _names: ListedNames = field(init=False)
    _touched: frozenset[str] = frozenset()
    _told: float = 0.0

    def __post_init__(self) -> None:
        self._names = ListedNames(self._left)

    def verify(self, listing: Listing, jobs: int) -> None:
        self._touched = frozenset(path.rpartition("/")[0] or "/" for path in self.excepted)

        def work(number: int, ask: Ask) -> None:
            coarse = self.volume.filesystem.kind in COARSE
            Comparer(Target(self.target.root), self._prefix(), coarse, ask, self.changed_since_ns).run()

        encoder = msgspec.json.Encoder()
        tasks = (encoder.encode_lines(task) for task in self._tasks(listing))
        with pool(work, jobs) as workers:
            for _, message in workers.hand_out(tasks):
                part = msgspec.msgpack.decode(message, type=Compared)
                self.read += part.read
                self.trusted += part.trusted
                self.mismatches.extend(part.mismatches[: KEPT_MISMATCHES - len(self.mismatches)])
                self._progress()
        self.mismatches.sort()

    def _prefix(self) -> str:
        return (self.volume.filesystem.mountpoint or "/").rstrip("/")

    def _system_path(self, name: bytes) -> str:
        return f"{self._prefix()}/{os.fsdecode(name)}" if name else self._prefix() or "/"

    def _tasks(self, listing: Listing) -> Iterator[list[Entry]]:
        task: list[Entry] = []
        size = 0
        wanted = False
        for entries in listing.entries():
            for entry in entries:
                if entry.type != MORE:
                    wanted = self._begin(entry)
                if wanted:
                    task.append(entry)
                    size += sum(chunk.size for chunk in entry.chunks)
                    if size >= TASK_BYTES or len(task) >= TASK_ENTRIES:
                        yield task
                        task, size = [], 0
        if task:
            yield task
        self._names.leave_all()

    def _begin(self, entry: Entry) -> bool:
        """Directories and hard links are compared here; whether a worker has to compare the rest."""
        self.entries += 1
        name = entry.name
        path = self._system_path(name)
        self._names.arrive(name)
        if path in self.excepted:
            if entry.type == DIRECTORY:
                self._names.enter(name, left_alone=True)
            return False
        if entry.type == HARDLINK:
            if not self._same_file(entry):
                self._differs(name, f"is not another name of {self._system_path(entry.target_name)}")
            return False
        if entry.type == DIRECTORY:
            self._directory(entry, name, path)
            return False
        return True

    def _directory(self, entry: Entry, name: bytes, path: str) -> None:
        try:
            descriptor = self.target.open_directory(name)
        except (OSError, TargetIOError):
            self._names.enter(name, left_alone=True)
            self._differs(name, "is absent or no directory")
            return
        try:
            found = os.fstat(descriptor)
            if found.st_dev != self.target.device:
                self._names.enter(name, left_alone=True)
                return
            self._names.enter(name, left_alone=False)
            times = path not in self._touched
            if self.volume.filesystem.kind in COARSE:
                for sentence in coarse_differences(entry, found, times and bool(name)):
                    self._differs(name, sentence)
                return
            for sentence in differences(entry, found, read_xattrs(descriptor), times):
                self._differs(name, sentence)
            if (flags := read_flags(descriptor)) != entry.flags:
                self._differs(name, f"flags {flags:#x}, expected {entry.flags:#x}")
        finally:
            os.close(descriptor)

    def _same_file(self, entry: Entry) -> bool:
        try:
            folder, last = self.target.place(entry.name)
            found = os.stat(last, dir_fd=folder, follow_symlinks=False)
            folder, last = self.target.place(entry.target_name)
            other = os.stat(last, dir_fd=folder, follow_symlinks=False)
        except (OSError, TargetIOError):
            return False
        return (found.st_dev, found.st_ino) == (other.st_dev, other.st_ino)

    def _left(self, name: bytes, names: set[bytes]) -> None:
        descriptor = self.target.open_directory(name)
        try:
            with os.scandir(descriptor) as scan:
                found = {os.fsencode(child.name) for child in scan}
        finally:
            os.close(descriptor)
        for last in sorted(found - names):
            full = name + b"/" + last if name else last
            if full != LOST_AND_FOUND and self._system_path(full) not in self.excepted:
                self._differs(full, "is not in the image")

    def _differs(self, name: bytes, sentence: str) -> None:
        if len(self.mismatches) < KEPT_MISMATCHES:
            path = self._system_path(name).encode("utf-8", "surrogateescape").decode(errors="replace")
            self.mismatches.append(f"{path}: {sentence}")

    def _progress(self) -> None:
        now = time.monotonic()
        if now - self._told >= PROGRESS_S:
            self._told = now
            self.emit(Event(seq=0, time="", kind="progress", phase="verify", done=self.read + self.trusted,
                            total=self.volume.content_bytes, unit="bytes"))  # fmt: skip


@dataclass(slots=True)
class Comparer:
    """The comparing worker."""

    target: Target
    prefix: str
    coarse: bool
    ask: Ask
    changed_since_ns: int = 0
    result: Compared = field(default_factory=Compared)

    def run(self) -> None:
        decoder = msgspec.json.Decoder(Entry)
        for task in self.ask.tasks(self._take_result):
            for entry in decoder.decode_lines(task):
                try:
                    self._entry(entry)
                except (OSError, TargetIOError) as error:
                    text = error.strerror if isinstance(error, OSError) else error.message
                    self._differs(entry, text or str(error))

    def _take_result(self) -> bytes:
        done, self.result = self.result, Compared()
        return msgspec.msgpack.encode(done)

    def _entry(self, entry: Entry) -> None:
        folder, last = self.target.place(entry.name)
        if entry.type in (FILE, MORE):
            found = os.stat(last, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode):
                if entry.type == FILE:
                    self._differs(entry, "is not a file")
                return
            descriptor = os.open(last, _READ, dir_fd=folder)
            try:
                self._file(entry, descriptor)
            finally:
                os.close(descriptor)
            return
        found = os.stat(last, dir_fd=folder, follow_symlinks=False)
        for sentence in differences(entry, found, read_xattrs(b"/proc/self/fd/%d/%s" % (folder, last))):
            self._differs(entry, sentence)
        if entry.type == SYMLINK and os.readlink(last, dir_fd=folder) != entry.target_name:
            self._differs(entry, f"leads to {os.readlink(last, dir_fd=folder)!r}, expected {entry.target_name!r}")

    def _file(self, entry: Entry, descriptor: int) -> None:
        found = os.fstat(descriptor)
        if entry.type == FILE and self.coarse:
            for sentence in coarse_differences(entry, found):
                self._differs(entry, sentence)
        elif entry.type == FILE:
            for sentence in differences(entry, found, read_xattrs(descriptor)):
                self._differs(entry, sentence)
            if (flags := read_flags(descriptor)) != entry.flags:
                self._differs(entry, f"flags {flags:#x}, expected {entry.flags:#x}")
        if found.st_ctime_ns < self.changed_since_ns:
            self.result.trusted += sum(chunk.size for chunk in entry.chunks)
            return
        start = entry.size if entry.type == MORE else 0
        size = found.st_size if entry.type == MORE else min(entry.size, found.st_size)
        end = min(start + PART_BYTES, size) if entry.type == MORE or entry.size > PART_BYTES else size
        for chunk in entry.chunks:
            data = uncached.read(descriptor, chunk.size, chunk.at)
            self.result.read += len(data)
            if blake3(data).hexdigest() != chunk.id:
                self._differs(entry, f"bytes {chunk.at:,} to {chunk.at + chunk.size:,} differ")
        if not gaps_are_zero(descriptor, entry.chunks, start, end):
            self._differs(entry, f"bytes {start:,} to {end:,} hold data where the image has zeros")

    def _differs(self, entry: Entry, sentence: str) -> None:
        self.result.mismatches.append(f"{self.prefix}/{entry.path}: {sentence}")
