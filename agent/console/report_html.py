"""A report as one HTML file that needs nothing else: to print, to hand over, to keep. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from agent.console.report_text import change_text, handled_text, headline, in_order, rate_text
from agent.model.report import Report
from agent.model.wording import amount_text, duration_text, printable, size_text

STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}
h1{padding:.6rem 1rem;border:3px solid;border-radius:.4rem}
h1.good{color:#0b5d1e}h1.warn{color:#7a4a00}h1.bad{color:#a10000}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}
th,td{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid #ccc;overflow-wrap:anywhere}
td.number{text-align:right;white-space:nowrap}
code{font-size:90%}.bad{color:#a10000;font-weight:bold}
@media print{body{margin:0;max-width:none;font-size:11px}tr{break-inside:avoid}}
"""
SIGNS = {"restored-and-verified": ("good", "✔"), "restored-with-warnings": ("warn", "⚠"), "failed": ("bad", "✘")}


def report_html(report: Report) -> str:
    """The whole document."""
    look, sign = SIGNS.get(report.result, ("bad", "?"))
    title = f"{report.image} on {report.target_product or 'a machine'}"
    body = [
        f'<h1 class="{look}">{sign} {_text(headline(report))}</h1>',
        f'<p class="bad">{_text(report.error)}</p>' if report.error else "",
        _facts(report),
        "<h2>Difference</h2>",
        _table(("", "op", "what", "from → to", "why", "handled by"), _difference_rows(report)),
        "<h2>Adaptations</h2>",
        _table(("result", "tier", "recipe", "changed", "checks"), (
            (r.result, r.tier, r.id, "\n".join(r.changed), "\n".join(r.checks)) for r in report.recipes)),
        "<h2>Checks</h2>",
        _table(("", "check", "detail"), (("✔ ok" if c.ok else "✘ FAILED", c.name, c.detail) for c in report.checks)),
        "<h2>Stages</h2>",
        _table(("stage", "time", "data", "rate"), (
            (s.name, duration_text(s.seconds), amount_text(s.bytes) if s.bytes else "", rate_text(s))
            for s in report.stages)),
        f"<h2>Changed files ({len(report.changed_paths)})</h2>",
        "<details><summary>Everything that differs from the image</summary><pre>",
        "\n".join(_text(path) for path in report.changed_paths),
        "</pre></details>",
    ]  # fmt: skip
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{_text(headline(report))}: {_text(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body></html>\n"
    )


def _facts(report: Report) -> str:
    facts: Sequence[tuple[str, str]] = (
        ("Machine", f"{report.target_vendor} {report.target_product}".strip()),
        ("Serial, UUID", f"{report.target_serial or '–'}, {report.target_uuid or '–'}"),
        ("Image", f"{report.image}, mode {report.mode}"),
        ("Disk", report.disk),
        ("Held before", report.disk_held or "nothing that is recognised"),
        ("Not touched", "\n".join(report.untouched) or "there was no other disk"),
        ("Components", "\n".join(report.components) or "none"),
        ("Recipes of the site", "\n".join(report.site_recipes) or "none"),
        ("Warnings", "\n".join(report.warnings) or "none"),
        ("Data", f"{amount_text(report.bytes_fetched)} fetched, {amount_text(report.bytes_written)} written, "
                 f"{amount_text(report.bytes_read_back)} read back, "
                 f"{amount_text(report.bytes_trusted)} trusted, {report.mismatches} mismatches"),
        ("Memory", f"{size_text(report.peak_memory_bytes)} at most"),
        ("Time", f"{report.started} to {report.ended}"),
        ("Program", report.tool),
        ("Plan", report.plan_sha256),
        ("Manifest", report.manifest_sha256),
    )  # fmt: skip
    rows = "".join(f'<tr><th scope="row">{_text(name)}</th><td>{_lines(value)}</td></tr>' for name, value in facts)
    return f"<table>{rows}</table>"


def _difference_rows(report: Report) -> Iterable[Sequence[str]]:
    for item in in_order(report.difference):
        yield item.tier, item.op, f"{item.kind}\n{item.key}", change_text(item), item.reason, handled_text(item)


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{_text(header)}</th>' for header in headers)
    body = "".join("<tr>" + "".join(f"<td>{_lines(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if body else "<p>none</p>"


def _lines(text: str) -> str:
    return "<br>".join(_text(line) for line in text.split("\n"))


def _text(text: str) -> str:
    return escape(printable(text))
