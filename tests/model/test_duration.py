"""Spans of time in words."""

from __future__ import annotations

import pytest

from agent.errors import UsageError
from agent.model.duration import seconds_of, span_text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("0h", 0), ("90min", 5400), ("36h", 129_600), ("7d", 604_800), ("1w2d", 777_600), ("1y", 31_536_000)],
)
def test_spans_are_read(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds
    assert seconds_of(span_text(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "7 d", "-1d", "7m", "1.5h", "7d ", "7days", "١d", "9999999d"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a span of time"):
        seconds_of(text)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0"), (86_400, "1d"), (129_600, "1d12h"), (61, "1min1s")])
def test_spans_are_told_exactly(seconds: int, text: str) -> None:
    assert span_text(seconds) == text
