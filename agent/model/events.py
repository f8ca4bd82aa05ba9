"""One event stream feeds plain text, JSON lines, the server and the report.

Every phase that starts also ends. ``seq`` grows by one in a run; the server stores events as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True):
    seq: int
    time: str  # 2026-11-23T20:41:40.123Z
    kind: str  # phase-start, phase-end, progress, step-start, step-end, message, warning, error, result
    phase: str = ""  # connect, profile, plan, partition, write, verify, patch, boot, report, capture, …
    text: str = ""  # one sentence for people
    code: str = ""  # of errors: RegraftError.code; of results: done, failed
    done: int = 0
    total: int = 0
    unit: str = ""  # bytes, entries, steps
    seconds: float = 0.0  # of ends: how long it took


Emit = Callable[[Event], None]
