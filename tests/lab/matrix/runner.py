"""``make matrix``: every cell that is not done yet, and what all of them say together.

    python -m tests.lab matrix [--only WORD] [--jobs 2] [--list]

A cell is done when it came out well for the same code, the same source and the same target: only others run.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from tests.lab.demo import FROZEN, ISO, UNADAPTED_ISO, pe_build
from tests.lab.matrix.captured import Captured, captured, digest_of
from tests.lab.matrix.cell import run_cell
from tests.lab.matrix.cloud import cloud_key, cloud_source
from tests.lab.matrix.install import key_of
from tests.lab.matrix.systems import SYSTEMS
from tests.lab.matrix.targets import CELLS, TARGETS, Cell
from tests.lab.needs import install_missing
from tests.lab.programs import LabError

CODE = ("agent", "pe_build", "recipes")
VALUES = ("restored", "booted", "checks", "negative_control", "second_boot")
CLOUD = "debian-12-cloud"
A_DIRECTORY = click.Path(file_okay=False, path_type=Path)


def key_of_cell(cell: Cell) -> str:
    source = cloud_key() if cell.source == CLOUD else key_of(SYSTEMS[cell.source])
    target = json.dumps([asdict(cell), asdict(TARGETS[cell.target])], default=str)
    return hashlib.sha256("\n".join((digest_of(*CODE), source, target)).encode()).hexdigest()[:16]


def code_now() -> str:
    """The same digest, read again."""
    return digest_of.__wrapped__(*CODE)


def source_named(name: str) -> Captured:
    return cloud_source() if name == CLOUD else captured(name)


def chosen(only: tuple[str, ...]) -> list[Cell]:
    return [cell for cell in CELLS if not only or any(word in cell.name for word in only)]


def result_of(cell: Cell, out: Path) -> dict[str, Any] | None:
    """What the last run of this cell left, if it was a run of this very cell."""
    try:
        found: dict[str, Any] = json.loads((out / cell.name / "cell.json").read_text())
    except FileNotFoundError:
        return None
    return found if found["key"] == key_of_cell(cell) else None


def run_all(cells: Iterable[Cell], out: Path, jobs: int) -> None:
    todo = []
    for cell in cells:
        if cell.waits_for:
            click.echo(f"{cell.name}: waits for {cell.waits_for}")
        elif (found := result_of(cell, out)) and found["good"]:
            click.echo(f"{cell.name}: done already, {found['seconds']:.0f} s")
        else:
            todo.append(cell)
    if not todo:
        return
    prepare_media()
    writing = threading.Lock()
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        for _ in pool.map(lambda cell: run_one(cell, out, writing), todo):
            pass


def prepare_media() -> None:
    click.echo(f"installed: {', '.join(install_missing()) or 'nothing was missing'}")
    pe_build("freeze", "--output", str(FROZEN))
    pe_build("iso", "--output", str(ISO))
    pe_build("iso", "--agent-entry", "tests/lab/unadapted.py", "--output", str(UNADAPTED_ISO))


def run_one(cell: Cell, out: Path, writing: threading.Lock) -> None:
    """A cell to its end, whatever that is; its result is written at once."""
    key, place = key_of_cell(cell), out / cell.name
    click.echo(f"{cell.name} …")
    try:
        outcome = run_cell(cell, TARGETS[cell.target], source_named(cell.source), place)
        if code_now() != digest_of(*CODE):
            outcome.trouble = outcome.trouble or "the code changed while this ran, and nobody knows which was tested"
        found = {**outcome.as_json(), "good": outcome.good}
    except LabError as error:  # its source could not be made
        place.mkdir(parents=True, exist_ok=True)
        found = {"source": cell.source, "target": cell.target, **dict.fromkeys(VALUES), "seconds": 0.0, "stages": {},
                 "proofs": [], "trouble": str(error), "good": False}  # fmt: skip
    (place / "cell.json").write_text(json.dumps({"key": key, **found}, indent=1, ensure_ascii=False) + "\n")
    click.echo(f"{cell.name}: {'good' if found['good'] else 'NOT GOOD'}, {found['seconds']:.0f} s")
    if found["trouble"]:
        click.echo("    " + found["trouble"].replace("\n", "\n    "))
    for proof in found["proofs"]:
        if not proof["good"]:
            click.echo(f"    FAIL {proof['name']}: {proof['found']}")
    with writing:
        write_results(out)


def results(out: Path) -> list[dict[str, Any]]:
    """Every cell of the matrix in its order, with what is known of it."""
    found = []
    for cell in CELLS:
        known = result_of(cell, out) or {"source": cell.source, "target": cell.target, **dict.fromkeys(VALUES),
                                         "seconds": None, "good": None}  # fmt: skip
        found.append({**known, "waits_for": cell.waits_for})
    return found


def write_results(out: Path) -> None:
    path = out.parent / "matrix.json"
    path.write_text(json.dumps({"format": 1, "cells": results(out)}, indent=1, ensure_ascii=False) + "\n")


def table(found: list[dict[str, Any]]) -> str:
    """Markdown; a cell that has not run for this code says so."""
    lines = [
        "| source | target | restored | booted | checks | negative control | second boot | minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    words = {True: "yes", False: "NO", None: "–"}
    for one in found:
        if one["waits_for"]:
            values, minutes = ["waits for " + one["waits_for"], *[""] * 4], ""
        elif one["good"] is None:
            values, minutes = ["not run", *[""] * 4], ""
        else:
            values, minutes = [words[one[name]] for name in VALUES], f"{one['seconds'] / 60:.0f}"
        lines.append(f"| {one['source']} | {one['target']} | {' | '.join(values)} | {minutes} |")
    return "\n".join(lines)


@click.command()
@click.option(
    "--out", default=Path("build/matrix"), show_default=True, type=click.Path(file_okay=False, path_type=Path)
)
@click.option("--only", multiple=True, metavar="WORD", help="Cells with this in SOURCE--TARGET; may be repeated.")
@click.option("--jobs", default=2, show_default=True, help="Machines that run at once.")
@click.option("--list", "listing", is_flag=True, help="Say what there is and what is known of it; run nothing.")
def main(out: Path, only: tuple[str, ...], jobs: int, listing: bool) -> None:
    """Restore every source onto other machines, boot, check, upgrade, boot again; and show what is needed for it."""
    out = out.resolve()
    cells = chosen(only)
    if not cells:
        raise click.UsageError(f"no cell has {' or '.join(only)} in its name; see --list")
    if not listing:
        run_all(cells, out, jobs)
        write_results(out)
    names = {(cell.source, cell.target) for cell in cells}
    shown = [one for one in results(out) if (one["source"], one["target"]) in names]
    click.echo(table(shown))
    sys.exit(0 if listing or all(one["good"] or one["waits_for"] for one in shown) else 1)
