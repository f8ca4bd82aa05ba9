"""Which lines of a listing a tree holds already, judged by metadata alone, on all processors.

    listing ──► parent: checks, cuts where a directory begins ──► workers: look at whole directories
    marks   ◄── parent: what differs, the directories that lead there, where names differ ◄──┘

Nothing is changed here. What is marked is written the usual way; the rest is as if it were not listed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import msgspec

from agent.image.entry import DIRECTORY
from agent.image.ext4 import StrangeError
from agent.image.ext4_behind import disk_behind
from agent.image.listing import Listing, Sliceable
from agent.image.survey_ext4 import DiskSurveyor
from agent.image.survey_marks import Marks
from agent.image.survey_work import Seen, Surveyor, encode_task
from agent.image.target import LOST_AND_FOUND, Target
from agent.image.workers import Ask, pool
from agent.model.undecodable import UNDECODABLE

TASK_LINES = 1500
TASK_BYTES = 512 << 10
# Without a new directory for so long, the open one is not looked at as a whole, but marked.
LONG_BYTES = 8 << 20


def holds_something(root: Path) -> bool:
    """Whether there is anything to look at."""
    with os.scandir(root) as scan:
        return any(os.fsencode(child.name) != LOST_AND_FOUND for child in scan)


def survey(listing: Listing, root: Path, elsewhere: frozenset[bytes], jobs: int) -> Sliceable:
    """Look at every entry; what is in the directories ``elsewhere`` is not asked for. Marks, a byte a line.

    Raises DamagedError where the listing is not sound: all of it has been checked afterwards.
    """
    marks = survey_by_tables(listing, root, elsewhere)
    return marks if marks is not None else survey_by_calls(listing, root, elsewhere, jobs)


def survey_by_tables(listing: Listing, root: Path, elsewhere: frozenset[bytes]) -> bytes | None:
    """The same on ext4, by what its block device holds; None where that cannot be read, or is not as known.

    One process looks while this one checks the listing: what it found counts only after that.
    """

    def work(_number: int, ask: Ask) -> None:
        ask(look_at_tables(listing, root, elsewhere) or b"")

    with pool(work, 1) as workers:
        for _ in listing.entries():
            pass
        found = b""
        for worker, message in workers.requests():
            found = message
            workers.reply(worker, b"")
    return found or None


def look_at_tables(listing: Listing, root: Path, elsewhere: frozenset[bytes]) -> bytes | None:
    """What the looking process does."""
    marks = Marks(elsewhere)
    try:
        with disk_behind(root) as (disk, top, covered), listing.apart() as own, closing(Target(root)) as target:
            disk.read_ahead()
            DiskSurveyor(disk, target, top, covered, marks).run(own)
    except (StrangeError, OSError, *UNDECODABLE):
        return None
    marks.finish()
    return marks[:]


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
