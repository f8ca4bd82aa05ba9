"""python -m tests.lab: the lab for people. Every command ends with status 0 only if what it names came to pass."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from tests.lab.demo import main as demo
from tests.lab.machine import Forward, Machine, Nic, parse_disk, parse_nic, parse_smbios
from tests.lab.matrix.runner import main as matrix
from tests.lab.medium import ISO
from tests.lab.profiles import take_profiles
from tests.lab.programs import LabError
from tests.lab.running import RunningMachine, plain_text
from tests.lab.serving import serving
from tests.lab.source import cached_source
from tests.lab.story import (
    BOOT_PATIENCE_S,
    PE_PATIENCE_S,
    RestoreOrder,
    boot_restored,
    capture_disk,
    identified,
    restore,
)

A_PATH = click.Path(path_type=Path)
A_DIRECTORY = click.Path(file_okay=False, path_type=Path)
KEEP = Path("build/lab")
FIRMWARE = ["bios", "uefi", "uefi-secure"]


def hardware_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--smbios", default="vendor=Example,product=Metal", show_default=True,
                     help="vendor=…,product=…,serial=…,uuid=…"),
        click.option("--memory", default=1024, show_default=True, help="MiB."),
        click.option("--nic", "nics", multiple=True, help="QEMU model of a network card [,mac=…]; may be repeated."),
        click.option("--medium", default="cd", show_default=True, type=click.Choice(["cd", "usb"])),
        click.option("--firmware", default="uefi", show_default=True, type=click.Choice(FIRMWARE)),
    ):  # fmt: skip
        command = option(command)
    return command


def make_machine(disks: tuple[str, ...], options: dict[str, Any]) -> Machine:
    machine = Machine(
        name="target",
        firmware=options["firmware"],
        disks=tuple(parse_disk(text) for text in disks),
        nics=tuple(parse_nic(text) for text in options["nics"]) or (Nic("e1000e"),),
        memory_mib=options["memory"],
        smbios=parse_smbios(options["smbios"]),
        medium_kind=options["medium"],
    )
    return identified(machine)


@click.group()
def lab() -> None:
    """Virtual machines of any hardware that QEMU emulates: capture, restore and boot on them."""


@lab.command("restore")
@click.option("--depot", required=True, type=A_DIRECTORY, help="Directory of the depot; served while the lab needs it.")
@click.option("--image", required=True, help="NAME or NAME@TIME.")
@click.option("--disk", "disks", multiple=True, required=True, metavar="BUS:SIZE|BUS:PATH",
              help="The first is the target; others must stay untouched.")  # fmt: skip
@click.option("--target-disk", default="", metavar="SELECTOR", help="Default: the serial of the first disk.")
@click.option("--mode", default="restore", show_default=True, type=click.Choice(["restore", "clone"]))
@click.option("--keep", default=KEEP, show_default=True, type=A_DIRECTORY, help="Logs, report and disks stay here.")
@click.option("--iso", default=ISO, type=A_PATH, help="The PE; default: build/regraft.iso.")
@click.option("--boot/--no-boot", default=True, help="Boot what was restored, and wait for its login prompt.")
@click.option("--time-limit", default=PE_PATIENCE_S, show_default=True, help="Seconds for the PE's work.")
@hardware_options
def restore_command(
    depot: Path, image: str, disks: tuple[str, ...], target_disk: str, mode: str, keep: Path, iso: Path, boot: bool,
    time_limit: float, **options: Any,
) -> None:  # fmt: skip
    """Boot the PE on a machine, restore an image there, boot the result."""
    machine = make_machine(disks, options)
    order = RestoreOrder(image, machine, iso, keep, mode, target_disk, patience_s=time_limit)
    rows: list[tuple[str, str]] = [("machine", describe(machine))]
    with serving(depot, keep) as served:
        result = restore(order, served)
    rows += [(f"PE: {name}", f"{seconds:.1f} s") for name, seconds in result.stages.items()]
    rows += [(f"  {stage['name']}", f"{stage['seconds']:.1f} s") for stage in result.report.get("stages", ())]
    rows.append(("result", f"{result.result} (exit {result.exit_code})"))
    came_up = False
    if result.good and boot:
        rows.append(("restored system", f"login prompt after {boot_restored(machine, keep):.1f} s"))
        came_up = True
    if not result.good:
        rows.append(("error", result.report.get("error") or result.job.get("message", "")))
    rows.append(("kept", str(keep)))
    print_rows(rows)
    sys.exit(0 if result.good and (came_up or not boot) else 1)


@lab.command("capture")
@click.option("--depot", required=True, type=A_DIRECTORY, help="Directory of the depot; made when it does not exist.")
@click.option("--disk", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="The disk image; nothing is written to it.")  # fmt: skip
@click.option("--disk-bus", default="virtio", show_default=True, help="What the disk hangs on.")
@click.option("--name", required=True, help="Name of the machine in the depot.")
@click.option("--keep", default=KEEP, show_default=True, type=A_DIRECTORY, help="The log stays here.")
@click.option("--iso", default=ISO, type=A_PATH, help="The PE; default: build/regraft.iso.")
@click.option("--time-limit", default=PE_PATIENCE_S, show_default=True, help="Seconds for the PE's work.")
@hardware_options
def capture_command(
    depot: Path, disk: Path, disk_bus: str, name: str, keep: Path, iso: Path, time_limit: float, **options: Any
) -> None:
    """Attach a disk image to a machine, boot the PE there, capture the disk unmounted."""
    machine = make_machine((f"{disk_bus}:{disk.resolve()}",), options)
    with serving(depot, keep) as served:
        captured = capture_disk(machine, name, iso, keep, served, time_limit)
    click.echo(captured)


@lab.command("boot")
@click.option("--disk", "disks", multiple=True, metavar="BUS:SIZE|BUS:PATH")
@click.option("--iso", type=A_PATH, help="Boot medium.")
@click.option(
    "--forward", "forwards", multiple=True, metavar="PORT:ADDRESS:PORT", help="127.0.0.1:PORT to the machine."
)
@click.option("--expect", default="login: ", show_default=True, help="Regular expression to wait for.")
@click.option("--stay", is_flag=True, help="Then let the machine run until Ctrl-C or until it powers off.")
@click.option("--keep", default=KEEP, show_default=True, type=A_DIRECTORY, help="Logs, UEFI variables, blank disks.")
@click.option("--time-limit", default=BOOT_PATIENCE_S, show_default=True, help="Seconds to wait for --expect.")
@hardware_options
def boot_command(
    disks: tuple[str, ...], iso: Path | None, forwards: tuple[str, ...], expect: str, stay: bool, keep: Path,
    time_limit: float, **options: Any,
) -> None:  # fmt: skip
    """Boot a machine from its disks or a medium and wait for a sign of life on its serial console."""
    machine = replace(make_machine(disks, options), medium=iso, forwards=tuple(map(parse_forward, forwards)))
    with RunningMachine(machine, keep, "boot") as vm:
        vm.console.expect(expect, timeout_s=time_limit)
        click.echo(f"‘{expect}’ after {vm.seconds():.1f} s; {vm.console.log}")
        shown = 0
        while stay and vm.process.poll() is None:
            text = vm.console.seen
            click.echo(plain_text(text[shown:]), nl=False)
            shown = len(text)
            time.sleep(0.5)


@lab.command("build-source")
def build_source() -> None:
    """Build the demo's source disk, or find it in the cache."""
    source = cached_source()
    click.echo(json.dumps({"disk": str(source.disk), "key": str(source.key), "nic": source.nic_name}))


