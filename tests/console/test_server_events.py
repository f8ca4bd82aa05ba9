from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from agent.console.server_events import ServerEvents
from agent.errors import RefusedError, UnreachableError
from agent.model.events import Event
from agent.model.jobs import Job, JobMatch, State

JOB = Job(id="j1", state=State.CLAIMED, match=JobMatch(any=True), image="a@1", disk="only-eligible", mode="restore",
          on_success="", attempt=1, created="")  # fmt: skip


@dataclass
class Server:
    """Stands where the client stands; ``away`` makes it unreachable."""

    away: bool = False
    tries: int = 0
    got: list[int] = field(default_factory=list)

    def send_events(self, job_id: str, events: list[Event]) -> None:
        assert job_id == "j1"
        self.tries += 1
        if self.away:
            raise UnreachableError("away")
        self.got += [event.seq for event in events if event.seq not in self.got]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("agent.console.server_events.time.monotonic", lambda: now[0])
    return now


def event(seq: int, kind: str = "progress") -> Event:
    return Event(seq=seq, time="", kind=kind)


def make(server: Server) -> ServerEvents:
    return ServerEvents(server, JOB)  # type: ignore[arg-type]


def test_events_go_in_batches_and_what_matters_at_once(clock: list[float]) -> None:
    server = Server()
    sink = make(server)
    for seq in range(1, 6):
        sink(event(seq))
    assert server.tries == 1  # the first; the others wait for the interval
    sink(event(6, "phase-end"))
    assert (server.tries, server.got) == (2, [1, 2, 3, 4, 5, 6])
    clock[0] += 3
    sink(event(7))
    assert server.got[-1] == 7


def test_a_server_that_is_away_is_asked_ever_less_often_and_gets_everything_in_the_end(clock: list[float]) -> None:
    server = Server(away=True)
    sink = make(server)
    for seq in range(1, 601):
        sink(event(seq, "phase-end" if seq % 10 == 0 else "progress"))
        clock[0] += 1
    assert server.tries < 20
    server.away = False
    clock[0] += 61
    sink(event(601))
    assert server.got == list(range(1, 602))


def test_a_run_that_failed_says_so_even_after_a_pause(clock: list[float]) -> None:
    server = Server(away=True)
    sink = make(server)
    sink(event(1))
    server.away = False
    sink.failed(RefusedError("no"))
    assert server.got == [1, 2]
