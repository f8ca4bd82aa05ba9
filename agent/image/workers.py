"""A few worker processes that ask for work.

    worker ── request ──► parent ── reply ──► worker

Every request has one reply, in order, over one pipe a worker. A worker may have two requests under way, so that it
never waits for a busy parent; both are small, so that no pipe can fill up and stop both sides. Workers are forked,
which needs no second import and works alike in the frozen program.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import signal
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

import msgspec

from agent import errors
from agent.depot.store import Depot
from agent.errors import RegraftError, TargetIOError, UnexpectedError

_FORK = multiprocessing.get_context("fork")
AHEAD = 3
MOST_JOBS = 8
ROLLUP = Path("/proc/self/smaps_rollup")
_FAILED = b"!"
_ENDED = b"."
_REQUEST = b"?"
T = TypeVar("T")


class Ask:
    """The worker's side. A reply of nothing means that there is no more work."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def __call__(self, message: bytes) -> bytes:
        self.send(message)
        return self.receive()

    def send(self, message: bytes) -> None:
        """A request whose reply `receive` will bring; two at most without a reply."""
        self._pipe.send_bytes(_REQUEST + message)

    def receive(self) -> bytes:
        return self._pipe.recv_bytes()

    def tasks(self, result: Callable[[], bytes]) -> Iterator[bytes]:
        """Tasks, each asked for while the one before is worked on. ``result`` gives what was done since last time."""
        task = self(result())
        while task:
            self.send(result())
            yield task
            task = self.receive()
        self(result())


_peak_bytes = [0]  # of all pools that this process had


def workers_peak_bytes() -> int:
    """What the workers of one pool took together at most, those that ended well, beside what they shared with their
    parent."""
    return _peak_bytes[0]


def unshared_peak_bytes() -> int:
    """What this process holds and shares with no other, and what it had held before it gave it back (proc(5)); where
    the kernel does not tell what is shared, all that it ever held."""
    kib = {"Rss": 0, "Private_Clean": 0, "Private_Dirty": 0}
    with suppress(OSError):
        for line in ROLLUP.read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in kib:
                kib[name] = int(rest.split()[0])
    given_back = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - kib["Rss"]
    return (kib["Private_Clean"] + kib["Private_Dirty"] + max(0, given_back)) << 10


Work = Callable[[int, Ask], None]  # a worker's whole life: its number, and how it asks


def default_jobs() -> int:
    """One worker a processor, two at least, eight at most."""
    return max(2, min(MOST_JOBS, len(os.sched_getaffinity(0))))


def fetching_jobs(depot: Depot) -> int:
    """The same for workers that fetch what they write: two a processor where one of them waits for the network."""
    return min(MOST_JOBS, 2 * default_jobs()) if depot.is_remote else default_jobs()


class Pool:
    """The parent's side. Workers are known by their numbers."""

    def __init__(self, work: Work, jobs: int) -> None:
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        self._bytes = 0  # that they held
        for number in range(jobs):
            ours, theirs = _FORK.Pipe()
            process = _FORK.Process(target=_live, args=(work, number, theirs, [*self._pipes, ours]), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def requests(self) -> Iterator[tuple[int, bytes]]:
        """Requests as they come, until every worker has ended. Answer each once with `reply`, at any later time."""
        running = {pipe: number for number, pipe in enumerate(self._pipes)}
        while running:
            for pipe in wait(list(running)):
                assert isinstance(pipe, Connection)
                number = running[pipe]
                message = self._receive(number)
                if message[:1] == _ENDED:
                    del running[pipe]
                    self._bytes += int.from_bytes(message[1:], "big")
                    _peak_bytes[0] = max(_peak_bytes[0], self._bytes)
                elif message[:1] == _FAILED:
                    raise _rebuild(message[1:])
                else:
                    yield number, message[1:]

    def reply(self, worker: int, message: bytes) -> None:
        try:
            self._pipes[worker].send_bytes(message)
        except OSError:
            raise self._lost(worker) from None

    def hand_out(self, tasks: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
        """Answer every request with the next task; yields the requests, which bring the results of the last ones.

        Some tasks are made ahead, so that no worker waits for the making.
        """
        ready: deque[bytes] = deque()
        ended = False
        for worker, message in self.requests():
            self.reply(worker, ready.popleft() if ready else next(tasks, b""))
            yield worker, message
            while not ended and len(ready) < AHEAD:
                task = next(tasks, b"")
                ended = not task
                if task:
                    ready.append(task)

    def close(self) -> None:
        """End what still runs, and wait for it."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()

    def _receive(self, worker: int) -> bytes:
        try:
            return self._pipes[worker].recv_bytes()
        except (EOFError, OSError):
            raise self._lost(worker) from None

    def _lost(self, worker: int) -> RegraftError:
        """Why a worker is gone: its own last words where it had any, which may lie behind requests under way."""
        with suppress(EOFError, OSError):
            while True:
                message = self._pipes[worker].recv_bytes()
                if message[:1] == _FAILED:
                    return _rebuild(message[1:])
        process = self._processes[worker]
        process.join(5)
        return UnexpectedError(
            f"a worker process ended with status {process.exitcode}, expected 0",
            "was it killed for want of memory? look at the kernel log",
        )


@contextmanager
def pool(work: Work, jobs: int) -> Iterator[Pool]:
    """Workers that live as long as the block."""
    workers = Pool(work, jobs)
    try:
        yield workers
    finally:
        workers.close()


def _live(work: Work, number: int, pipe: Connection, others: list[Connection]) -> None:
    """A worker process. The parent's ends of the pipes are closed, so that a parent that dies is noticed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's matter: it closes the pipes
    for other in others:
        other.close()
    gc.freeze()  # a collection that walked through what the parent made would copy all of its pages

    try:
        try:
            work(number, Ask(pipe))
        except RegraftError as error:
            pipe.send_bytes(_FAILED + msgspec.json.encode((type(error).__name__, error.message, error.hint)))
        except OSError as error:
            if isinstance(error, EOFError | BrokenPipeError):
                return
            failed = TargetIOError(f"{error.filename or 'a file'}: {error.strerror}", "look at the kernel log")
            pipe.send_bytes(_FAILED + msgspec.json.encode((type(failed).__name__, failed.message, failed.hint)))
        else:
            pipe.send_bytes(_ENDED + unshared_peak_bytes().to_bytes(8, "big"))
    except (EOFError, OSError):
        return  # the parent is gone


def _rebuild(message: bytes) -> RegraftError:
    """The error a worker met, as the parent raises it."""
    name, text, hint = msgspec.json.decode(message, type=tuple[str, str, str])
    kind = getattr(errors, name, UnexpectedError)
    return kind(text, hint) if issubclass(kind, RegraftError) else UnexpectedError(text, hint)
