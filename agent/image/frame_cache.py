"""Plain frames for whoever reads an image here and there: fetched by a few threads, the longest unused go first.

Who reads a tree in order reads its frames in order: when the frames before a wanted one are here, the next ones are
fetched ahead, so that a depot far away answers while the reader is busy.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from agent.depot.store import Depot
from agent.errors import RegraftError
from agent.image.entry import FrameTable
from agent.image.frames import FrameReader

LIMIT_BYTES = 32 << 20
FETCHERS = 2  # each with its own connection and a buffer of 8 MiB
AHEAD = 3
Key = tuple[int, int]  # number of the volume, number of the frame


class Frames(Protocol):
    """Where plain frames come from."""

    def get(self, volume: int, number: int) -> bytes:
        """The plain bytes of a frame of a volume, its digest checked. Raises DamagedError, UnreachableError."""

    def close(self) -> None:
        """No more will be asked for."""


class DirectFrames:
    """Frames fetched by who asks, one after the other: no threads, which a process that forks workers must not have."""

    def __init__(self, depot: Depot, tables: Sequence[FrameTable]) -> None:
        self._readers = [FrameReader(depot, table) for table in tables]

    def get(self, volume: int, number: int) -> bytes:
        return self._readers[volume].get(number)

    def close(self) -> None:
        self._readers.clear()


class FrameCache:
    """Safe to use from many threads. ``tables``: the frames of each volume."""

    def __init__(self, depot: Depot, tables: Sequence[FrameTable], limit_bytes: int = LIMIT_BYTES) -> None:
        self._depot = depot
        self._tables = tables
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._plain: OrderedDict[Key, bytes] = OrderedDict()
        self._held = 0
        self._coming: dict[Key, Future[dict[int, bytes]]] = {}
        self._threads = ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetch")
        self._own = threading.local()

    @property
    def held_bytes(self) -> int:
        return self._held

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def get(self, volume: int, number: int) -> bytes:
        while True:
            with self._lock:
                plain = self._plain.get((volume, number))
                if plain is not None:
                    self._plain.move_to_end((volume, number))
                    return plain
                coming = self._coming.get((volume, number))
                if coming is None:
                    coming = self._ask(volume, [number])
                if any((volume, number - back) in self._plain for back in (1, 2)):
                    self._ask_ahead(volume, number)
            plain = coming.result().get(number)
            if plain is not None:
                return plain
            # Fetched ahead with others, and one of them failed: now it is asked for alone.

    def _ask_ahead(self, volume: int, number: int) -> None:
        following = range(number + 1, number + 1 + AHEAD)
        keys = [(volume, each) for each in following if self._tables[volume].get(each) is not None]
        wanted = [key[1] for key in keys if key not in self._plain and key not in self._coming]
        if wanted:
            self._ask(volume, wanted)

    def _ask(self, volume: int, numbers: list[int]) -> Future[dict[int, bytes]]:
        """Have frames fetched; called with the lock held."""
        coming = self._threads.submit(self._load, volume, numbers)
        self._coming.update(((volume, number), coming) for number in numbers)
        return coming

    def _load(self, volume: int, numbers: list[int]) -> dict[int, bytes]:
        """In a thread of the pool. A single frame that fails raises; several were fetched ahead, and say nothing."""
        found: dict[int, bytes] = {}
        try:
            reader = self._reader(volume)
            reader.want(numbers)
            for number in numbers:
                found[number] = reader.get(number)
        except RegraftError:
            if len(numbers) == 1:
                raise
        finally:
            with self._lock:
                for number in numbers:
                    del self._coming[volume, number]
                for number, plain in found.items():
                    self._put((volume, number), plain)
        return found

    def _put(self, key: Key, plain: bytes) -> None:
        self._held += len(plain) - len(self._plain.get(key, b""))
        self._plain[key] = plain
        while self._held > self._limit and len(self._plain) > 1:
            self._held -= len(self._plain.popitem(last=False)[1])

    def _reader(self, volume: int) -> FrameReader:
        """A reader belongs to one thread: it and its connection to the depot."""
        readers: dict[int, FrameReader] = self._own.__dict__.setdefault("readers", {})
        if volume not in readers:
            readers[volume] = FrameReader(self._depot, self._tables[volume])
        return readers[volume]
