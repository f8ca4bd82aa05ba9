"""Proving from outside that a restored machine is the machine: what answers, and what lies on its disk."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import requests

from tests.lab.inventory import Inventory, Unlike, differences
from tests.lab.machine import Forward, Machine
from tests.lab.programs import PATIENCE, LabError, free_port
from tests.lab.reaching import reach_login
from tests.lab.running import RunningMachine
from tests.lab.source import ADDRESS, PAGE
from tests.lab.ssh import Ssh

# What a running Debian writes between the capture and its shutdown, or what lies below its mounts of pseudo file
# systems. Each is a decision not to look: keep it short.
NOT_COMPARED = (
    r"/(dev|proc|run|sys|tmp)/.*",
    r"/var/tmp/.*",
    r"(/srv)?/lost\+found",
    r"/var/log/(wtmp|btmp|lastlog|faillog)",
    r"/var/log/journal/.*",
    r"/var/log/nginx/(access|error)\.log",
    r"/var/lib/systemd/random-seed",
    r"/var/lib/systemd/timers/stamp-.*",
    r"/var/lib/logrotate/status",
)
IGNORED = re.compile("|".join(NOT_COMPARED))


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    good: bool
    found: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What a running machine says of itself."""

    hostname: str
    machine_id: str
    host_key: str
    kernel: str
    state: str
    failed: str
    firmware: str


FACTS = (
    "hostname; cat /etc/machine-id; cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub; uname -r; "
    "systemctl is-system-running --wait; systemctl --failed --plain --no-legend | tr '\\n' ' '; echo; "
    "test -d /sys/firmware/efi && echo uefi || echo bios"
)


def facts_of(ssh: Ssh, timeout_s: float = 180) -> Facts:
    lines = [line.strip() for line in ssh.run(FACTS, timeout_s=timeout_s).stdout.splitlines()]
    if len(lines) != 7:
        raise LabError(f"the machine answered {lines}, expected seven lines")
    return Facts(*lines)


def forwarded(machine: Machine) -> tuple[Machine, int, int]:
    """The machine with its static address reachable; ports of ssh and http on 127.0.0.1."""
    ssh, http = free_port(), free_port()
    return replace(machine, forwards=(Forward(ssh, ADDRESS, 22), Forward(http, ADDRESS, 80))), ssh, http


def page(port: int, timeout_s: float = 60) -> str:
    deadline = time.monotonic() + timeout_s * PATIENCE
    while True:
        try:
            return requests.get(f"http://127.0.0.1:{port}/", timeout=15).text
        except requests.RequestException as error:
            if time.monotonic() > deadline:
                return f"no answer: {error}"
            time.sleep(1)


def prove_running(
    machine: Machine,
    keep: Path,
    key: Path,
    source: Facts,
    label: str = "restored",
    patience_s: float = 420,
    *,
    passphrase: str = "",
    while_it_runs: Callable[[Ssh], None] | None = None,
) -> tuple[list[Check], float]:
    """Boot the machine and look at it from outside; the checks, and the seconds to its login prompt."""
    machine, ssh_port, http_port = forwarded(machine)
    checks: list[Check] = []
    with RunningMachine(machine, keep, label) as vm:
        seconds = reach_login(vm, passphrase, patience_s)
        checks.append(Check("login prompt on the serial console", True, f"after {seconds:.1f} s"))
        ssh = Ssh(ssh_port, key)
        ssh.wait(patience_s / 2)
        checks.append(Check(f"ssh answers on {ADDRESS}", True, "logged in with the source's key"))
        found = facts_of(ssh)
        firmware = "bios" if machine.firmware == "bios" else "uefi"
        answer = page(http_port)
        checks += [
            Check("host name", found.hostname == source.hostname, found.hostname),
            Check("machine-id", found.machine_id == source.machine_id, found.machine_id),
            Check("ssh host key", found.host_key == source.host_key, found.host_key[-16:]),
            Check(f"http answers on {ADDRESS}", answer == PAGE, answer.strip()[:60]),
            Check("systemctl is-system-running", found.state == "running", found.state),
            Check("no failed units", not found.failed, found.failed or "none"),
            Check("firmware", found.firmware == firmware, found.firmware),
            Check("kernel", True, found.kernel),
        ]
        if while_it_runs:
            while_it_runs(ssh)
        vm.power_button()
        vm.wait_end(180)
    return checks, seconds


def compare_disks(
    source: Inventory, restored: Inventory, report: dict[str, Any], manifest: dict[str, Any]
) -> tuple[list[Unlike], Check]:
    """All entries of both, but for those that the report says were changed and that the image says it left out."""
    changed = set(report["changed_paths"])
    left_out = {entry["path"] for entry in manifest.get("excluded", ())}
    unlike = differences(source, restored, changed, lambda path: excused(path, left_out))
    compared = sum(1 for path in source if path not in changed and not excused(path, left_out))
    found = f"{compared:,} entries compared, {len(changed)} changed by adaptation, {len(unlike)} unlike"
    return unlike, Check("files and metadata equal the source's", not unlike, found)


def excused(path: str, left_out: Iterable[str]) -> bool:
    """``left_out`` are globs, in which a star crosses slashes, as the image states them."""
    return IGNORED.fullmatch(path) is not None or any(fnmatchcase(path, glob) for glob in left_out)
