"""Files of an image in words, as ls -l has them."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from datetime import UTC, datetime

from agent.model.wording import printable


def time_text(nanoseconds: int) -> str:
    """Seconds and UTC: ``2026-11-23 20:41:40``; what a calendar does not reach as a number."""
    seconds = nanoseconds // 1_000_000_000
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s"


def ls_line(  # noqa: PLR0913 - the columns of ls
    mode: int, links: int, owner: str, group: str, size: str, mtime_ns: int, path: bytes, target: bytes | None
) -> str:
    """``mode`` with its type, as stat has it. Columns that stay aligned in most systems; nothing is cut."""
    arrow = "" if target is None else f" -> {shown(target)}"
    return (
        f"{stat.filemode(mode)} {links:>3} {printable(owner):<8} {printable(group):<8} {size:>12} "
        f"{time_text(mtime_ns)} {shown(path)}{arrow}"
    )


def owner_text(number: int, names: Mapping[int, str]) -> str:
    return names.get(number) or str(number)


def shown(name: bytes) -> str:
    """A name safe for any terminal, whatever its bytes."""
    return printable(name.decode("utf-8", "surrogateescape"), limit=65_536)
