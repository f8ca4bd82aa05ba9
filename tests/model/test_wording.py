from __future__ import annotations

import pytest

from agent.model.wording import duration_text, printable, size_text, well_formed


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (256 * 10**9, "238.4 GiB"), (2**30 - 1, "1.0 GiB"),
     (6 * 2**30, "6.0 GiB"), (3 * 2**40, "3.0 TiB"), (2**60, "1024.0 PiB")],
)  # fmt: skip
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(("seconds", "text"), [(3.21, "3.2 s"), (61, "1 min 01 s"), (7500, "2 h 05 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_what_a_terminal_would_obey_is_escaped() -> None:
    assert printable("a\x1b[31m\n\t\x9b\u202e\u2028\udc80é") == "a\\x1b[31m\\n\\t\\x9b\\u202e\\u2028\\x80é"
    assert printable("x" * 3000, limit=10) == "x" * 10 + "…"


def test_well_formed_text_keeps_what_json_can_carry() -> None:
    assert well_formed("a\x1b\né") == "a\x1b\né"
    assert well_formed("\udcff") == "\\xff"
