"""Boot entries in the firmware's memory (UEFI), by efibootmgr.

A board may have none that can be written, or forget them; the fallback path on the disk is there for that. So nothing
here ends a restore: what did not work is a warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agent.errors import RegraftError
from agent.process import ProcessError, run

EFIVARS = Path("/sys/firmware/efi/efivars")
_ENTRY = re.compile(r"^Boot([0-9A-Fa-f]{4})(\*?)\s(.*?)(?:\t(.*))?$")
_PARTITION = re.compile(r"HD\((\d+),(?:GPT,([0-9a-f-]{36})|MBR,0x([0-9a-f]{1,8}))", re.IGNORECASE)
_FILE = re.compile(r"File\(([^)]*)\)|/(\\[^\s)]*)")


@dataclass(frozen=True, slots=True)
class BootEntry:
    number: str  # four hexadecimal digits
    label: str
    partition: str  # PARTUUID in lower case, "" for entries of no partition
    loader: str = ""


def parse_entries(printed: str) -> tuple[BootEntry, ...]:
    """Entries of ``efibootmgr --verbose``; boards fill labels with anything."""
    found = []
    for line in printed.splitlines():
        match = _ENTRY.match(line)
        if match:
            number, _, label, path = match.groups()
            file = _FILE.search(path or "")
            found.append(
                BootEntry(
                    number.upper(),
                    label.strip(),
                    _part_uuid(path or ""),
                    (file[1] or file[2] or "") if file else "",
                )
            )
    return tuple(found)


def _part_uuid(path: str) -> str:
    found = _PARTITION.search(path)
    if not found:
        return ""
    number, guid, signature = found.groups()
    return guid.lower() if guid else f"{int(signature, 16):08x}-{int(number):02x}"


def stale(entries: Iterable[BootEntry], label: str, own: str, present: frozenset[str]) -> tuple[str, ...]:
    """Numbers of entries to take away: those of this partition, and those of the same label whose partition is gone."""
    return tuple(
        entry.number
        for entry in entries
        if entry.label == label and entry.partition and (entry.partition == own or entry.partition not in present)
    )


def write_entry(disk: Path, partition: int, label: str, loader: str, own: str) -> tuple[str, ...]:
    """Make the restored system the first choice of the firmware; warnings when that did not work.

    ``own``: PARTUUID of the EFI system partition; ``loader``: path on it with backslashes.
    """
    if not EFIVARS.is_dir():
        return (
            "this machine was not started by UEFI: no boot entry was made, the fallback EFI/BOOT/BOOTX64.EFI boots",
        )
    try:
        if not any(EFIVARS.iterdir()):
            run(["mount", "-t", "efivarfs", "efivarfs", EFIVARS])
        entries = parse_entries(run(["efibootmgr", "--verbose"]).stdout)
        for number in stale(entries, label, own, partitions_present()):
            run(["efibootmgr", "--quiet", "--delete-bootnum", "--bootnum", number])
        run(
            ["efibootmgr", "--quiet", "--create", "--disk", disk, "--part", str(partition), "--label", label,
             "--loader", loader]
        )  # fmt: skip
        written = parse_entries(run(["efibootmgr", "--verbose"]).stdout)
    except RegraftError as error:
        said = error.stderr.strip() if isinstance(error, ProcessError) else error.message
        return (f"no boot entry could be made ({said[-200:]}); the fallback EFI/BOOT/BOOTX64.EFI boots",)
    if not any(entry.label == label and entry.partition == own for entry in written):
        return ("the firmware did not keep the boot entry; the fallback EFI/BOOT/BOOTX64.EFI boots",)
    return ()


def partitions_present() -> frozenset[str]:
    """PARTUUIDs of every partition of this machine, read from the devices."""
    nodes = [Path("/dev") / entry.parent.name for entry in Path("/sys/class/block").glob("*/partition")]
    if not nodes:
        return frozenset()
    printed = run(["blkid", "--probe", "--match-tag", "PART_ENTRY_UUID", "--output", "value", *nodes], accept=(0, 2, 8))
    return frozenset(printed.stdout.lower().split())