@lab.command("profiles")
@click.option("--only", multiple=True, metavar="WORD", help="Machines with this in their name; may be repeated.")
@click.option("--keep", default=KEEP, show_default=True, type=A_DIRECTORY, help="Logs stay here.")
@click.option("--iso", default=ISO, type=A_PATH, help="The PE; default: build/regraft.iso.")
def profiles_command(only: tuple[str, ...], keep: Path, iso: Path) -> None:
    """Boot the PE on virtual machines of every kind, and keep their profiles in tests/machines/virtual."""
    for path in take_profiles(iso, keep / f"profiles-{time.strftime('%Y%m%dT%H%M%S')}", only, click.echo):
        click.echo(path)


def parse_forward(text: str) -> Forward:
    match text.split(":"):
        case [host_port, address, port]:
            return Forward(int(host_port), address, int(port))
    raise LabError(f"‘{text}’ is not a forward; expected PORT:ADDRESS:PORT, such as 2222:10.77.0.50:22")


def describe(machine: Machine) -> str:
    disks = ", ".join(f"{disk.bus} {disk.path or f'{disk.size_bytes / (1 << 30):.1f} GiB'}" for disk in machine.disks)
    nics = ", ".join(nic.model for nic in machine.nics)
    return f"{machine.firmware}, {machine.memory_mib} MiB, {disks}, {nics}"


def print_rows(rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")


def main() -> None:
    try:
        lab(prog_name="python -m tests.lab")
    except LabError as error:
        click.echo(f"lab: {error}", err=True)
        sys.exit(1)


lab.add_command(demo, "demo")
lab.add_command(matrix, "matrix")

if __name__ == "__main__":
    main()
