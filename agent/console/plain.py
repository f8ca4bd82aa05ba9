"""Plain lines for people: serial consoles, screen readers, logs, and everywhere else.

Nothing is redrawn: no carriage return, no cursor movement. Colour only where the stream is a terminal that has it.
The time is taken from the events, so that what is printed depends on the events alone.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import TextIO

from agent.model.events import Event
from agent.model.wording import amount_text, duration_text, printable

STEP_PERCENT = 5
STEP_SECONDS = 15.0
RATE_WINDOW_SECONDS = 10.0
SETTLE_SECONDS = 5.0  # before that a rate says nothing, and an estimate misleads

BOLD, RED, YELLOW, GREEN, PLAIN = "\033[1m", "\033[31m", "\033[33m", "\033[32m", "\033[0m"


@dataclass(slots=True)
class _Progress:
    """What the lines of one run of progress events need to know."""

    phase: str
    total: int
    started: float
    printed_at: float
    printed_percent: int = 0
    last_done: int = 0
    samples: deque[tuple[float, int]] = field(default_factory=deque)


class PlainConsole:
    """An Emit. A console that is gone, or cannot show a character, never ends a restore."""

    def __init__(self, stream: TextIO, verbose: bool = False) -> None:
        self._stream = stream
        self._verbose = verbose
        self._colour = _has_colour(stream)
        self._progress: _Progress | None = None
        self._gone = False

    def __call__(self, event: Event) -> None:
        text = printable(event.text)
        match event.kind:
            case "phase-start":
                self._progress = None
                self._line(f"== {event.phase}: {text}", BOLD)
            case "phase-end":
                self._end(event, "   ")
            case "step-start":
                self._progress = None
                self._line(f"   {text}")
            case "step-end" if self._verbose or event.code == "failed":
                self._end(event, "     ")
            case "progress":
                self._show_progress(event)
            case "warning":
                self._line(f"WARNING: {text}", YELLOW)
            case "error":
                self._line(f"ERROR [{printable(event.code)}]: {text}", RED)
            case "result":
                self._line(f"** {text}", GREEN if event.code == "done" else RED)
            case "message":
                self._line(f"   {text}")
            case _ if self._verbose:
                self._line(f"   {printable(event.kind)}: {text}")

    def _end(self, event: Event, indent: str) -> None:
        self._progress = None
        if event.code == "failed":
            self._line(f"{indent}{printable(event.phase)} failed after {duration_text(event.seconds)}", RED)
        else:
            self._line(f"{indent}done in {duration_text(event.seconds)}")

    def _show_progress(self, event: Event) -> None:
        now = _seconds(event.time)
        progress = self._progress
        if (
            progress is None
            or (progress.phase, progress.total) != (event.phase, event.total)
            or event.done < progress.last_done
        ):
            progress = self._progress = _Progress(event.phase, event.total, now, now)
        progress.last_done = event.done
        progress.samples.append((now, event.done))
        while len(progress.samples) > 2 and now - progress.samples[0][0] > RATE_WINDOW_SECONDS:
            progress.samples.popleft()
        percent = min(100, event.done * 100 // event.total) if event.total > 0 else 0
        due = percent // STEP_PERCENT > progress.printed_percent // STEP_PERCENT
        if due or now - progress.printed_at >= STEP_SECONDS:
            progress.printed_at, progress.printed_percent = now, percent
            self._line(_progress_line(event, progress, now, percent))

    def _line(self, text: str, colour: str = "") -> None:
        if self._gone:
            return
        if colour and self._colour:
            text = f"{colour}{text}{PLAIN}"
        try:
            encoding = self._stream.encoding or "ascii"
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # a terminal that hung up, a pipe nobody reads, a closed stream
            self._gone = True


def _progress_line(event: Event, progress: _Progress, now: float, percent: int) -> str:
    """``40 %  123.4 MB of 310.0 MB, 61.7 MB/s, 3.0 s left``."""
    in_bytes = event.unit in ("", "bytes")
    amount = amount_text if in_bytes else _count
    parts = [f"{amount(event.done)} of {amount(event.total)}" if event.total > 0 else amount(event.done)]
    if not in_bytes:
        parts[0] += f" {printable(event.unit)}"
    (first_time, first_done), (last_time, last_done) = progress.samples[0], progress.samples[-1]
    rate = (last_done - first_done) / (last_time - first_time) if last_time > first_time else 0.0
    if in_bytes and rate > 0:
        parts.append(f"{rate / 1e6:.1f} MB/s")
    if event.total > event.done:
        if now - progress.started < SETTLE_SECONDS:
            parts.append("time left: calculating")
        elif rate > 0:
            parts.append(f"{duration_text((event.total - event.done) / rate)} left")
        else:
            parts.append(f"no progress for {duration_text(last_time - first_time)}")
    head = f"   {percent:3d} %" if event.total > 0 else "  "
    text = f" {printable(event.text)}:" if event.text else ""
    return f"{head}{text} {', '.join(parts)}"


def _count(number: int) -> str:
    return f"{number:,}"


def _seconds(time: str) -> float:
    """The event's time as seconds; 0 where a part has not stamped it."""
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return 0.0


def _has_colour(stream: TextIO) -> bool:
    try:
        terminal = stream.isatty()
    except ValueError:
        return False
    return terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM", "dumb") not in ("dumb", "vt100")
