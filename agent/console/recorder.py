"""Numbers and times the events of one run, and keeps what its report needs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from agent.errors import RegraftError
from agent.model.events import Emit, Event
from agent.model.report import StageTime


def now() -> str:
    """The time as events carry it: 2026-11-23T20:41:40.123Z."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(slots=True)
class Recorder:
    """The one source of event numbers; every event goes to all of ``sinks``."""

    sinks: Sequence[Emit]
    seq: int = 0
    stages: list[StageTime] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        """Hand on an event of any part, with the run's own number and time."""
        self.seq += 1
        stamped = msgspec.structs.replace(event, seq=self.seq, time=now())
        if event.kind == "warning":
            self.warnings.append(event.text)
        for sink in self.sinks:
            sink(stamped)

    def message(self, text: str, phase: str = "") -> None:
        self(Event(seq=0, time="", kind="message", text=text, phase=phase))

    def warning(self, text: str, phase: str = "") -> None:
        self(Event(seq=0, time="", kind="warning", text=text, phase=phase))

    def error(self, error: RegraftError, phase: str = "") -> None:
        self(Event(seq=0, time="", kind="error", text=str(error), code=error.code, phase=phase))

    def result(self, text: str, code: str) -> None:
        self(Event(seq=0, time="", kind="result", text=text, code=code))

    @contextmanager
    def phase(self, name: str, text: str) -> Iterator[None]:
        """A stage of the run: its start, its end (also when it fails) and its seconds."""
        started = time.monotonic()
        self(Event(seq=0, time="", kind="phase-start", phase=name, text=text))
        code = "failed"
        try:
            yield
            code = "done"
        finally:
            seconds = time.monotonic() - started
            self.stages.append(StageTime(name=name, seconds=round(seconds, 2)))
            self(Event(seq=0, time="", kind="phase-end", phase=name, text=text, code=code, seconds=round(seconds, 2)))
