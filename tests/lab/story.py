"""What the lab does with machines: capture a disk through the PE, restore an image, boot the result."""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.lab.machine import Disk, Machine, disk_serial
from tests.lab.medium import medium_for
from tests.lab.programs import LabError
from tests.lab.running import RunningMachine
from tests.lab.serving import Served

PE_PATIENCE_S = 1500.0  # emulated, on a loaded build server
BOOT_PATIENCE_S = 420.0
RESULT = r"RESULT (\S+)(?: (.*?))? exit (\d+)"


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore left behind."""

    report: dict[str, Any]
    result: str
    exit_code: int
    stages: dict[str, float]  # seconds
    job: dict[str, Any]

    @property
    def good(self) -> bool:
        return self.exit_code == 0


@dataclass(frozen=True, slots=True)
class RestoreOrder:
    image: str
    machine: Machine
    iso: Path
    keep: Path
    mode: str = "restore"
    selector: str = ""  # "": the serial of the first disk
    arrays: str = ""  # keep: every disk of the machine is written, with a member of the image's arrays
    label: str = "restore"
    patience_s: float = PE_PATIENCE_S
    passphrase: str = ""  # of encrypted devices: the job carries it
    watch: Callable[[RunningMachine], None] | None = field(default=None, compare=False)


def identified(machine: Machine) -> Machine:
    """With a system UUID: the one of its SMBIOS, or a new one."""
    if machine.smbios.uuid:
        return machine
    return replace(machine, smbios=replace(machine.smbios, uuid=str(uuid.uuid4())))


def target_selector(machine: Machine) -> str:
    if machine.disks[0].bus == "sdhci":  # QEMU's cards all have the same serial
        return "name=mmcblk0"
    return f"serial={disk_serial(machine, 0)}"


def across_disks(order: RestoreOrder, machine: Machine) -> dict[str, Any]:
    """What a job says beside the first disk, where arrays are kept."""
    also = [f"serial={disk_serial(machine, number)}" for number in range(1, len(machine.disks))]
    return {"also": also, "arrays": order.arrays} if order.arrays else {}


def restore(order: RestoreOrder, served: Served) -> Restored:
    """Queue the job for this machine, boot the PE on it, and wait until it has powered off."""
    order.keep.mkdir(parents=True, exist_ok=True)
    machine = identified(order.machine)
    job = served.call(
        "POST",
        "jobs",
        {
            "match": {"system_uuid": machine.smbios.uuid},
            "image": order.image,
            "disk": order.selector or target_selector(machine),
            **across_disks(order, machine),
            "mode": order.mode,
            "on_success": "poweroff",
            **({"luks_keys": [{"passphrase": order.passphrase}]} if order.passphrase else {}),
        },
    )
    medium = medium_for(served, order.iso, order.keep / f"{order.label}.iso", {"task": "restore", "mode": order.mode})
    stages: dict[str, float] = {}
    with RunningMachine(replace(machine, medium=medium), order.keep, order.label) as vm:
        found, stages = follow_pe(vm, order.patience_s)
        if order.watch:
            order.watch(vm)
        stages["power-off"] = vm.wait_end(120)
    medium.unlink()
    job = served.call("GET", f"jobs/{job['id']}")
    report: dict[str, Any] = served.call("GET", f"jobs/{job['id']}/report") if job.get("has_report") else {}
    (order.keep / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return Restored(report, found[1], int(found[3]), stages, job)


def follow_pe(vm: RunningMachine, patience_s: float) -> tuple[re.Match[str], dict[str, float]]:
    """Until the agent says its result; seconds since power-on of the kernel's first line, and of the result."""
    stages = {}
    vm.console.expect(r"Linux version|Regraft PE|PE-EVENT", timeout_s=300)
    stages["kernel"] = vm.seconds()
    found = vm.console.expect(RESULT, timeout_s=patience_s)
    stages["result"] = vm.seconds()
    return found, stages


def boot_restored(machine: Machine, keep: Path, label: str = "restored", patience_s: float = BOOT_PATIENCE_S) -> float:
    """Boot what was restored, without the medium; seconds from power-on to the login prompt."""
    with RunningMachine(identified(machine.without_medium()), keep, label) as vm:
        vm.console.expect(r"login: ", timeout_s=patience_s)
        seconds = vm.seconds()
        vm.power_button()
        vm.wait_end(180)
    return seconds


def capture_disk(
    machine: Machine, name: str, iso: Path, keep: Path, served: Served, patience_s: float = PE_PATIENCE_S,
    *, passphrase: str = "",
) -> str:  # fmt: skip
    """Capture a disk that does not run: NAME@TIME of the image. The disk is attached so that nothing can be written.

    ``passphrase``: of its encrypted devices, typed at the PE's console when it asks, and never shown there.
    """
    keep.mkdir(parents=True, exist_ok=True)
    before = set(images(served.depot))
    machine = replace(machine, disks=(replace(machine.disks[0], discard_writes=True), *machine.disks[1:]))
    writing = replace(served, agent_token=served.write_token)
    settings: dict[str, str | bool] = {"task": "capture", "name": name, "disk": target_selector(machine)}
    if passphrase:
        settings["unattended"] = False
    medium = medium_for(writing, iso, keep / "capture.iso", settings)
    with RunningMachine(replace(identified(machine), medium=medium), keep, "capture") as vm:
        if passphrase:
            vm.console.expect(r"Passphrase for [^\n]*: ?", timeout_s=patience_s)
            vm.console.send(passphrase + "\n")
            found = vm.console.expect(RESULT, timeout_s=patience_s)
            if passphrase in vm.console.seen:
                raise LabError("the console of the live system shows the passphrase that was typed")
        else:
            found, _ = follow_pe(vm, patience_s)
        vm.wait_end(120)
    medium.unlink()
    new = sorted(set(images(served.depot)) - before)
    if found[3] not in ("0", "3") or len(new) != 1:
        raise LabError(
            f"the capture of {name} ended with ‘{found[0]}’ and left {len(new)} new images, expected 1; "
            f"see {keep / 'capture-serial.log'}"
        )
    return new[0]


def images(depot: Path) -> list[str]:
    """NAME@TIME of what lies in the depot; read from its files, so that a wrong catalogue shows."""
    return sorted(f"{path.parts[-3]}@{path.stem}" for path in depot.glob("machines/*/images/*.json"))


def manifest(depot: Path, image: str) -> dict[str, Any]:
    name, _, moment = image.partition("@")
    found: dict[str, Any] = json.loads((depot / "machines" / name / "images" / f"{moment}.json").read_text())
    return found


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def other_disk(path: Path, size_bytes: int = 2 << 30) -> Disk:
    """A disk that belongs to somebody: it must come out as it went in."""
    with path.open("wb") as image:
        image.truncate(size_bytes)
        for place in range(0, size_bytes, size_bytes // 16):
            image.seek(place)
            image.write(f"somebody's data at {place}\n".encode() * 4096)
    return Disk("ahci", path=path, serial="KEEPTHIS0001")


def stopwatch() -> Callable[[], float]:
    """Each call: seconds since the one before."""
    last = time.monotonic()

    def lap() -> float:
        nonlocal last
        now = time.monotonic()
        seconds, last = now - last, now
        return seconds

    return lap
