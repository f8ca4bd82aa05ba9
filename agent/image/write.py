"""Writes a volume into a mounted file system, or makes an old tree equal to it.

    listing ──► parent: directories at once, files as tasks ──► workers: fetch, check, unfold, write
                └─► what was written goes to the disk meanwhile
                parent at the end: hard links, large files' metadata, directories, locking flags

Writing twice is writing once: what is there and right is read, compared and kept; what does not belong is removed.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from agent.depot.catalogue import LoadedImage
from agent.depot.store import Depot
from agent.errors import DamagedError, DoesNotFitError, NoImageError, TargetIOError, UsageError
from agent.image.aliases import has_aliases
from agent.image.cleaner import Cleaner
from agent.image.entry import DIRECTORY, FILE, HARDLINK, MORE, PART_BYTES, TYPES, Entry
from agent.image.flags import CARRIED, LOCKING, flags_not_taken, write_flags
from agent.image.frames import FrameReader
from agent.image.kept import Kept
from agent.image.listing import Listing, open_listing
from agent.image.metadata import COARSE, apply_xattrs, looks_right
from agent.image.mountinfo import mounted_kind
from agent.image.pack import check_table
from agent.image.settle import Settler
from agent.image.survey import from_below, holds_something, survey
from agent.image.survey_marks import EVERY_NAME, NAMED, Marks
from agent.image.target import Target, refuse_second_views, remove
from agent.image.workers import Ask, default_jobs, fetching_jobs, pool
from agent.image.write_work import FOUND, FRESH, Writer, Written, apply_owner_and_mode
from agent.model.events import Emit, Event
from agent.model.image import Volume

TASK_BYTES = 4 << 20
TASK_ENTRIES = 1024
MARKED_ENTRIES = 48  # of what differs here and there: each of them costs a frame
SIMPLE = TYPES - {DIRECTORY, HARDLINK, MORE}
PROGRESS_S = 0.5
KEPT_NOTES = 200

T = TypeVar("T")
Select = Callable[[Entry], bool]


@dataclass(frozen=True, slots=True)
class WriteResult:
    entries: int
    bytes_written: int
    bytes_kept: int  # were there already, and right
    bytes_fetched: int  # compressed, from the depot
    removed: int  # names that did not belong
    seconds: float
    warnings: tuple[str, ...] = ()


def find_volume(loaded: LoadedImage, volume_id: str) -> Volume:
    """The volume of an image, or NoImageError."""
    for volume in loaded.manifest.volumes:
        if volume.id == volume_id:
            return volume
    known = ", ".join(volume.id for volume in loaded.manifest.volumes)
    raise NoImageError(f"image {loaded.manifest.ref} has no volume ‘{volume_id}’; it has: {known}")


def write_volume(  # noqa: PLR0913 - four of them have defaults
    depot: Depot,
    loaded: LoadedImage,
    volume_id: str,
    root: Path,
    emit: Emit,
    jobs: int | None = None,
    select: Select | None = None,
    trust_metadata: bool = False,
    elsewhere: frozenset[bytes] = frozenset(),
) -> WriteResult:
    """Make the tree at ``root`` what the volume holds, on this one file system.

    ``select`` takes only some entries, and then leaves everything else at ``root`` alone. What is in the directories
    ``elsewhere`` (names in the volume) is another volume's. With ``trust_metadata`` a file that has the right size,
    time (ns), mode and owner is right, and one of another time is written anew; else files are read. RefusedError,
    with nothing written, where ``root`` shows a part of its own file system a second time.
    """
    volume = find_volume(loaded, volume_id)
    if volume.kind != "tree":
        raise UsageError(f"volume {volume_id} of {loaded.manifest.ref} holds {volume.kind}, expected a tree")
    started = time.monotonic()
    if select is None:
        refuse_second_views(root)
    with ExitStack() as stack, ExitStack() as looking:
        target = Target(root)
        stack.callback(target.close)
        cleaner = Cleaner(target, has_aliases(root))
        trust = trust_metadata and mounted_kind(root) not in COARSE  # which say too little to be trusted
        looks_first = trust and select is None and not cleaner.has_aliases and holds_something(root)
        below = looking.enter_context(from_below(root)) if looks_first else None
        listing = stack.enter_context(open_listing(depot, loaded.manifest, volume))
        for pack in loaded.manifest.packs:
            if pack.sha256 in volume.packs:
                check_table(depot, pack)
        settler = Settler(root)
        stack.callback(settler.close)
        run = _Run(volume, target, emit, select, settler, trust, elsewhere, cleaner)
        stack.enter_context(exact_modes())
        if looks_first:
            run.skip(survey(listing, root, elsewhere, jobs or default_jobs(), below))
            looking.close()
        run.write(depot, listing, jobs or fetching_jobs(depot))
        settler.all_written()
        run.finish()
        settler.finish()
    return run.result(time.monotonic() - started)


@contextmanager
def exact_modes() -> Iterator[None]:
    """Without a umask, modes are given exactly."""
    old = os.umask(0)
    try:
        yield
    finally:
        os.umask(old)


@dataclass(slots=True)
class _Run:
    """One write under way: the parent of the workers."""

    volume: Volume
    target: Target
    emit: Emit
    select: Select | None
    settler: Settler
    trust: bool
    elsewhere: frozenset[bytes]
    cleaner: Cleaner
    owner: bool = field(default_factory=lambda: os.geteuid() == 0)
    entries: int = 0
    total: Written = field(default_factory=Written)
    _large: Kept = field(default_factory=Kept)
    _links: Kept = field(default_factory=Kept)
    _made: Kept = field(default_factory=Kept)  # directories that were not there
    _found: Kept = field(default_factory=Kept)  # directories that were
    _locked: Kept = field(default_factory=Kept)
    _is_new: bool = False  # the directory whose files come
    _trusted_large: bool = False  # the file whose further parts may come is right
    _marks: Marks | None = None  # what has to be looked at, where not all has to
    _whole: set[bytes] = field(default_factory=set)  # marked directories of which all names come
    _told: float = 0.0

    def skip(self, marks: Marks) -> None:
        """Go on with what is marked, all else is right."""
        self._marks = marks

    def write(self, depot: Depot, listing: Listing, jobs: int) -> None:
        """Directories and files; afterwards all content is there."""

        def work(number: int, ask: Ask) -> None:
            Writer(Target(self.target.root), FrameReader(depot, listing.frames), ask, self.trust).run()

        tasks = ((FRESH if all_new else FOUND) + b"\n".join(task) for task, all_new in self._tasks(listing))
        with pool(work, jobs) as workers:
            for _, message in workers.hand_out(tasks):
                self._add(msgspec.msgpack.decode(message, type=Written))

    def finish(self) -> None:
        """What must come last: other names of files, metadata of large files and directories, flags that lock."""
        self.cleaner.finish()
        for entry in self._links:
            self._guarded(self._link, entry)
        for entry in self._large:
            self._guarded(self._large_metadata, entry)
        # Directories from below: nothing is made in them afterwards. New ones never hold one that was there.
        for entry in reversed(self._made):
            self._guarded(self._made_metadata, entry)
        for entry in reversed(self._found):
            self._guarded(self._found_metadata, entry)
        for entry in reversed(self._locked):
            self._guarded(self._lock, entry)

    def result(self, seconds: float) -> WriteResult:
        warnings = [*self.cleaner.notes, *self.total.notes][:KEPT_NOTES]
        count = len(self.cleaner.notes) + self.total.note_count
        if count > len(warnings):
            warnings.append(f"and {count - len(warnings):,} more of the kind")
        for text in warnings:
            self.emit(Event(seq=0, time="", kind="warning", phase="write", text=text))
        return WriteResult(
            entries=self.entries,
            bytes_written=self.total.written,
            bytes_kept=self.total.kept,
            bytes_fetched=self.total.fetched,
            removed=self.cleaner.removed,
            seconds=round(seconds, 2),
            warnings=tuple(warnings),
        )

    # --- tasks ----------------------------------------------------------------------------------------------------

    def _tasks(self, listing: Listing) -> Iterator[tuple[list[bytes], bool]]:
        """Lines for the workers, cut where one frame ends and the next begins; whether nothing is there of them."""
        task: list[bytes] = []
        most = TASK_ENTRIES if self._marks is None else MARKED_ENTRIES
        size = 0
        all_new = True
        frame = -1
        taken = False
        for entry, line in self._lines(listing):
            if entry.type != MORE:
                taken = self.select is None or self.select(entry)
            if not taken:
                continue
            if self._is_new and entry.type in SIMPLE and entry.size <= PART_BYTES and not entry.flags & LOCKING:
                self.entries += 1  # nothing is in its way, and it is a worker's alone: asked of nearly every entry
                self._trusted_large = False
            elif not self._guarded(self._begin, entry):
                continue
            elsewhere = not entry.chunks or entry.chunks[0].frame != frame
            if (size >= TASK_BYTES or len(task) >= most) and elsewhere:
                yield task, all_new
                task, size, all_new = [], 0, True
            task.append(line)
            all_new = all_new and self._is_new
            for chunk in entry.chunks:
                size += chunk.size
                frame = chunk.frame
        if task:
            yield task, all_new
        self.cleaner.names.leave_all()

    def _lines(self, listing: Listing) -> Iterator[tuple[Entry, bytes]]:
        """Entries with their lines: all, or those that are marked and the directories that lead there."""
        if self._marks is None:
            for entries, lines in listing.entries_and_lines():
                yield from zip(entries, lines, strict=True)
            return
        taken = 0
        for entries, lines, marks in listing.marked(self._marks):
            for entry, line, mark in zip(entries, lines, marks, strict=True):
                if mark == NAMED:
                    if entry.type != MORE:
                        self.cleaner.names.arrive(entry.name)
                    continue
                if mark == EVERY_NAME:
                    self._whole.add(entry.name)
                taken += sum(chunk.size for chunk in entry.chunks)
                yield entry, line
        self.entries = listing.head.entries
        self.total.kept += self.volume.content_bytes - taken
        self.total.done += self.volume.content_bytes - taken

    def _begin(self, entry: Entry) -> bool:
        """What the parent does with an entry at once; whether a worker has to go on with it."""
        if entry.type == MORE:
            if self._trusted_large:
                self._keep(entry)
            return not self._trusted_large
        self.entries += 1
        self._trusted_large = False
        name = entry.name
        self.cleaner.names.arrive(name)
        if entry.flags & LOCKING:
            self._locked.add(entry)
        if entry.type == DIRECTORY:
            new = self.target.make_directory(name)
            here = self._folder_is_here(name)
            left_alone = new or self.select is not None or not here or name in self.elsewhere
            left_alone = left_alone or (self._marks is not None and name not in self._whole)
            self.cleaner.names.enter(name, left_alone)
            self._is_new = new
            if here and self._marks is not None and (extra := self._marks.extra.get(name)):
                self.cleaner.clean(name, extra)
            if here:
                (self._made if new else self._found).add(entry)
            return False
        if entry.type == HARDLINK:
            self._links.add(entry)
            return False
        if entry.type == FILE and entry.size > PART_BYTES:
            if self.trust and self._is_right(entry, name):
                self._trusted_large = True
                self._keep(entry)
                return False
            self._make_large(entry, name)
            self._large.add(msgspec.structs.replace(entry, chunks=()))
        return True

    def _is_right(self, entry: Entry, name: bytes) -> bool:
        """Whether what is there has the size, time, mode and owner that it should have."""
        folder, last = self.target.place(name)
        try:
            found = os.stat(last, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return looks_right(entry, found)

    def _keep(self, entry: Entry) -> None:
        count = sum(chunk.size for chunk in entry.chunks)
        self.total.kept += count
        self.total.done += count

    def _folder_is_here(self, name: bytes) -> bool:
        """Whether a directory lies on this file system; another one mounted there is another volume's matter."""
        return os.fstat(self.target.folder(name)).st_dev == self.target.device

    def _make_large(self, entry: Entry, name: bytes) -> None:
        folder, last = self.target.place(name)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            found = os.stat(last, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            pass
        else:
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1 or not self._unlocked(folder, last):
                remove(folder, last, self.target.device)
        descriptor = os.open(last, flags, 0o600, dir_fd=folder)
        try:
            if os.fstat(descriptor).st_size == 0:
                write_flags(descriptor, entry.flags, CARRIED & ~LOCKING)
            os.ftruncate(descriptor, entry.size)
        finally:
            os.close(descriptor)

    def _unlocked(self, folder: int, last: bytes) -> bool:
        descriptor = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            return not write_flags(descriptor, 0, LOCKING)
        finally:
            os.close(descriptor)

    # --- last things ----------------------------------------------------------------------------------------------

    def _link(self, entry: Entry) -> None:
        if self.select is not None:
            self._check_target(entry)
        old_folder, old_last = self.target.place(entry.target_name)
        old = os.dup(old_folder)  # the next call may close it
        try:
            folder, last = self.target.place(entry.name)
            try:
                found = os.stat(old_last, dir_fd=old, follow_symlinks=False)
            except FileNotFoundError:
                if not self.total.note_count:
                    raise
                self._notes(entry, [f"was not made: its other name ‘{entry.target}’ was not"])
                return
            if stat.S_ISDIR(found.st_mode):
                raise DamagedError(f"‘{entry.path}’ is a hard link to a directory", "capture the image again")
            try:
                self._make_link(old, old_last, folder, last)
            except FileExistsError:
                there = os.stat(last, dir_fd=folder, follow_symlinks=False)
                if (there.st_dev, there.st_ino) != (found.st_dev, found.st_ino):
                    remove(folder, last, self.target.device)
                    self._make_link(old, old_last, folder, last)
        finally:
            os.close(old)

    def _make_link(self, old: int, old_last: bytes, folder: int, last: bytes) -> None:
        try:
            os.link(old_last, last, src_dir_fd=old, dst_dir_fd=folder, follow_symlinks=False)
        except PermissionError:
            # link(2) refuses what is immutable or append-only; a file that was trusted is as it was found. What the
            # image says of its flags is set again at the end.
            if not stat.S_ISREG(os.stat(old_last, dir_fd=old, follow_symlinks=False).st_mode):
                raise
            self._unlocked(old, old_last)
            os.link(old_last, last, src_dir_fd=old, dst_dir_fd=folder, follow_symlinks=False)

    def _check_target(self, entry: Entry) -> None:
        folder, last = self.target.place(entry.target_name)
        os.stat(last, dir_fd=folder, follow_symlinks=False)

    def _large_metadata(self, entry: Entry) -> None:
        folder, last = self.target.place(entry.name)
        descriptor = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        self._metadata(entry, descriptor, replace=True)

    def _found_metadata(self, entry: Entry) -> None:
        self._metadata(entry, self.target.open_directory(entry.name), replace=True)

    def _made_metadata(self, entry: Entry) -> None:
        self._metadata(entry, self.target.open_directory(entry.name), replace=False)

    def _metadata(self, entry: Entry, descriptor: int, replace: bool) -> None:
        """Everything about a directory or a large file; ``replace``: it may have what it should not."""
        try:
            found = os.fstat(descriptor)
            self._notes(entry, list(apply_owner_and_mode(entry, descriptor, found, self.owner)))
            if entry.xattrs or replace:
                self._notes(entry, list(apply_xattrs(descriptor, entry, replace)))
            if entry.flags or replace:
                self._notes(entry, flags_not_taken(write_flags(descriptor, entry.flags, CARRIED & ~LOCKING)))
            if not replace or os.fstat(descriptor).st_mtime_ns != entry.mtime:
                os.utime(descriptor, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(descriptor)

    def _lock(self, entry: Entry) -> None:
        folder, last = self.target.place(entry.name) if entry.name else (self.target.folder(b""), b".")
        descriptor = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            self._notes(entry, flags_not_taken(write_flags(descriptor, entry.flags, LOCKING)))
        finally:
            os.close(descriptor)

    def _guarded(self, act: Callable[[Entry], T], entry: Entry) -> T:
        try:
            return act(entry)
        except OSError as error:
            where = f"{self.target.root}/{entry.path}"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DoesNotFitError(f"{where}: no room left on the target", "choose a larger disk") from None
            raise TargetIOError(f"{where}: {error.strerror}", "look at the kernel log and the disk's health") from None

    def _notes(self, entry: Entry, sentences: list[str]) -> None:
        self.total.note_count += len(sentences)
        self.total.notes.extend(f"/{entry.path}: {sentence}" for sentence in sentences)

    def _add(self, part: Written) -> None:
        self.total.done += part.done
        self.total.written += part.written
        self.total.kept += part.kept
        self.total.fetched += part.fetched
        self.total.note_count += part.note_count
        self.settler.written(self.total.written)
        if len(self.total.notes) < KEPT_NOTES:
            self.total.notes.extend(part.notes)
        now = time.monotonic()
        if now - self._told >= PROGRESS_S:
            self._told = now
            self.emit(Event(seq=0, time="", kind="progress", phase="write", done=self.total.done,
                            total=self.volume.content_bytes, unit="bytes"))  # fmt: skip
