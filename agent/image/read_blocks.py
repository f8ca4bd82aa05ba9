"""Reads used blocks: 32 MiB of a partition a task, cut at whole MiB of the partition; zeros are noted, not stored."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

import msgspec

from agent.errors import TargetIOError
from agent.image.entry import BLOCKS, MORE, PART_BYTES, Chunk, Entry
from agent.image.pack import CHUNK_BYTES
from agent.model.block_map import Run, joined, parts

JOIN_BYTES = 32 << 10

Take = Callable[[bytes, int, list[Chunk]], None]  # content, its place, where its chunk goes


class Span(msgspec.Struct, tag="span"):
    """The used runs in 32 MiB of a partition; the first also stands for the whole."""

    seq: int
    volume: int
    at: int
    size: int  # of the whole partition
    runs: list[tuple[int, int]]


def spans(seq: int, volume: int, size_bytes: int, runs: Iterable[Run]) -> Iterator[Span]:
    """The work of one volume, numbered from ``seq``."""
    for number, (at, inside) in enumerate(parts(joined(runs, JOIN_BYTES), PART_BYTES), seq):
        yield Span(number, volume, at, size_bytes, [(run.at, run.size) for run in inside])


def read_span(descriptor: int, span: Span, take: Take, name: str) -> tuple[Entry, list[Chunk]]:
    """The line of a span; its chunks come once they have places."""
    chunks: list[Chunk] = []
    zeros: list[tuple[int, int]] = []
    for at, size in span.runs:
        for start, data in _pieces(descriptor, at, at + size, name):
            if data[0] or data[-1] or data.count(0) != len(data):
                take(data, start, chunks)
            elif zeros and sum(zeros[-1]) == start:
                zeros[-1] = (zeros[-1][0], zeros[-1][1] + len(data))
            else:
                zeros.append((start, len(data)))
    first = span.at == 0
    entry = Entry(path="", type=BLOCKS if first else MORE, size=span.size if first else span.at, zeros=tuple(zeros))
    return entry, chunks


def _pieces(descriptor: int, start: int, end: int, name: str) -> Iterator[tuple[int, bytes]]:
    while start < end:
        stop = min(end, (start // CHUNK_BYTES + 1) * CHUNK_BYTES)
        try:
            data = os.pread(descriptor, stop - start, start)
        except OSError as error:
            raise _unreadable(name, start, stop, error.strerror or str(error)) from None
        if not data:
            raise _unreadable(name, start, stop, "the device ends there")
        yield start, data
        start += len(data)


def _unreadable(name: str, start: int, stop: int, reason: str) -> TargetIOError:
    return TargetIOError(
        f"{name}: bytes {start:,} to {stop:,} cannot be read: {reason}",
        f"the disk may be failing; rescue it with ddrescue, or leave it out with --without {name.rpartition('/')[2]}",
    )
