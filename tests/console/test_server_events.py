from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from agent.console.server_events import ServerEvents
from agent.errors import RefusedError, RegraftError, TemporaryError, UnreachableError
from agent.model.events import Event
from agent.model.jobs import Job, JobMatch, State
from agent.model.report import Report
from tests.console.test_report import report

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


# --- how it ended -----------------------------------------------------------------------------------------------------


@dataclass
class Patience(Server):
    """A server that comes back at a time, and the console and clock of the machine that waits for it."""

    clock: list[float] = field(default_factory=list)
    back_at: float = 0.0
    refusal: RegraftError | None = None
    said: list[str] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock[0] += seconds
        self.away = self.clock[0] < self.back_at

    def send_report(self, job_id: str, report: Report) -> None:
        self.clock[0] += 5  # what a server that is away costs
        if self.refusal:
            raise self.refusal
        if self.away:
            raise TemporaryError("the server is starting")
        self.reports.append(report)

    def sink(self) -> ServerEvents:
        control: Any = self
        return ServerEvents(control, JOB, self.said.append, self.sleep)


def patience(clock: list[float], back_after: float, refusal: RegraftError | None = None) -> Patience:
    return Patience(away=True, clock=clock, back_at=clock[0] + back_after, refusal=refusal)


def test_a_report_waits_for_a_server_that_is_away_and_says_so(clock: list[float]) -> None:
    found = patience(clock, 400)
    sink = found.sink()
    sink(event(1, "phase-end"))
    sink.finish(report())
    assert (found.reports, found.got) == ([report()], [1])
    assert found.pauses == sorted(found.pauses) and found.pauses[0] == 2 and found.pauses[-1] == 60
    assert all("job j1: the server was not told its report: the server is starting" in text for text in found.said)
    assert "trying again in 2.0 s, for another 9 min" in found.said[0]


def test_a_failure_waits_for_it_too_with_all_that_was_said_before(clock: list[float]) -> None:
    found = patience(clock, 400)
    sink = found.sink()
    sink(event(1))
    sink.failed(UnreachableError("the server does not answer"))
    assert found.got == [1, 2] and sum(found.pauses) >= 400
    assert "not told that it failed: away; trying again" in found.said[0]


def test_after_ten_minutes_the_machine_goes_on(clock: list[float]) -> None:
    found = patience(clock, 10_000)
    with pytest.raises(TemporaryError):
        found.sink().finish(report())
    assert clock[0] == pytest.approx(1605)  # ten minutes, and the last try
    found = patience(clock, 10_000)
    found.sink().failed(RefusedError("no"))
    assert sum(found.pauses) == pytest.approx(600) and "could not be told that it failed: away" in found.said[-1]


def test_what_the_server_refuses_is_not_tried_again(clock: list[float]) -> None:
    found = patience(clock, 400, RefusedError("job j1 has another report already"))
    with pytest.raises(RefusedError):
        found.sink().finish(report())
    assert not found.pauses and not found.said
