"""A report as one HTML file that needs nothing else: to print, to hand over, to keep. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agent.console.html import document, facts_of, light_text, table_of, text_of
from agent.console.report_text import change_text, evidence_text, handled_text, headline, in_order, rate_text
from agent.model.difference import light_of
from agent.model.report import Report
from agent.model.wording import amount_text, duration_text, size_text

SIGNS = {
    "restored-and-verified": ("good", "✔"),
    "restored-with-warnings": ("warn", "⚠"),
    "failed": ("bad", "✘"),
    "would-restore": ("good", "✔"),
    "would-restore-with-warnings": ("warn", "⚠"),
    "would-stop": ("bad", "✘"),
}


def report_html(report: Report) -> str:
    """The whole document."""
    look, sign = SIGNS.get(report.result, ("bad", "?"))
    title = f"{report.image} on {report.target_product or 'a machine'}"
    body = [
        f'<h1 class="{look}">{sign} {text_of(headline(report))}</h1>',
        f'<p class="bad">{text_of(report.error)}</p>' if report.error else "",
        *(f'<p class="bad">{text_of(f"[{stop.code}] {stop.message}")}</p>' for stop in report.stops),
        _facts(report),
        "<h2>Difference</h2>",
        table_of(("", "tier", "op", "what", "from → to", "why", "evidence", "handled by"), _difference_rows(report)),
        "<h2>Adaptations</h2>",
        table_of(("result", "tier", "recipe", "changed", "checks"), (
            (r.result, r.tier, r.id, "\n".join(r.changed), "\n".join(r.checks)) for r in report.recipes)),
        "<h2>Checks</h2>",
        table_of(("", "check", "detail"), (("✔ ok" if c.ok else "✘ FAILED", c.name, c.detail) for c in report.checks)),
        "<h2>Stages</h2>",
        table_of(("stage", "time", "data", "rate"), (
            (s.name, duration_text(s.seconds), amount_text(s.bytes) if s.bytes else "", rate_text(s))
            for s in report.stages)),
        f"<h2>Changed files ({len(report.changed_paths)})</h2>",
        "<details><summary>Everything that differs from the image</summary><pre>",
        "\n".join(text_of(path) for path in report.changed_paths),
        "</pre></details>",
    ]  # fmt: skip
    return document(f"{headline(report)}: {title}", body)


def _facts(report: Report) -> str:
    facts: Sequence[tuple[str, str]] = (
        ("Machine", f"{report.target_vendor} {report.target_product}".strip()),
        ("Serial, UUID", f"{report.target_serial or '–'}, {report.target_uuid or '–'}"),
        ("Image", f"{report.image}, mode {report.mode}"),
        ("Disk", report.disk),
        ("Held before", report.disk_held or "nothing that is recognised"),
        ("Not touched", "\n".join(report.untouched) or "there was no other disk"),
        ("Components", "\n".join(report.components) or "none"),
        ("Edited by the operator", "\n".join(report.edits) or "nothing"),
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
    return facts_of(facts)


def _difference_rows(report: Report) -> Iterable[Sequence[str]]:
    for item in in_order(report.difference):
        yield (
            light_text(light_of(item)), item.tier, item.op, f"{item.kind}\n{item.key}", change_text(item), item.reason,
            evidence_text(item), handled_text(item),
        )  # fmt: skip
