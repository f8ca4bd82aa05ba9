"""Spans of time as people write them: ``36h``, ``7d``, ``1w2d``, ``1y``."""

from __future__ import annotations

import re

from agent.errors import UsageError

MINUTE_S = 60
HOUR_S = 60 * MINUTE_S
DAY_S = 24 * HOUR_S
# A month is no fixed span, and "m" would be read as minutes by half of all people: there is none.
UNITS_S = {"min": MINUTE_S, "h": HOUR_S, "d": DAY_S, "w": 7 * DAY_S, "y": 365 * DAY_S}
_PART = re.compile(r"([0-9]{1,6})(min|h|d|w|y)")
_WHOLE = re.compile(r"(?:[0-9]{1,6}(?:min|h|d|w|y))+")


def seconds_of(text: str) -> int:
    """``1w2d`` in seconds; ``0`` needs no unit. Raises UsageError."""
    if text == "0":
        return 0
    if not _WHOLE.fullmatch(text):
        raise UsageError(
            f"‘{text}’ is not a span of time; expected numbers with units such as 36h, 7d or 1w2d",
            "units are min, h, d, w (7 days) and y (365 days)",
        )
    return sum(int(number) * UNITS_S[unit] for number, unit in _PART.findall(text))


def span_text(seconds: int) -> str:
    """The same back, in the largest units that say it exactly: ``1w2d``; ``0`` for nothing, seconds as ``5s``."""
    parts = []
    for unit in ("y", "w", "d", "h", "min"):
        count, seconds = divmod(seconds, UNITS_S[unit])
        if count:
            parts.append(f"{count}{unit}")
    if seconds:
        parts.append(f"{seconds}s")
    return "".join(parts) or "0"
