"""What a running machine's UEFI firmware remembers: boot entries, and whether it checked signatures."""

from __future__ import annotations

import base64

from tests.lab.machine import Machine
from tests.lab.proof import Check
from tests.lab.ssh import Ssh

GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"  # EFI_GLOBAL_VARIABLE
DIGIT = "[0-9A-Fa-f]"
READ_ENTRIES = (
    f"for file in /sys/firmware/efi/efivars/Boot{DIGIT * 4}-{GLOBAL}; do base64 -w 0 $file; echo; done 2>/dev/null"
)
READ_SECURE = f"od -An -t u1 -j 4 /sys/firmware/efi/efivars/SecureBoot-{GLOBAL}"


def label_of(variable: bytes) -> str:
    """Of an EFI_LOAD_OPTION behind four bytes of attributes: attributes (4), length of the path (2), text in UTF-16."""
    text = variable[10:].decode("utf-16-le", errors="replace")
    return text.partition("\0")[0]


def firmware_checks(ssh: Ssh, machine: Machine, label: str) -> list[Check]:
    """One entry of this name, however many were made before; signatures checked where the machine is to check them."""
    if machine.firmware == "bios":
        return []
    said = ssh.run(READ_ENTRIES).stdout.split()
    labels = [label_of(base64.b64decode(line)) for line in said]
    checks = [Check(f"one boot entry ‘{label}’", labels.count(label) == 1, ", ".join(labels) or "no entries")]
    if machine.firmware == "uefi-secure":
        found = ssh.run(READ_SECURE).stdout.strip()
        checks.append(Check("Secure Boot", found == "1", found))
    return checks
