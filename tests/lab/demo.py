"""The main job, shown: a Debian machine is captured while it runs and comes back on other hardware.

    python -m tests.lab.demo [--negative]

Uses the product as its users do: the commands, the frozen agent, the ISO. What it leaves lies in build/demo.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from tests.lab.coming_up import seen_of
from tests.lab.inventory import dump, read_disk
from tests.lab.machine import Disk, Machine, Nic, Smbios
from tests.lab.needs import install_missing
from tests.lab.programs import LabError, run
from tests.lab.proof import Check, Facts, compare_disks, facts_of, forwarded, prove_running
from tests.lab.running import RunningMachine
from tests.lab.serving import FROM_SOURCE, REPOSITORY, Served, serving
from tests.lab.source import CACHE, Source, cached_source, source_machine
from tests.lab.ssh import Ssh
from tests.lab.story import RestoreOrder, digest_of, images, manifest, other_disk, restore

NAME = "demo-source"
FROZEN = REPOSITORY / "build" / "regraft"
ISO = REPOSITORY / "build" / "regraft.iso"
UNADAPTED_ISO = REPOSITORY / "build" / "regraft-unadapted.iso"
PE_BUILD_PATIENCE_S = 1800.0


@dataclass
class Demo:
    """What the stages hand on to each other."""

    out: Path
    stages: list[tuple[str, float]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    facts: Facts | None = None
    image: str = ""
    report: dict[str, Any] = field(default_factory=dict)
    bench: str = ""

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        click.echo(f"[{len(self.stages) + 1}] {title} …")
        began = time.monotonic()
        yield
        self.stages.append((title, time.monotonic() - began))
        click.echo(f"    done in {self.stages[-1][1]:.1f} s")


def target_machine(out: Path) -> Machine:
    """Nothing of it is like the source: firmware, vendor, disk, network card; the disk is smaller, too."""
    return Machine(
        name="target",
        firmware="uefi",
        disks=(Disk("nvme", size_bytes=6 << 30, serial="NVME0001"), other_disk(out / "other.img")),
        nics=(Nic("e1000e", "52:54:00:99:00:01"),),
        memory_mib=1024,
        smbios=Smbios("Other Systems Inc.", "Workstation 9", "TGT-0001", "9d3c1f52-77aa-4e0b-8c1e-0a1b2c3d4e5f"),
    )


def tell(out: Path, negative: bool, bench: bool) -> Demo:
    demo = Demo(out)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with demo.stage("install what this host lacks"):
        installed = install_missing()
        click.echo(f"    {', '.join(installed) or 'nothing was missing'}")
    with demo.stage("freeze the agent (cached while nothing changed)"):
        pe_build("freeze", "--output", str(FROZEN))
    with demo.stage("build the source machine: Debian 12, cloud kernel, BIOS, virtio (cached)"):
        source = cached_source()
        disk = out / "source.img"
        run(["cp", "--sparse=always", source.disk, disk])
    with ExitStack() as stack:
        with demo.stage("serve the depot"):
            served = stack.enter_context(serving(out / "depot", out))
            click.echo(f"    {served.url}, directory {served.depot}")
        with demo.stage("boot the source machine and capture it while it runs"):
            capture_running(demo, source, disk, served)
        with demo.stage("add the generic kernel as a component"):
            add_kernel(served)
        with demo.stage("build the PE (cached while nothing changed)"):
            pe_build("iso", "--output", str(ISO))
        machine = target_machine(out)
        with demo.stage("restore onto other hardware: UEFI, NVMe, e1000e, a smaller disk"):
            restore_target(demo, machine, served)
    with demo.stage("compare the restored disk with the source's, file by file"):
        compare(demo, disk, out / "disk0-nvme.img")
    with demo.stage("boot the restored disk alone"):
        assert demo.facts is not None
        alone = replace(machine, disks=machine.disks[:1])
        checks, _ = prove_running(alone, out, source.key, demo.facts)
        demo.checks += checks
    if bench:
        with demo.stage("measure capture and restore against tar and squashfs, on the same data"):
            demo.bench = measure(out, source.disk)
    if negative:
        with demo.stage("negative control: the same restore without adaptation"):
            demo.checks.append(negative_control(demo, source))
    return demo


def pe_build(*words: str) -> None:
    run([sys.executable, "-m", "pe_build", *words], cwd=REPOSITORY, timeout_s=PE_BUILD_PATIENCE_S)


def capture_running(demo: Demo, source: Source, disk: Path, served: Served) -> None:
    """The frozen agent is copied into the running machine and captures it over the network."""
    machine, ssh_port, _ = forwarded(source_machine(disk))
    with RunningMachine(machine, demo.out, "source") as vm:
        vm.console.expect(r"login: ", timeout_s=420)
        click.echo(f"    login prompt after {vm.seconds():.1f} s")
        ssh = Ssh(ssh_port, source.key)
        ssh.wait(300)
        demo.facts = facts_of(ssh)
        ssh.copy_directory(FROZEN, "/opt/regraft")
        # By standard input: a token on a command line is seen by everybody who lists processes.
        command = (
            "read -r REGRAFT_TOKEN; read -r REGRAFT_TRUST; export REGRAFT_TOKEN REGRAFT_TRUST; "
            f"/opt/regraft/regraft capture --depot {served.url_for_machines} --name {NAME}"
        )
        began = time.monotonic()
        secrets = f"{served.write_token}\n{served.trust}\n".encode()
        result = ssh.run(command, stdin=secrets, timeout_s=1200, accept=None)
        (demo.out / "capture.log").write_text(result.stdout + result.stderr)
        if result.returncode:
            raise LabError(f"regraft capture ended with status {result.returncode}:\n{result.stdout}{result.stderr}")
        click.echo(f"    regraft capture: {time.monotonic() - began:.1f} s; {result.stdout.strip().splitlines()[-1]}")
        vm.power_button()
        vm.wait_end(180)
    (demo.image,) = images(served.depot)


def add_kernel(served: Served) -> None:
    """Debian's generic kernel package, as anybody downloads it."""
    package = generic_kernel()
    words = [*FROM_SOURCE, "component", "add", str(package), "--depot", served.url]
    said = run(words, cwd=REPOSITORY, environment={"REGRAFT_TOKEN": served.write_token, "REGRAFT_TRUST": served.trust})
    click.echo(f"    {said.stdout.strip()}")


