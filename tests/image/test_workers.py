"""Worker processes: how they end is told by what they met, whenever the parent notices."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from agent.errors import DamagedError, UnexpectedError
from agent.image import workers as workers_module
from agent.image.workers import Ask, fetching_jobs, pool, workers_peak_bytes
from tests.image.made_image import MemoryDepot

pytestmark = pytest.mark.root


def meets_damage(_: int, ask: Ask) -> None:
    """Fails while two requests are under way, as a worker does that asks ahead."""
    ask.send(b"one")
    ask.send(b"two")
    raise DamagedError("pack x is damaged", "copy it again")


def is_killed(_: int, ask: Ask) -> None:
    ask.send(b"one")
    os._exit(9)


def test_an_error_is_heard_though_the_worker_has_gone_before_the_answer() -> None:
    with pool(meets_damage, 1) as workers:
        next(workers.requests())
        workers._processes[0].join(10)
        with pytest.raises(DamagedError, match="pack x") as caught:
            workers.reply(0, b"a task")
    assert caught.value.hint == "copy it again"


def test_an_error_is_heard_behind_requests() -> None:
    with pool(meets_damage, 1) as workers, pytest.raises(DamagedError, match="pack x"):
        assert [message for _, message in workers.requests()] == [b"one", b"two"]


def test_a_worker_that_was_killed_is_told_as_that() -> None:
    with pool(is_killed, 1) as workers, pytest.raises(UnexpectedError, match="ended with status 9"):
        for worker, _ in workers.requests():
            workers._processes[0].join(10)
            workers.reply(worker, b"a task")


MIB = 1 << 20


def takes_memory(_: int, ask: Ask) -> None:
    """Gives it back before it ends, as buffers are."""
    ask(bytes([len(bytearray(b"x" * (100 * MIB))) // MIB]))


@pytest.mark.parametrize("told", [True, False])
def test_the_memory_of_workers_is_known_to_their_parent(
    told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "_peak_bytes", [0])
    if not told:
        monkeypatch.setattr(workers_module, "ROLLUP", tmp_path / "not in this kernel")
    shared = bytearray(b"y" * (150 * MIB))
    with pool(takes_memory, 2) as workers:
        for worker, message in workers.requests():
            assert message == bytes([100])
            workers.reply(worker, b"")
    assert len(shared) == 150 * MIB
    # Each twice its 100 MiB, while the bytes become an array; what they share with this process counts only where the
    # kernel does not tell, and is as much as this process has.
    own = 0 if told else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    assert 400 * MIB <= workers_peak_bytes() < 520 * MIB + 2 * own


def test_workers_that_wait_for_a_network_are_more(monkeypatch: pytest.MonkeyPatch) -> None:
    for processors, near, far in ((1, 2, 4), (2, 2, 4), (4, 4, 8), (64, 8, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, count=processors: set(range(count)))
        assert (fetching_jobs(MemoryDepot()), fetching_jobs(MemoryDepot(is_remote=True))) == (near, far)
