"""Which lines of a listing a tree holds already, judged by metadata alone, on all processors.

    listing ──► parent: checks, cuts where a directory begins ──► workers: look at whole directories
    marks   ◄── parent: what differs, the directories that lead there, where names differ ◄──┘

or, on ext4, half of it each in the parent and a worker.

Nothing is changed here. What is marked is written the usual way; the rest is as if it were not listed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

import msgspec

from agent.image.entry import DIRECTORY
from agent.image.ext4 import StrangeError
from agent.image.ext4_behind import disk_behind
from agent.image.ext4_disk import Ext4Disk
from agent.image.listing import Listing, count_lines
from agent.image.survey_ext4 import DiskSurveyor, Half, Told
from agent.image.survey_marks import Marks, OutOfOrderError
from agent.image.survey_work import Line, Seen, Surveyor, encode_task
from agent.image.target import LOST_AND_FOUND, Target
from agent.image.workers import Ask, Pool, pool
from agent.model.undecodable import UNDECODABLE

TASK_LINES = 1500
TASK_BYTES = 512 << 10
# Without a new directory for so long, the open one is not looked at as a whole, but marked.
LONG_BYTES = 8 << 20
# Where these come, system calls are asked, and the whole listing is checked.
UNSURE = (StrangeError, OutOfOrderError, OSError, ValueError, *UNDECODABLE)


def holds_something(root: Path) -> bool:
    """Whether there is anything to look at."""
    with os.scandir(root) as scan:
        return any(os.fsencode(child.name) != LOST_AND_FOUND for child in scan)


class Below:
    """The file system of a tree, looked at from below; what will be asked for comes into memory meanwhile."""

    def __init__(self, disk: Ext4Disk, top: int, covered: frozenset[bytes]) -> None:
        self.disk = disk
        self.top = top
        self.covered = covered
        self._ahead = threading.Thread(target=self._read_ahead)
        self._ahead.start()

    def _read_ahead(self) -> None:
        with suppress(*UNSURE):  # what cannot be read is met again, by whoever needs it
            self.disk.read_ahead()

    def wait(self) -> None:
        """Until no thread is left: a process that forks must have none."""
        self._ahead.join()

    def forget(self) -> None:
        """Give back the memory that it took."""
        self.wait()
        self.disk.forget()


@contextmanager
def from_below(root: Path) -> Iterator[Below | None]:
    """Look at an ext4 by what its block device holds; None where that cannot be read, or is not as known.

    It says what stat(2) says as long as nobody writes to it.
    """
    with ExitStack() as stack:
        below = None
        with suppress(*UNSURE):
            below = Below(*stack.enter_context(disk_behind(root)))
            stack.callback(below.forget)
        yield below


def survey(listing: Listing, root: Path, elsewhere: frozenset[bytes], jobs: int, below: Below | None) -> Marks:
    """Look at every entry; what is in the directories ``elsewhere`` is not asked for.

    What has no mark is sound afterwards. Raises DamagedError where that of a listing cannot be.
    """
    marks = survey_by_tables(listing, root, elsewhere, below) if below else None
    return marks if marks is not None else survey_by_calls(listing, root, elsewhere, jobs)


def survey_by_tables(listing: Listing, root: Path, elsewhere: frozenset[bytes], below: Below) -> Marks | None:
    """The same on ext4, by what its block device holds; None where that is not as known, or where the listing is not
    sound.

    Two processes look at half of the listing each. What is marked has yet to be checked, the rest is sound.
    """
    try:
        try:
            listing.keep()
        finally:
            below.wait()
        with closing(Target(root)) as target:
            surveyor = partial(DiskSurveyor, below.disk, target, below.top, below.covered)

            def work(_number: int, ask: Ask) -> None:
                ask(look_at_second_half(listing, surveyor))

            with pool(work, 1) as workers:
                return add_halves(listing, surveyor, Marks(elsewhere), workers)
    except UNSURE:
        return None


def look_at_second_half(listing: Listing, surveyor: Callable[[Told], DiskSurveyor]) -> bytes:
    """What the second process sees, encoded; nothing where it cannot say."""
    half = Half()
    looking = surveyor(half)
    try:
        with listing.apart() as own:
            looking.run(second_half(own))
    except UNSURE:
        return b""
    half.lines, half.further = looking.reached, looking.further
    return msgspec.msgpack.encode(half)


def add_halves(listing: Listing, surveyor: Callable[[Told], DiskSurveyor], marks: Marks, workers: Pool) -> Marks | None:
    """Look at the first half, and take what the second process saw; None where it could not say."""
    looking = surveyor(marks)
    looking.run(first_half(listing))
    half = None
    for worker, message in workers.requests():
        half = msgspec.msgpack.decode(message, type=Half) if message else None
        workers.reply(worker, b"")
    if half is None:
        return None
    half.tell(marks)
    lines = max(half.lines, looking.reached)
    if lines != listing.head.entries + looking.further + half.further:
        raise OutOfOrderError
    marks.end(lines)
    marks.finish()
    return marks


# The halves meet at the first directory behind the middle. The second one is a little smaller: its process has yet to
# be made, and its answer to be taken in.
FIRST_SHARE_PERCENT = 52


def _middle(listing: Listing) -> int:
    return listing.head.entries * FIRST_SHARE_PERCENT // 100


def first_half(listing: Listing) -> Iterator[tuple[int, list[Line]]]:
    middle = _middle(listing)
    decoder = msgspec.json.Decoder(Line)
    for number, block in listing.entry_blocks():
        lines = _decode(decoder, block)
        end = _cut(lines, middle - number)
        yield number, lines[:end]
        if end < len(lines):
            return


def second_half(listing: Listing) -> Iterator[tuple[int, list[Line]]]:
    middle = _middle(listing)
    decoder = msgspec.json.Decoder(Line)
    reached = False
    for number, block in listing.entry_blocks():
        if not reached and number + block.count(b"\n") <= middle:
            continue
        lines = _decode(decoder, block)
        begin = 0 if reached else _cut(lines, middle - number)
        reached = reached or begin < len(lines)
        if reached:
            yield number + begin, lines[begin:]


def _decode(decoder: msgspec.json.Decoder[Line], block: bytes) -> list[Line]:
    lines = decoder.decode_lines(block)
    if not len(lines) == block.count(b"\n") == count_lines(block):
        raise OutOfOrderError
    return lines


def _cut(lines: list[Line], middle: int) -> int:
    """The place of the first directory that is not before the middle, all lines where there is none."""
    begin = max(0, middle)
    return next((place for place, line in enumerate(lines[begin:], begin) if line.type == DIRECTORY), len(lines))


def survey_by_calls(listing: Listing, root: Path, elsewhere: frozenset[bytes], jobs: int) -> Marks:
    """The same by system calls, on any file system."""

    def work(_number: int, ask: Ask) -> None:
        Surveyor(Target(root), ask).run()

    marks = Marks(elsewhere)
    decoder = msgspec.msgpack.Decoder(Seen)
    with pool(work, jobs) as workers:
        for _, message in workers.hand_out(_tasks(listing, marks)):
            marks.seen(decoder.decode(message))
    marks.finish()
    return marks


def _tasks(listing: Listing, marks: Marks) -> Iterator[bytes]:
    task: list[bytes] = []
    size, first, reached = 0, 0, 0
    for entries, lines in listing.entries_and_lines():
        begins = [place for place, entry in enumerate(entries) if entry.type == DIRECTORY]
        for start, stop in pairwise([0, *begins, len(lines)]):
            is_directory = start < stop and entries[start].type == DIRECTORY
            if size >= LONG_BYTES or (is_directory and (size >= TASK_BYTES or len(task) >= TASK_LINES)):
                if not is_directory:
                    marks.split()
                yield encode_task(first, task)
                first, task, size = reached + start, [], 0
            if is_directory:
                marks.directory(entries[start].name, reached + start)
            task += lines[start:stop]
            size += sum(map(len, lines[start:stop]))
        reached += len(lines)
    marks.end(reached)
    if task:
        yield encode_task(first, task)