def generic_kernel() -> Path:
    """The package that linux-image-amd64 stands for today; cached."""
    name = newest_kernel_name()
    place = CACHE / "packages"
    place.mkdir(parents=True, exist_ok=True)
    if not (found := sorted(place.glob(f"{name}_*.deb"))):
        run(["apt-get", "-q", "download", name], cwd=place, timeout_s=600)
        found = sorted(place.glob(f"{name}_*.deb"))
    return found[-1]


def newest_kernel_name() -> str:
    for attempt in range(2):
        said = run(["apt-cache", "depends", "--important", "linux-image-amd64"], accept=None).stdout
        names = [line.split()[-1] for line in said.splitlines() if "Depends: linux-image-" in line]
        if names:
            return names[0]
        if attempt == 0:
            run(["apt-get", "-q", "update"], timeout_s=300)
    raise LabError("apt knows no package linux-image-amd64; the demo needs Debian 12's package sources")


def restore_target(demo: Demo, machine: Machine, served: Served) -> None:
    untouched = digest_of(demo.out / "other.img")
    order = RestoreOrder(demo.image, machine, ISO, demo.out)
    result = restore(order, served)
    demo.report = result.report
    if not result.good:
        raise LabError(f"the restore ended with ‘{result.result}’ (exit {result.exit_code}): {result.job['message']}")
    for name, seconds in result.stages.items():
        click.echo(f"    {name:<12} {seconds:6.1f} s after power-on")
    same = digest_of(demo.out / "other.img") == untouched
    demo.checks.append(Check("second disk untouched", same, f"sha256 {untouched[:16]}…"))


