"""Sends a run's events and its report to the server.

The restore goes on when the server does not answer: events are kept and sent with the next batch; the report is
tried for longer. Nothing here may stop a restore that is otherwise well.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from agent.depot.control import Control, Job
from agent.errors import RegraftError
from agent.model.events import Event
from agent.model.report import Report

INTERVAL_S = 2.0
LONGEST_INTERVAL_S = 60.0  # after failures: a server that is away costs a time-out with every try
KEPT_EVENTS = 10_000


@dataclass(slots=True)
class ServerEvents:
    """An event sink that posts in batches."""

    control: Control
    job: Job
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
        """The report; the server ends the job by it."""
        self.flush()
        self.control.send_report(self.job.id, report)

    def failed(self, error: RegraftError) -> None:
        """A run that never came to a report."""
        self(Event(seq=self.last_seq + 1, time="", kind="result", text=str(error), code="failed"))
        if self.pending:
            self.flush()
