"""A bench as a picture: an SVG of bars, one block a scenario, with the range of each as a line."""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape

from tests.bench.text import grouped, is_step
from tests.bench.values import Bench, Row

WIDTH, LABEL, BAR, LINE, GAP = 900, 300, 480, 20, 34
OURS, CHECKING, OTHER, INK = "#1b6ca8", "#7f8c8d", "#c0c6c9", "#222"


def svg(result: Bench) -> str:
    body: list[str] = []
    y = 30
    for (scenario, data), rows in grouped(result.rows).items():
        body.append(text(10, y, f"{scenario}{f' ({data})' if data else ''}, seconds", bold=True))
        y += LINE
        for line in bars(rows, y):
            body.append(line)
        y += LINE * len(rows) + GAP
    body.append(text(10, y, "blue: regraft; grey: checks what it reads; light grey: checks nothing"))
    y += LINE
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}" '
            'font-family="sans-serif" font-size="13">',
            f'<rect width="{WIDTH}" height="{y}" fill="#fff"/>',
            *body,
            "</svg>",
            "",
        ]
    )


def bars(rows: list[Row], y: int) -> Iterator[str]:
    longest = max(row.slowest for row in rows) or 1.0
    for row in sorted(rows, key=lambda one: 0.0 if is_step(one) else one.seconds):
        width, low, high = (value / longest * BAR for value in (row.seconds, row.fastest, row.slowest))
        colour = OURS if row.contestant.startswith("regraft") else CHECKING if row.checks else OTHER
        yield text(20, y + 14, f"{row.contestant}, {row.data}" if is_step(row) else row.contestant)
        yield f'<rect x="{LABEL}" y="{y + 3}" width="{max(width, 1):.1f}" height="14" fill="{colour}"/>'
        yield f'<path d="M{LABEL + low:.1f} {y + 10}H{LABEL + high:.1f}" stroke="{INK}"/>'
        yield text(LABEL + round(high) + 8, y + 14, f"{row.seconds:.2f}")
        y += LINE


def text(x: int, y: int, words: str, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" fill="{INK}"{weight}>{escape(words)}</text>'
