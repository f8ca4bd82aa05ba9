"""Tables in plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from agent.model.wording import printable

WIDTH = 100
NARROWEST_LAST = 24


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> str:
    """Columns as wide as they need to be; the last one takes what is left and is wrapped. ``right``: aligned so."""
    cells = [[printable(cell) for cell in row] for row in rows]
    last = len(headers) - 1
    widths = [max([len(headers[i]), *(len(row[i]) for row in cells)]) for i in range(last)]
    room = max(NARROWEST_LAST, WIDTH - sum(widths) - 2 * last)
    lines = [_line(headers, widths, right), "  ".join(["-" * width for width in widths] + ["-" * len(headers[last])])]
    for row in cells:
        first, *rest = textwrap.wrap(row[last], room) or [""]
        lines.append(_line([*row[:last], first], widths, right))
        indent = " " * (sum(widths) + 2 * last)
        lines.extend(indent + more for more in rest)
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int], right: frozenset[int]) -> str:
    padded = [
        cell.rjust(width) if i in right else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=False))
    ]
    if len(cells) - 1 in right:
        return "  ".join([*padded, cells[-1]])
    return "  ".join([*padded, cells[-1]]).rstrip()
