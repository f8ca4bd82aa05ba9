from __future__ import annotations

import io
import json
from datetime import UTC, datetime

from agent.console.jsonlines import JsonLines
from agent.console.plain import PlainConsole
from agent.model.events import Event


def event(kind: str, second: float = 0.0, **fields: object) -> Event:
    time = datetime.fromtimestamp(1_790_000_000 + second, UTC).isoformat().replace("+00:00", "Z")
    return Event(seq=1, time=time, kind=kind, **fields)  # type: ignore[arg-type]


def shown(*events: Event, verbose: bool = False) -> list[str]:
    stream = io.StringIO()
    console = PlainConsole(stream, verbose)
    for each in events:
        console(each)
    return stream.getvalue().splitlines()


def progress(second: float, done: int, total: int = 1_000_000_000, unit: str = "bytes") -> Event:
    return event("progress", second, phase="write", done=done, total=total, unit=unit)


def test_a_phase_is_told_with_its_start_and_its_seconds() -> None:
    lines = shown(
        event("phase-start", phase="write", text="Writing the volumes"),
        event("phase-end", phase="write", code="done", seconds=3.21),
    )
    assert lines == ["== write: Writing the volumes", "   done in 3.2 s"]


def test_a_failed_phase_does_not_say_done() -> None:
    assert shown(event("phase-end", phase="write", code="failed", seconds=61)) == ["   write failed after 1 min 01 s"]


def test_progress_is_one_line_per_five_percent() -> None:
    lines = shown(*(progress(i / 10, i * 10_000_000) for i in range(101)))
    assert len(lines) == 20
    assert lines[0] == "     5 % 50.0 MB of 1.00 GB, 100.0 MB/s, time left: calculating"
    assert lines[11] == "    60 % 600.0 MB of 1.00 GB, 100.0 MB/s, 4.0 s left"
    assert lines[-1] == "   100 % 1.00 GB of 1.00 GB, 100.0 MB/s"


def test_slow_progress_is_told_every_fifteen_seconds_and_a_stall_is_named() -> None:
    lines = shown(*(progress(second, 1_000_000) for second in range(0, 46, 5)))
    assert len(lines) == 3
    assert lines[-1] == "     0 % 1.0 MB of 1.00 GB, no progress for 10.0 s"


def test_progress_without_total_and_in_other_units() -> None:
    assert shown(progress(0, 5, 0, "entries"), progress(20, 1200, 0, "entries")) == ["   1,200 entries"]


def test_nothing_is_redrawn_or_coloured_outside_a_terminal() -> None:
    stream = io.StringIO()
    console = PlainConsole(stream)
    for each in (event("error", text="bad", code="refused"), progress(0, 0), progress(1, 10**9)):
        console(each)
    assert "\r" not in stream.getvalue()
    assert "\033" not in stream.getvalue()


def test_control_characters_cannot_steer_the_terminal() -> None:
    (line,) = shown(event("message", text="disk \033[2J\r\nERROR: \u202egnp \x9b1m \udcff"))
    assert line == "   disk \\x1b[2J\\r\\nERROR: \\u202egnp \\x9b1m \\xff"


def test_a_stream_that_cannot_show_a_character_still_shows_the_line() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    PlainConsole(stream)(event("warning", text="Größe 12 µ"))
    assert raw.getvalue() == b"WARNING: Gr\\xf6\\xdfe 12 \\xb5\n"


def test_a_console_that_is_gone_does_not_end_the_run() -> None:
    class HungUp(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    console = PlainConsole(HungUp())
    console(event("message", text="one"))
    console(event("message", text="two"))
    closed = io.StringIO()
    console = PlainConsole(closed)
    closed.close()
    console(event("message", text="three"))


def test_steps_are_ended_in_words_only_when_asked_or_failed() -> None:
    end = event("step-end", phase="patch", code="done", seconds=1)
    assert shown(end) == []
    assert shown(end, verbose=True) == ["     done in 1.0 s"]
    assert shown(event("step-end", phase="patch", code="failed", seconds=1)) == ["     patch failed after 1.0 s"]


def test_json_lines_are_json_in_ascii_whatever_the_text() -> None:
    stream = io.StringIO()
    JsonLines(stream)(event("message", text="Größe\n\udcff \033"))
    (line,) = stream.getvalue().splitlines()
    assert line.isascii()
    fields = json.loads(line)
    assert fields["kind"] == "message"
    assert fields["text"] == "Größe\n\\xff \033"
