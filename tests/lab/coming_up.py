"""Whether a machine comes up, and where it does not, what it shows of why: one that is silent may only be slow."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from tests.lab.machine import Machine, nic_mac, nic_network
from tests.lab.programs import LabError
from tests.lab.proof import forwarded
from tests.lab.reaching import ASKS
from tests.lab.running import RunningMachine
from tests.lab.source import ADDRESS, PASSWORD
from tests.lab.ssh import Ssh

LOGIN = "login: "
# Where one ends that finds no disk, no root or no loader: firmware, GRUB, the initramfs and systemd each in its words.
GIVES_UP = (
    r"\(initramfs\)|Kernel panic|Entering emergency mode|error: no such device|grub rescue>|No bootable device|"
    r'starting Boot[0-9A-F]+ "EFI Internal Shell"'
)


@dataclass(frozen=True, slots=True)
class Seen:
    up: bool
    words: str
    why: str = ""  # what showed that it is not up; "" where it is, or where nothing was shown

    @property
    def is_down(self) -> bool:
        return not self.up and bool(self.why)


def seen_of(machine: Machine, keep: Path, key: Path, label: str, patience_s: float, *, passphrase: str = "") -> Seen:
    """Boot the machine and try to reach it on its address."""
    machine, ssh_port, _ = forwarded(machine)
    with RunningMachine(machine, keep, label) as vm:
        try:
            found = vm.console.expect(LOGIN, ASKS, GIVES_UP, timeout_s=patience_s)[0]
            if passphrase and re.fullmatch(ASKS, found):
                vm.console.send(passphrase + "\n")
                found = vm.console.expect(LOGIN, GIVES_UP, timeout_s=patience_s)[0]
        except LabError as error:
            return Seen(False, f"no login prompt, and no word of why: {str(error).splitlines()[0]}")
        if found != LOGIN:
            return Seen(False, f"it stopped at ‘{found}’", found)
        seconds = vm.seconds()
        try:
            Ssh(ssh_port, key).wait(60)
        except LabError:
            why = misplaced(addresses(vm), machine)
            return Seen(False, f"a login prompt after {seconds:.1f} s, but ssh does not answer: {why or 'why?'}", why)
        return Seen(True, f"login after {seconds:.1f} s, ssh answers")


def addresses(vm: RunningMachine) -> str:
    """What a person at its console is told of the cards: JSON of iproute2."""
    vm.console.send("\n")
    vm.login("root", PASSWORD)
    vm.command("dmesg --console-off")
    _, said = vm.command("ip -json address")
    return said


def misplaced(said: str, machine: Machine) -> str:
    """Where the address of the source is, if it is not on the card at the lab's network; else ""."""
    found = re.search(r"^\[.*\]\s*$", said, re.MULTILINE)
    if not found:
        return ""
    holders = [
        card["address"]
        for card in json.loads(found[0])
        if any(info.get("local") == ADDRESS for info in card.get("addr_info", ()))
    ]
    wanted = [nic_mac(machine, number) for number in range(len(machine.nics)) if nic_network(machine, number) == 0]
    if set(wanted) & set(holders):
        return ""
    return f"{ADDRESS} is on {', '.join(holders) or 'no card'}, and not on {', '.join(wanted)}"