def compare(demo: Demo, source_disk: Path, restored_disk: Path) -> None:
    """Before the first boot: what runs, writes."""
    source, restored = read_disk(source_disk), read_disk(restored_disk)
    (demo.out / "source-inventory.jsonl").write_text(dump(source))
    (demo.out / "restored-inventory.jsonl").write_text(dump(restored))
    unlike, check = compare_disks(source, restored, demo.report, manifest(demo.out / "depot", demo.image))
    for one in unlike[:40]:
        click.echo(f"    {one}")
    demo.checks.append(check)


def measure(out: Path, disk: Path) -> str:
    """The bench's own table; its figures lie beside the report."""
    words = [
        sys.executable,
        "-m",
        "tests.bench",
        "--disk",
        str(disk),
        "--rounds",
        "3",
        "--output",
        str(out / "bench.json"),
    ]
    return run(words, cwd=REPOSITORY, timeout_s=1800).stdout


def negative_control(demo: Demo, source: Source) -> Check:
    """Without adaptation it must not come up; else the proof above proves nothing."""
    pe_build("iso", "--agent-entry", "tests/lab/unadapted.py", "--output", str(UNADAPTED_ISO))
    out = demo.out / "negative"
    out.mkdir()
    machine = target_machine(out)
    with serving(demo.out / "depot", out) as served:
        result = restore(RestoreOrder(demo.image, machine, UNADAPTED_ISO, out), served)
    if not result.good:
        raise LabError(f"the negative control was not even restored: {result.job['message']}")
    seen = seen_of(replace(machine, disks=machine.disks[:1]), out, source.key, "unadapted", 240)
    return Check("negative control: unadapted it does not come up", seen.is_down, seen.words)


# --- what is told at the end --------------------------------------------------------------------------------------


def conclusion(demo: Demo) -> str:
    report = demo.report
    lines = ["", "DIFFERENCE between the source and the target, and what became of it"]
    for item in report.get("difference", ()):
        change = " -> ".join(value for value in (item["source"], item["target"]) if value)
        lines.append(f"  {item['op']:<7} {item['kind']}: {item['key']}   {change}".rstrip())
        lines.append(f"          {item['reason']} [{', '.join(item['handled_by']) or 'nothing needed'}]")
    lines += ["", "STAGES"]
    lines += [f"  {seconds:7.1f} s  {title}" for title, seconds in demo.stages]
    lines += [f"  {sum(seconds for _, seconds in demo.stages):7.1f} s  together", "", "INSIDE THE RESTORE"]
    lines += [f"  {stage['seconds']:7.1f} s  {stage['name']}" for stage in report.get("stages", ())]
    lines.append(f"  peak memory of the agent: {report.get('peak_memory_bytes', 0) / (1 << 20):.0f} MiB")
    lines += ["", "SPEED AND MEMORY against the usual tools", *(f"  {line}" for line in demo.bench.splitlines())]
    lines += ["", "PROOF"]
    lines += [f"  {'ok  ' if check.good else 'FAIL'}  {check.name}: {check.found}" for check in demo.checks]
    lines += ["", f"report: {demo.out / 'report.json'}", f"logs, depot and disks: {demo.out}"]
    return "\n".join(lines)


@click.command()
@click.option("--out", default=Path("build/demo"), show_default=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--negative", is_flag=True, help="Also show that the same restore without adaptation does not come up.")
@click.option("--bench/--no-bench", default=True, help="Measure against tar and squashfs, too.")
def main(out: Path, negative: bool, bench: bool) -> None:
    """Show the main job on virtual machines: capture a running Debian, restore it onto other hardware, prove it."""
    try:
        demo = tell(out.resolve(), negative, bench)
    except LabError as error:
        click.echo(f"demo: {error}", err=True)
        sys.exit(1)
    click.echo(conclusion(demo))
    (demo.out / "stages.json").write_text(json.dumps(dict(demo.stages), indent=1))
    sys.exit(0 if all(check.good for check in demo.checks) else 1)


if __name__ == "__main__":
    main()
