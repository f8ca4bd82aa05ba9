"""Partition tables: as sfdisk tells them, or, on systems without it, as libblkid and the kernel do.

sfdisk is in a package of its own that small Debian systems lack (fdisk); blkid comes with mount (util-linux).
"""

from __future__ import annotations

import json
from pathlib import Path

from agent.probe.filesystems import plain
from agent.probe.kernel_files import names_in, number_of
from agent.process import ProcessError, run

NO_PROGRAM = 127
SYSFS_SECTOR_BYTES = 512
# GPT attribute bits that have names in sfdisk; the others are written as GUID:<bit> (sfdisk(8), "attrs").
ATTRIBUTES = {0: "RequiredPartition", 1: "NoBlockIOProtocol", 2: "LegacyBIOSBootable"}


def table_of(node: Path) -> dict[str, object]:
    """The partition table in the words of ``sfdisk --json``; empty when there is none."""
    try:
        found = run(["sfdisk", "--json", node], accept=(0, 1), timeout_s=60)
    except ProcessError as error:
        if error.status != NO_PROGRAM:
            raise
        return table_by_kernel(node)
    if found.status:  # no partition table
        return {}
    told = json.loads(found.stdout)
    table = told.get("partitiontable", {}) if isinstance(told, dict) else {}
    return table if isinstance(table, dict) else {}


def table_by_kernel(node: Path, sysfs: Path = Path("/sys/class/block")) -> dict[str, object]:
    """The same, from blkid for the table's identities and from sysfs for the places of partitions."""
    label = probed(node)
    if label.get("PART_TABLE_TYPE") not in ("gpt", "dos"):
        return {}
    mbr = label["PART_TABLE_TYPE"] == "dos"
    folder = sysfs / node.name
    sector = number_of(folder / "queue/logical_block_size", SYSFS_SECTOR_BYTES)
    partitions = [
        partition_by_kernel(node.parent / name, folder / name, sector, mbr)
        for name in names_in(folder)
        if (folder / name / "partition").exists()
    ]
    identity = label.get("PART_TABLE_UUID", "")
    return {
        "label": label["PART_TABLE_TYPE"],
        "id": f"0x{identity}" if mbr and identity else identity,
        "partitions": sorted(partitions, key=lambda part: int(str(part["start"]))),
    }


def partition_by_kernel(node: Path, folder: Path, sector_bytes: int, mbr: bool) -> dict[str, object]:
    entry = probed(node)
    kind = entry.get("PART_ENTRY_TYPE", "")
    told: dict[str, object] = {
        "node": str(node),
        "start": number_of(folder / "start") * SYSFS_SECTOR_BYTES // sector_bytes,
        "size": number_of(folder / "size") * SYSFS_SECTOR_BYTES // sector_bytes,
        "type": kind.removeprefix("0x") if mbr else kind,
        "uuid": "" if mbr else entry.get("PART_ENTRY_UUID", ""),
        "name": entry.get("PART_ENTRY_NAME", ""),
    }
    flags = int(entry.get("PART_ENTRY_FLAGS", "0"), 0)
    if mbr:
        told["bootable"] = flags == 0x80
    else:
        told["attrs"] = attributes(flags)
    return told


def attributes(flags: int) -> str:
    """GPT attribute bits in sfdisk's words."""
    named = [ATTRIBUTES[bit] for bit in sorted(ATTRIBUTES) if flags >> bit & 1]
    numbered = [str(bit) for bit in range(48, 64) if flags >> bit & 1]
    return " ".join([*named, *([f"GUID:{','.join(numbered)}"] if numbered else [])])


def probed(node: Path) -> dict[str, str]:
    """What blkid reads from the device itself, under libblkid's names; text is decoded."""
    printed = run(["blkid", "-p", "-o", "udev", node], accept=(0, 2, 8), timeout_s=60).stdout
    pairs = (line.removeprefix("ID_").split("=", 1) for line in printed.splitlines() if "=" in line)
    return {key: plain(value) for key, value in pairs}
