"""One cell of the matrix: restored, booted, proved, upgraded, booted again; and the same without adaptation."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from tests.lab.coming_up import seen_of
from tests.lab.demo import ISO, UNADAPTED_ISO
from tests.lab.inventory import read_disk
from tests.lab.machine import Machine
from tests.lab.matrix.captured import Captured
from tests.lab.matrix.efi import firmware_checks
from tests.lab.matrix.repository import reinstall_boot_path, repository
from tests.lab.matrix.targets import Cell, Target
from tests.lab.programs import LabError
from tests.lab.proof import Check, compare_disks, prove_running
from tests.lab.serving import Served, serving
from tests.lab.ssh import Ssh
from tests.lab.story import Restored, RestoreOrder, manifest, restore

NEGATIVE_PATIENCE_S = 300.0


@dataclass
class Outcome:
    """What came of a cell; None where it does not apply or was not reached."""

    source: str
    target: str
    restored: bool | None = None
    booted: bool | None = None
    checks: bool | None = None
    negative_control: bool | None = None
    second_boot: bool | None = None
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    proofs: list[Check] = field(default_factory=list)
    trouble: str = ""

    @property
    def good(self) -> bool:
        asked = (self.restored, self.booted, self.checks, self.negative_control, self.second_boot)
        return not self.trouble and self.restored is True and all(value is not False for value in asked)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.stages[name] = round(time.monotonic() - began, 1)
            click.echo(f"    {self.source} on {self.target}: {name} {self.stages[name]:.0f} s")


def run_cell(cell: Cell, target: Target, source: Captured, out: Path) -> Outcome:
    """Every stage in order; the first that fails ends the cell."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    outcome = Outcome(cell.source, cell.target)
    began = time.monotonic()
    try:
        play(cell, target, source, out, outcome)
    except LabError as error:
        outcome.trouble = str(error)
    finally:
        outcome.seconds = round(time.monotonic() - began, 1)
        for path in (*out.rglob("*.img"), *out.glob("depot"), *out.glob("*/depot")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return outcome


def play(cell: Cell, target: Target, source: Captured, out: Path, outcome: Outcome) -> None:
    machine = target.machine
    shutil.copytree(source.depot, out / "depot", copy_function=shutil.copy2)
    if machine.firmware == "uefi" and source.nvram is not None:
        # A board that remembers the source's disk: its entry must be replaced, not joined.
        shutil.copy(source.nvram, out / "nvram.fd")
    with outcome.stage("restore"), serving(out / "depot", out) as served:
        result = restored_on(cell, machine, source, ISO, out, served, outcome)
    with outcome.stage("compare"):
        compare(cell, machine, source, out, result, outcome)
    with outcome.stage("first boot"):
        outcome.booted = False
        checks, _ = prove_running(
            machine, out, source.key, source.facts, passphrase=source.typed,
            while_it_runs=lambda ssh: outcome.proofs.extend(first_boot_checks(ssh, cell, machine)),
        )  # fmt: skip
        outcome.booted = True
        outcome.proofs += checks
        outcome.checks = all(check.good for check in outcome.proofs)
    with outcome.stage("second boot and upgrade"):
        outcome.second_boot = False
        upgrade(machine, source, out, outcome)
    with outcome.stage("boot after the upgrade"):
        # A new board has an empty memory: the fallback path has to be there still.
        (out / "nvram.fd").unlink(missing_ok=True)
        checks, _ = prove_running(machine, out, source.key, source.facts, "third", passphrase=source.typed)
        outcome.proofs += [replace(check, name=f"after the upgrade: {check.name}") for check in checks]
        outcome.second_boot = all(check.good for check in checks)
    if cell.arrays:
        with outcome.stage("each disk alone"):
            each_alone(machine, source, out, outcome)
    if cell.breaks:
        with outcome.stage("negative control"):
            negative(cell, machine, source, out, outcome)


def first_boot_checks(ssh: Ssh, cell: Cell, machine: Machine) -> list[Check]:
    checks = firmware_checks(ssh, machine, "debian")
    if cell.arrays:
        said = ssh.run("cat /proc/mdstat").stdout
        whole = re.search(r"\[(\d+)/\1\] \[U+\]", said) is not None
        checks.append(Check("arrays have all their members", whole, " ".join(said.split())))
    return checks


def each_alone(machine: Machine, source: Captured, out: Path, outcome: Outcome) -> None:
    """Without the other disks, and on a board that remembers nothing; what is written then is forgotten."""
    for number, disk in enumerate(machine.disks):
        (out / "nvram.fd").unlink(missing_ok=True)
        left = replace(disk, path=out / f"disk{number}-{disk.bus}.img", discard_writes=True)
        alone = replace(machine, disks=(left,))
        checks, _ = prove_running(alone, out, source.key, source.facts, f"alone{number}", passphrase=source.typed)
        outcome.proofs += [replace(check, name=f"disk {number} alone: {check.name}") for check in checks]
        outcome.second_boot = outcome.second_boot and all(check.good for check in checks)


def restored_on(
    cell: Cell, machine: Machine, source: Captured, iso: Path, keep: Path, served: Served, outcome: Outcome
) -> Restored:
    order = RestoreOrder(source.image, machine, iso, keep, arrays=cell.arrays, passphrase=source.passphrase)
    result = restore(order, served)
    if iso == ISO:
        outcome.restored = result.good
    if not result.good:
        raise LabError(f"the restore ended with ‘{result.result}’ (exit {result.exit_code}): {result.job['message']}")
    return result


def compare(cell: Cell, machine: Machine, source: Captured, out: Path, result: Restored, outcome: Outcome) -> None:
    """Before the first boot: what runs, writes."""
    for number, disk in enumerate(() if cell.arrays else machine.disks[1:], 1):
        path = out / f"disk{number}-{disk.bus}.img"
        written = path.stat().st_blocks * 512
        outcome.proofs.append(Check(f"disk {number} untouched", not written, f"{written} bytes written"))
    was = source.source_inventory()
    if was is None:
        return
    disk = machine.disks[0]
    now = read_disk(out / f"disk0-{disk.bus}.img", disk.sector_bytes)
    unlike, check = compare_disks(was, now, result.report, manifest(out / "depot", source.image))
    for one in unlike[:20]:
        click.echo(f"    {one}")
    outcome.proofs.append(check)


def upgrade(machine: Machine, source: Captured, out: Path, outcome: Outcome) -> None:
    """The second boot, and what the next update of kernel and GRUB does to it."""
    with repository(out / "repository", source.packages) as line:

        def reinstall(ssh: Ssh) -> None:
            names = reinstall_boot_path(ssh, line)
            outcome.proofs.append(Check("kernel and GRUB installed again", True, names))

        prove_running(
            machine,
            out,
            source.key,
            source.facts,
            "second",
            passphrase=source.typed,
            while_it_runs=reinstall,
        )
    shutil.rmtree(out / "repository")


def negative(cell: Cell, machine: Machine, source: Captured, out: Path, outcome: Outcome) -> None:
    """Without adaptation it must not come up; else the proof above proves nothing."""
    keep = out / "negative"
    with serving(out / "depot", keep) as served:
        restored_on(cell, machine, source, UNADAPTED_ISO, keep, served, outcome)
    seen = seen_of(machine, keep, source.key, "unadapted", NEGATIVE_PATIENCE_S, passphrase=source.typed)
    outcome.negative_control = seen.is_down
    name = f"negative control ({cell.breaks}): unadapted it does not come up"
    outcome.proofs.append(Check(name, seen.is_down, seen.words))
