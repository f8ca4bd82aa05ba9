"""Sends a run's events and its report to the server.

The restore goes on when the server does not answer: events are kept and sent with the next batch. How it ended, a
report or a failure, is tried for some ten minutes: afterwards the machine restarts, and nobody is left who could tell.
Nothing here may stop a restore that is otherwise well.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.depot.control import Control, Job
from agent.errors import RegraftError, TemporaryError, UnreachableError
from agent.model.events import Event
from agent.model.report import Report
from agent.model.wording import duration_text

INTERVAL_S = 2.0
LONGEST_INTERVAL_S = 60.0  # after failures: a server that is away costs a time-out with every try
KEPT_EVENTS = 10_000
PATIENCE_S = 600.0  # with how a run ended: a server that restarts, a switch that does, come back within it
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 60.0


@dataclass(slots=True)
class ServerEvents:
    """An event sink that posts in batches. ``say`` is this machine's console; ``sleep`` is a parameter for tests."""

    control: Control
    job: Job
    say: Callable[[str], None] = print
    sleep: Callable[[float], None] = time.sleep
    pending: list[Event] = field(default_factory=list)
    sent_at: float = 0.0
    last_seq: int = 0
    interval_s: float = INTERVAL_S

    def __call__(self, event: Event) -> None:
        self.pending.append(event)
        self.last_seq = event.seq
        at_once = event.kind in ("phase-end", "error", "result") and self.interval_s == INTERVAL_S
        if at_once or time.monotonic() - self.sent_at > self.interval_s:
            self.flush()

    def flush(self) -> None:
        try:
            self.control.send_events(self.job.id, self.pending)
        except RegraftError:
            del self.pending[:-KEPT_EVENTS]
            self.interval_s = min(self.interval_s * 2, LONGEST_INTERVAL_S)
        else:
            self.pending.clear()
            self.interval_s = INTERVAL_S
        self.sent_at = time.monotonic()

    def finish(self, report: Report) -> None:
        """The report; the server ends the job by it. Raises what kept it from the server all the while."""

        def send() -> None:
            self.flush()
            self.control.send_report(self.job.id, report)

        self._insist(send, "its report")

    def failed(self, error: RegraftError) -> None:
        """A run that never came to a report."""
        self.pending.append(Event(seq=self.last_seq + 1, time="", kind="result", text=str(error), code="failed"))
        try:
            self._insist(lambda: self.control.send_events(self.job.id, self.pending), "that it failed")
        except RegraftError as refused:
            self.say(f"job {self.job.id}: the server could not be told that it failed: {refused}")

    def _insist(self, send: Callable[[], None], what: str) -> None:
        """Until the server has it; what it refuses is final."""
        began, pause = time.monotonic(), FIRST_PAUSE_S
        while True:
            try:
                return send()
            except (UnreachableError, TemporaryError) as error:
                left = began + PATIENCE_S - time.monotonic()
                if left <= 0:
                    raise
                pause = min(pause, left)
                self.say(f"job {self.job.id}: the server was not told {what}: {error.message}; trying again in "
                         f"{duration_text(pause)}, for another {duration_text(left)}")  # fmt: skip
            self.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)
