"""What people read before and after a restore: the difference, the plan to consent to, the report. Pure."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence

from agent.console.table import WIDTH, table
from agent.model.choices import choice_lines
from agent.model.difference import SKIPPED, Difference, Item, Light, light_of
from agent.model.plan import DiskIdentity, Plan, describe, digest
from agent.model.report import ItemResult, Report, StageTime
from agent.model.wording import amount_text, duration_text, printable, size_text

LIGHTS = {Light.RED: "RED", Light.AMBER: "amber", Light.GREEN: "green"}
MEANINGS = {Light.RED: "stops the restore", Light.AMBER: "look at it", Light.GREEN: "handled, or nothing to do"}
TIERS = ("must", "should", "later")
HEADLINES = {
    "restored-and-verified": "RESTORED AND VERIFIED",
    "restored-with-warnings": "RESTORED WITH WARNINGS",
    "failed": "FAILED",
    "would-restore": "REHEARSED: IT WOULD BE RESTORED",
    "would-restore-with-warnings": "REHEARSED: IT WOULD BE RESTORED WITH WARNINGS",
    "would-stop": "REHEARSED: IT WOULD STOP",
}
MODES = {
    "restore": "the same machine continued: its identity is kept",
    "clone": "another machine made alike: its identity is renewed",
}
CHANGED_PATHS_SHOWN = 40

AnyItem = Item | ItemResult


# --- difference ---------------------------------------------------------------------------------------------------


def difference_table(difference: Difference) -> str:
    """Every difference, what must be handled first, with its reason and who handles it."""
    head = f"difference: {printable(difference.source)} -> {printable(difference.target)}"
    if difference.items:
        head += f"\n  {counted(difference.items)}"
    else:
        return f"{head}\n  none: the target is like the source"
    text = f"{head}\n{items_table(difference.items)}"
    if difference.blockers:
        blockers = ", ".join(f"{item.id} ({printable(item.key)})" for item in difference.blockers)
        text += f"\nBLOCKED: nothing handles {blockers}"
    return text


def items_table(items: Sequence[AnyItem]) -> str:
    """Two lines an item: what changes, then why and by whom; keys and values are too long for one."""
    lines: list[str] = []
    for item in in_order(items):
        values = change_text(item)
        what = f"{item.id:>4}  {LIGHTS[light_of(item)]:<5}  {item.tier:<6}  {item.op:<6}  "
        what += f"{printable(item.kind)}: {printable(item.key)}"
        lines.append(what.rstrip())
        indent = " " * 29
        for label, value in (("", values), ("why: ", item.reason), ("by: ", handled_text(item))):
            if value:
                lines.extend(textwrap.wrap(printable(label + value), WIDTH, initial_indent=indent,
                                           subsequent_indent=indent + "  ", break_on_hyphens=False))  # fmt: skip
    return "\n".join(lines)


def counted(items: Iterable[AnyItem]) -> str:
    """``2 red (stops), 1 amber (look at it), 14 green``."""
    counts = Counter(light_of(item) for item in items)
    return ", ".join(f"{counts[light]} {light} ({means})" for light, means in MEANINGS.items() if counts[light])


def in_order(items: Iterable[AnyItem]) -> list[AnyItem]:
    """Musts first; inside a tier blocks first, then as the comparison found them."""
    return sorted(items, key=lambda item: (TIERS.index(item.tier) if item.tier in TIERS else 9, item.op != "block"))


def change_text(item: AnyItem) -> str:
    verdict = f" [{item.verdict}]" if item.verdict not in ("", "n-a") else ""
    if item.source and item.target:
        return f"{item.source} -> {item.target}{verdict}"
    return f"{item.source or item.target}{verdict}".strip()


def evidence_text(item: AnyItem) -> str:
    return "\n".join(f"{section}: {text}" for section, text in item.evidence)


def handled_text(item: AnyItem) -> str:
    if SKIPPED in item.handled_by:
        return "skipped by the operator"
    if item.handled_by:
        return ", ".join(item.handled_by)
    return "NOTHING" if item.tier == "must" or item.op == "block" else "nothing (a restore goes on without)"


# --- plan ---------------------------------------------------------------------------------------------------------


def plan_text(plan: Plan) -> str:
    """The consent screen: what is erased, what is kept, what changes, every step."""
    erased = [line for each in plan.disks for line in (disk_text(each), f"now holds: {held_text(each)}")]
    blocks: list[tuple[str, list[str]]] = [
        ("RESTORE", [f"{plan.image}", f"mode {plan.mode}: {MODES.get(plan.mode, '')}"]),
        ("ERASES", erased),
        ("KEEPS", [f"{line}: not touched" for line in plan.untouched] or ["there is no other disk"]),
        ("GROWS", [plan.grow] if plan.grow not in ("", "largest") else []),
        ("TAKES", [f"{c.id} {c.version}: {c.reason}" for c in plan.components] or ["no components"]),
        ("EDITED", list(choice_lines(plan.choices))),
        ("RECIPES", list(plan.site_recipes)),
        ("STEPS", [f"{number:2d}. {describe(step)}" for number, step in enumerate(plan.steps, 1)]),
        ("WARNING", list(plan.warnings)),
        ("PLAN", [digest(plan)]),
    ]
    return "\n".join(line for name, lines in blocks for line in _block(name, lines))


def held_text(disk: DiskIdentity) -> str:
    return disk.content or "nothing that is recognised"


def disk_text(disk: DiskIdentity) -> str:
    names = f"{disk.name}  {disk.model or 'no model name'}  {size_text(disk.size_bytes)}  serial {disk.serial or '-'}"
    place = "  ".join(text for text in (f"wwn {disk.wwn}" if disk.wwn else "", disk.by_path) if text)
    return f"{names}  {place}".rstrip()


def _block(name: str, lines: Sequence[str]) -> list[str]:
    out: list[str] = []
    for line in lines:
        head = f"{name if not out else '':<9}"
        out.extend(textwrap.wrap(printable(line), WIDTH, initial_indent=head, subsequent_indent=" " * 13,
                                 break_on_hyphens=False))  # fmt: skip
    return out


# --- report -------------------------------------------------------------------------------------------------------


def report_text(report: Report) -> str:
    """The whole report for a terminal."""
    parts = [
        "\n".join(line for name, lines in _facts(report) for line in _block(name, lines)),
        "DIFFERENCE\n" + (items_table(report.difference) if report.difference else "  none"),
        "ADAPTATIONS\n" + _recipes(report),
        "CHECKS\n" + _checks(report),
        _changed(report),
        "STAGES\n" + stages_table(report.stages),
    ]
    return "\n\n".join(part for part in parts if part)


def headline(report: Report) -> str:
    """The result in words, readable from across the room."""
    text = HEADLINES.get(report.result, report.result.upper())
    return f"{text} [{report.error_code}]" if report.error_code else text


def _facts(report: Report) -> list[tuple[str, list[str]]]:
    target = f"{report.target_vendor} {report.target_product}".strip() or "unnamed machine"
    return [
        ("RESULT", [headline(report), *([report.error] if report.error else [])]),
        ("STOPS", [f"[{stop.code}, exit {stop.exit_code}] {stop.message}" for stop in report.stops]),
        ("IMAGE", [f"{report.image} ({report.mode})"]),
        ("MACHINE", [f"{target}  serial {report.target_serial or '-'}  uuid {report.target_uuid or '-'}"]),
        ("DISK", [report.disk, f"held before: {report.disk_held or 'nothing that is recognised'}"]),
        ("KEPT", [f"{line}: not touched" for line in report.untouched]),
        ("GREW", [report.grow] if report.grow not in ("", "largest") else []),
        ("TOOK", list(report.components)),
        ("EDITED", list(report.edits)),
        ("RECIPES", list(report.site_recipes)),
        ("WARNING", list(report.warnings)),
        ("DATA", [f"{amount_text(report.bytes_fetched)} fetched, {amount_text(report.bytes_written)} written, "
                  f"{amount_text(report.bytes_read_back)} read back, "
                  f"{amount_text(report.bytes_trusted)} trusted, {report.mismatches} mismatches"]),
        ("MEMORY", [f"{size_text(report.peak_memory_bytes)} at most"]),
        ("TIME", [f"{report.started} to {report.ended}"]),
        ("PLAN", [report.plan_sha256]),
    ]  # fmt: skip


def _recipes(report: Report) -> str:
    lines = [f"  {recipe.result:<6}  [{recipe.tier}] {recipe.id}" for recipe in report.recipes]
    return "\n".join(printable(line) for line in lines) or "  none"


def _checks(report: Report) -> str:
    lines = [f"  {'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.detail}" for check in report.checks]
    return "\n".join(printable(line) for line in lines) or "  none: nothing has proved that it will boot"


def _changed(report: Report) -> str:
    paths = report.changed_paths
    if not paths:
        return "CHANGED FILES\n  none"
    lines = [f"  {printable(path)}" for path in paths[:CHANGED_PATHS_SHOWN]]
    if len(paths) > CHANGED_PATHS_SHOWN:
        lines.append(f"  … and {len(paths) - CHANGED_PATHS_SHOWN} more, all in the report's JSON")
    return f"CHANGED FILES ({len(paths)})\n" + "\n".join(lines)


def stages_table(stages: Sequence[StageTime]) -> str:
    """Stages with their seconds, data and rate, and the sum."""
    rows = [
        (stage.name, f"{stage.seconds:.1f}", amount_text(stage.bytes) if stage.bytes else "", rate_text(stage))
        for stage in stages
    ]
    total = sum(stage.seconds for stage in stages)
    rows.append(("all", f"{total:.1f}", "", duration_text(total)))
    return table(("stage", "seconds", "data", "rate"), rows, right=frozenset({1, 2}))


def rate_text(stage: StageTime) -> str:
    return f"{stage.bytes / stage.seconds / 1e6:.1f} MB/s" if stage.bytes and stage.seconds else ""
