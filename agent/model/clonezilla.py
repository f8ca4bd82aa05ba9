"""What the files of a Clonezilla image directory are called and say. Pure: names and texts in, values out.

parts disk            names of what was saved; parts comes last
sda-pt.sf             partition table, as sfdisk dumps it      sda-gpt-1st sda-gpt-2nd   GPT, sector by sector
sda-pt.parted         size of the disk and of its sectors      sda-mbr                   first sector
sda1.ext4-ptcl-img.zst.aa …                                    partclone's stream, compressed, cut into pieces
swappt-sda2.info      UUID and label of a swap partition
Info-dmi.txt efi-nvram.dat                                     the machine
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from agent.errors import RefusedError
from agent.model.profile import Firmware, Platform

_IMAGE = re.compile(
    r"(?P<part>[a-z0-9]+)\.(?P<fs>[a-z0-9+_-]+?)-ptcl-img"
    r"(?:\.(?P<packing>gz|zst|xz|bz2|lz4|lzo|lrz|lzip|uncomp))?(?:\.(?P<piece>[a-z]{2,}))?"
)
_DISK = re.compile(r"((?:nvme\d+n\d+|mmcblk\d+|[shv]d[a-z]+|xvd[a-z]+))p?\d*")
_SIZE = re.compile(r"^Disk /dev/\S+?: (\d+)s$", re.MULTILINE)
_SECTOR = re.compile(r"^Sector size \(logical/physical\): (\d+)B/", re.MULTILINE)
_END = re.compile(r"start=\s*(\d+),\s*size=\s*(\d+)")
_LAST = re.compile(r"^last-lba:\s*(\d+)", re.MULTILINE)
_SECTOR_SF = re.compile(r"^sector-size:\s*(\d+)", re.MULTILINE)
GPT_END_SECTORS = 33  # the second header and its table
UNPACKED = frozenset({"", "uncomp"})


@dataclass(frozen=True, slots=True)
class PartitionImage:
    """One saved partition: its pieces in order."""

    partition: str  # sda1
    filesystem: str  # ext4; dd for one that was copied whole
    packing: str  # gz, zst, xz, bz2, "" for none
    pieces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DiskSize:
    sectors: int
    sector_bytes: int


def partition_images(names: Iterable[str]) -> tuple[PartitionImage, ...]:
    """The partition images among the file names of a directory. Raises RefusedError when a piece is missing."""
    found: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for name in names:
        match = _IMAGE.fullmatch(name)
        if match:
            key = (match["part"], match["fs"], match["packing"] or "")
            found.setdefault(key, []).append((match["piece"] or "", name))
    images: list[PartitionImage] = []
    for (part, filesystem, packing), pieces in sorted(found.items()):
        pieces.sort()
        expected = [_suffix(number, len(pieces[0][0])) for number in range(len(pieces))]
        if [suffix for suffix, _ in pieces] not in ([""], expected):
            raise RefusedError(
                f"the pieces of partition {part} end in {', '.join(s or 'nothing' for s, _ in pieces)}, "
                f"expected {', '.join(expected)}",
                "copy every file of the Clonezilla image",
            )
        images.append(PartitionImage(part, filesystem, packing, tuple(name for _, name in pieces)))
    return tuple(images)


def saved_partitions(parts: str, disk: str) -> tuple[str, ...]:
    """What of a disk was saved, as ``parts`` tells it: not swap, of which the identity alone is kept."""
    return tuple(word for word in parts.split() if disk_of(word) == disk)


def files_of(partition: str, names: Iterable[str]) -> tuple[str, ...]:
    """What there is of a partition's content: also by ntfsclone (sda3.ntfs-img.aa), partimage (sda5.aa), dd
    (sda6.dd-img.aa). Notes on it (sda1.info) are none."""
    return tuple(sorted(name for name in names if name.startswith(f"{partition}.") and ".info" not in name))


def _suffix(number: int, length: int) -> str:
    """As split(1) counts: aa, ab, …, az, ba."""
    letters = ""
    for _ in range(max(length, 2)):
        number, digit = divmod(number, 26)
        letters = chr(ord("a") + digit) + letters
    return letters


def disk_of(partition: str) -> str:
    """``sda`` of ``sda1``, ``nvme0n1`` of ``nvme0n1p2``; "" for what is no partition (a logical volume)."""
    match = _DISK.fullmatch(partition)
    return match[1] if match else ""


def number_of(partition: str) -> int:
    """1 of ``sda1``; 0 for a whole disk."""
    digits = partition.removeprefix(disk_of(partition)).removeprefix("p")
    return int(digits) if digits.isdigit() else 0


def disk_size(sfdisk: str, parted: str) -> DiskSize:
    """How large the disk was: parted says it; without its text, the least that the table needs."""
    sector = _SECTOR.search(parted) or _SECTOR_SF.search(sfdisk)
    sector_bytes = int(sector[1]) if sector else 512
    told = _SIZE.search(parted)
    if told:
        return DiskSize(int(told[1]), sector_bytes)
    last = _LAST.search(sfdisk)
    ends = [int(start) + int(size) for start, size in _END.findall(sfdisk)]
    if last:
        return DiskSize(int(last[1]) + 1 + GPT_END_SECTORS, sector_bytes)
    return DiskSize(max(ends, default=0) + GPT_END_SECTORS, sector_bytes)


def without_devices(sfdisk: str) -> str:
    """The dump as a script for another disk: sfdisk takes the numbers from the names, which it refuses to mix."""
    lines = (line for line in sfdisk.splitlines() if not line.startswith(("device:", "sector-size:")))
    # Dumps of old versions list empty entries, and call the type Id.
    kept = (line for line in lines if not re.search(r"size=\s*0,", line))
    return "\n".join(re.sub(r"\bId=\s*", "type=", line) for line in kept) + "\n"


def swap_identity(text: str) -> tuple[str, str]:
    """UUID and label of a swap partition, from ``swappt-….info``."""
    values = dict(re.findall(r'^(UUID|LABEL)="?([^"\n]*)"?$', text, re.MULTILINE))
    return values.get("UUID", ""), values.get("LABEL", "")


def platform(dmi: str, *, uefi: bool) -> Platform:
    """What dmidecode told of the machine, and that it had EFI variables; the rest stays empty."""
    system, board = _dmi_section(dmi, "System Information"), _dmi_section(dmi, "Base Board Information")
    bios, cpu = _dmi_section(dmi, "BIOS Information"), _dmi_section(dmi, "Processor Information")
    return Platform(
        firmware=Firmware.UEFI if uefi else Firmware.UNKNOWN,
        system_vendor=system.get("Manufacturer", ""),
        product_name=system.get("Product Name", ""),
        product_version=system.get("Version", ""),
        board_vendor=board.get("Manufacturer", ""),
        board_name=board.get("Product Name", ""),
        firmware_vendor=bios.get("Vendor", ""),
        firmware_version=bios.get("Version", ""),
        cpu_model=cpu.get("Version", ""),
        system_uuid=system.get("UUID", "").lower(),
        system_serial=system.get("Serial Number", ""),
        board_serial=board.get("Serial Number", ""),
    )


def _dmi_section(dmi: str, title: str) -> dict[str, str]:
    """The fields of the first table of that title."""
    found = re.search(rf"^{re.escape(title)}\n((?:[ \t].*\n?)*)", dmi, re.MULTILINE)
    pairs = (line.strip().partition(": ") for line in (found[1] if found else "").splitlines())
    return {key: value.strip() for key, colon, value in pairs if colon and value.strip() != "Not Specified"}
