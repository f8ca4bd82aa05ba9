"""The pieces that pages are made of: escaped text, tables, one style, and the lights. Pure.

A light is told by its sign, its word and its frame, not by its colour alone; every page is one file without scripts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from agent.model.difference import Light
from agent.model.wording import printable

STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}
h1{padding:.6rem 1rem;border:3px solid;border-radius:.4rem}
h1.good{color:#0b5d1e}h1.warn{color:#7a4a00}h1.bad{color:#a10000}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}
caption{text-align:left;font-weight:bold;padding:.3rem 0}
th,td{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid #ccc;overflow-wrap:anywhere}
td.number{text-align:right;white-space:nowrap}
.light{white-space:nowrap;font-weight:bold}
.green{color:#0b5d1e}.amber{color:#7a4a00;border-left:5px dashed}.red{color:#a10000;border-left:5px solid}
code{font-size:90%}.bad{color:#a10000;font-weight:bold}
@media print{body{margin:0;max-width:none;font-size:11px}tr{break-inside:avoid}h2,caption{break-after:avoid}
details{display:block}}
"""
SIGNS = {Light.GREEN: "✔", Light.AMBER: "⚠", Light.RED: "✘"}
LOOKS = {Light.GREEN: "good", Light.AMBER: "warn", Light.RED: "bad"}


def document(title: str, body: Iterable[str]) -> str:
    """A whole page; ``body`` is markup."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{text_of(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body></html>\n"
    )


def table_of(headers: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """Cells are text; what begins with a light has its look."""
    head = "".join(f'<th scope="col">{text_of(header)}</th>' for header in headers)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    title = f"<caption>{text_of(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if body else "<p>none</p>"


def facts_of(facts: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f'<tr><th scope="row">{text_of(name)}</th><td>{lines_of(value)}</td></tr>' for name, value in facts)
    return f"<table><tbody>{rows}</tbody></table>"


def light_text(light: Light) -> str:
    return f"{SIGNS[light]} {light.value}"


def lines_of(text: str) -> str:
    return "<br>".join(text_of(line) for line in text.split("\n"))


def text_of(text: str) -> str:
    return escape(printable(text))


_LIGHT_CELLS = {light_text(light): light for light in Light}


def _cell(text: str) -> str:
    light = _LIGHT_CELLS.get(text)
    return f'<td class="light {light}">{lines_of(text)}</td>' if light else f"<td>{lines_of(text)}</td>"
