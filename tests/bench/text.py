"""A bench for a terminal: a table of all rows with bars, the ratios, what was left out."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from tests.bench.values import GB, Bench, Row

BAR_CHARS = 24
MIB = 1 << 20
SHARES = ("depot_size", "second_machine_share", "reset_share")  # of sizes or times: below 1 is less


def table(result: Bench) -> str:
    lines = [*head(result), ""]
    for (scenario, data), rows in grouped(result.rows).items():
        lines += [*section(scenario, data, rows), ""]
    if result.growth:
        lines += ["growth, by which power of the amount (1 is linear, below is better)"]
        lines += [f"  {name:<64} {power:5.2f}" for name, power in result.growth.items()]
        lines.append("")
    lines += ["ratios (of two times: the peer’s over ours, above 1 we are faster)"]
    lines += [f"  {name:<32} {said(name, value)}" for name, value in result.ratios.items() if value is not None]
    if result.more_ratios:
        lines += ["each peer", *(f"  {name:<32} {said(name, value)}" for name, value in result.more_ratios.items())]
    if absent := [name for name, value in result.ratios.items() if value is None]:
        lines += ["no figures for", *textwrap.wrap(", ".join(absent), 110, initial_indent="  ", subsequent_indent="  ")]
    if result.failures:
        lines += ["", "FAILED", *(f"  {one}" for one in result.failures)]
    if result.left_out:
        lines += ["", "not measured"]
        lines += [f"  {one.what}: {brief(one.why)}" for one in result.left_out]
    return "\n".join(lines)


def head(result: Bench) -> Iterator[str]:
    machine = result.machine
    yield f"{machine['processor']}, {machine['processors']} processors, {machine['memory_mib']} MiB of memory"
    for one in result.data:
        yield f"{one.name}: {one.bytes / GB:.2f} GB in {one.entries:,} entries ({one.how})"
    yield f"medians of {result.settings['rounds']} rounds, in turn; ✓ checks what it reads"


def grouped(rows: tuple[Row, ...]) -> dict[tuple[str, str], list[Row]]:
    """Rows of one scenario and data set; the steps of growth stand together."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.scenario, "" if is_step(row) else row.data), []).append(row)
    return found


def is_step(row: Row) -> bool:
    return row.scenario.startswith(("growth", "listing"))


def section(scenario: str, data: str, rows: list[Row]) -> Iterator[str]:
    yield (
        f"{scenario + (f' ({data})' if data else ''):<34} {'seconds':>8} {'(range)':>15} {'CPU s/GB':>9} {'MiB':>6} "
        f"{'stored MiB':>11}"
    )
    most_rounds = max(row.rounds for row in rows)
    longest = max(row.seconds for row in rows) or 1.0
    for row in sorted(rows, key=lambda one: 0.0 if is_step(one) else one.seconds):
        name = f"{row.contestant}, {row.data}" if is_step(row) else row.contestant
        if row.rounds < most_rounds and not is_step(row):
            name += f" ({row.rounds} round)"
        spread = f"{row.fastest:.2f}–{row.slowest:.2f}"
        yield (
            f"  {name:<30} {'✓' if row.checks else ' '} {row.seconds:8.2f} {spread:>15} "
            f"{row.processor_seconds_per_gb:9.2f} {row.peak_mib:6.0f} {row.stored_bytes / MIB:11.1f} "
            f"{'█' * max(1, round(row.seconds / longest * BAR_CHARS))}"
        )


def brief(why: str) -> str:
    """The first line, and the last that says something: programs give their reason at the end."""
    lines = [line.strip() for line in why.splitlines() if line.strip()]
    return lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"


def said(name: str, value: float) -> str:
    if name == "agent_peak_mib":
        return f"{value:7.1f} MiB"
    return f"{value:7.3f}{'  (a share: below 1 is less)' if name.startswith(SHARES) else ''}"
