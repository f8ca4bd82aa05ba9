"""The disks of this machine: what they are, what they hold, who uses them, and every device on the way to them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.errors import RegraftError
from agent.model.storage import Disk, FileSystem, Partition, TableKind
from agent.probe.filesystems import mounted_use, read_filesystem
from agent.probe.hardware import chain_of, natural
from agent.probe.kernel_files import link_name, names_in, number_of, text_of
from agent.probe.mounts import Mount, disks_below, holder_text, holders_of, read_mounts, read_swaps
from agent.probe.tables import table_of

# Made by software out of memory, files and other disks; floppies and optical drives.
NO_DISK = re.compile(
    r"(loop|ram|zram|dm-|md|sr|fd|nbd|drbd|rbd|zd|mtdblock)\d+.*|nvme\d+c\d+n\d+|mmcblk\d+(boot|rpmb).*"
)
MEDIUM_LABEL = "REGRAFT"  # volume label of the PE's medium
# Their boot sectors end like an MBR, and their boot code may look like its table.
LIKE_AN_MBR = frozenset({"ntfs", "exfat", "vfat"})
SECTOR = 512  # of sysfs, whatever the disk has


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What else the machine knows of its block devices."""

    root: Path
    mounts: tuple[Mount, ...]
    swaps: frozenset[str]
    by_path: dict[str, str]
    unread: list[str]  # what could not be read, and why

    @classmethod
    def of(cls, root: Path = Path("/")) -> Surroundings:
        return cls(root, read_mounts(root), read_swaps(root), by_path_names(root), [])


def read_disks(root: Path = Path("/")) -> tuple[Disk, ...]:
    """Every disk, in the order of the kernel's names. What cannot be read is left out of a disk, never guessed."""
    return survey(Surroundings.of(root))


def survey(around: Surroundings) -> tuple[Disk, ...]:
    names = sorted(names_in(around.root / "sys/block"), key=natural)
    found = (read_disk(name, around) for name in names if not NO_DISK.fullmatch(name))
    return tuple(disk for disk in found if disk.size_bytes)


def read_disk(name: str, around: Surroundings | None = None) -> Disk:
    """One disk (or loop device) by its kernel name."""
    around = around or Surroundings.of()
    device = around.root / "sys/class/block" / name
    disk = Disk(
        name=name,
        size_bytes=number_of(device / "size") * SECTOR,
        logical_sector_bytes=number_of(device / "queue/logical_block_size", SECTOR),
        physical_sector_bytes=number_of(device / "queue/physical_block_size", SECTOR),
        transport=transport(device),
        model=model(device),
        serial=serial(device),
        wwn=wwn(device),
        by_path=around.by_path.get(name, ""),
        removable=number_of(device / "removable") == 1,
        read_only=number_of(device / "ro") == 1,
        rotational=number_of(device / "queue/rotational") == 1,
        in_use=uses(name, around),
        chain=chain_of(device, around.root),
    )
    if not disk.size_bytes:
        return disk
    disk = with_content(disk, around)
    return replace(disk, boot_medium=is_boot_medium(disk, around))


# --- identity -------------------------------------------------------------------------------------------------------


def transport(device: Path) -> str:
    """How the disk is attached, from where it stands in the tree of devices."""
    place = str(device.resolve())
    for mark, kind in (
        ("/usb", "usb"), ("/virtio", "virtio"), ("/nvme", "nvme"), ("/ata", "ata"), ("/mmc", "mmc"),
        ("/end_device-", "sas"), ("/rport-", "fc"), ("/session", "iscsi"), ("/vmbus", "vmbus"), ("/vbd-", "xen"),
    ):  # fmt: skip
        if mark in place:
            # A SCSI disk behind virtio-scsi is a SCSI disk.
            return "scsi" if kind == "virtio" and "/host" in place else kind
    return "scsi" if "/host" in place else ""


def model(device: Path) -> str:
    words = (text_of(device / "device/vendor"), text_of(device / "device/model"))
    if link_name(device / "device/subsystem") == "virtio":
        return ""  # a number of the PCI bus stands where SCSI disks have their maker
    # libata gives every disk the maker "ATA"
    said = " ".join(word for word in words if word and word != "ATA")
    return said or text_of(device / "device/name")


def serial(device: Path) -> str:
    """The number on the label; the same with and without udev, because people type it."""
    found = text_of(device / "serial") or text_of(device / "device/serial")
    if found:
        return found
    if "/usb" in str(device.resolve()):
        return usb_serial(device)
    return page_text(device / "device/vpd_pg80")


def usb_serial(device: Path) -> str:
    """USB bridges answer for themselves; the number stands with the USB device, above its interface."""
    here = device.resolve()
    for path in here.parents:
        if (path / "idVendor").exists():
            return text_of(path / "serial")
    return ""


def page_text(path: Path) -> str:
    """Unit serial number page (SPC-4, 7.8.17): four bytes of header, then text."""
    try:
        page = path.read_bytes()
    except OSError:
        return ""
    return page[4 : 4 + int.from_bytes(page[2:4], "big")].decode("ascii", "replace").strip(" \0")


def wwn(device: Path) -> str:
    """World-wide name, as lsblk writes it."""
    found = text_of(device / "wwid") or text_of(device / "device/wwid")
    if found.startswith("naa."):
        return "0x" + found.removeprefix("naa.")
    return found if found.startswith(("eui.", "uuid.", "nvme.")) else ""


def by_path_names(root: Path) -> dict[str, str]:
    """Kernel name → name below /dev/disk/by-path; of several the shortest, which is the one without versions."""
    folder = root / "dev/disk/by-path"
    found: dict[str, str] = {}
    for link in sorted(names_in(folder), key=lambda name: (len(name), name)):
        found.setdefault(link_name(folder / link), link)
    return found


# --- use ------------------------------------------------------------------------------------------------------------


def uses(name: str, around: Surroundings) -> tuple[str, ...]:
    """What holds the disk or a partition of it now."""
    found: list[str] = []
    for part in (name, *partition_names(around.root, name)):
        found += [f"mounted on {m.mountpoint}" for m in around.mounts if m.device == part]
        found += ["swap"] if part in around.swaps else []
        for holder in holders_of(around.root, part):
            found.append(holder_text(around.root, holder))
            found += [f"mounted on {m.mountpoint}" for m in around.mounts if m.device == holder]
            found += ["swap"] if holder in around.swaps else []
    return tuple(dict.fromkeys(found))


def partition_names(root: Path, disk: str) -> list[str]:
    folder = root / "sys/class/block" / disk
    names = [name for name in names_in(folder) if (folder / name / "partition").exists()]
    return sorted(names, key=natural)


def is_boot_medium(disk: Disk, around: Surroundings) -> bool:
    """The running system lies on it, or it is the stick that the PE came from: the PE itself lies in memory."""
    running = next((mount.device for mount in around.mounts if mount.mountpoint == "/"), "")
    if running and disk.name in disks_below(around.root, running):
        return True
    held = (disk.holds, *(partition.holds for partition in disk.partitions))
    return any(each is not None and each.kind == "iso9660" and each.label == MEDIUM_LABEL for each in held)


# --- content --------------------------------------------------------------------------------------------------------


def with_content(disk: Disk, around: Surroundings) -> Disk:
    """The disk with its table, partitions and file systems."""
    node = around.root / "dev" / disk.name
    try:
        refuse_unreadable(node)
        table = table_of(node)
    except (OSError, RegraftError) as error:
        around.unread.append(f"{disk.name}: {_last_line(error)}")
        return replace(disk, holds=held_by_kernel(disk.name, disk.size_bytes, around))
    whole = held(disk.name, disk.size_bytes, around) if not table or table.get("label") == "dos" else None
    if not table or (whole and whole.kind in LIKE_AN_MBR):
        return replace(disk, holds=whole)
    kind = {"gpt": TableKind.GPT, "dos": TableKind.MBR}.get(str(table.get("label")), TableKind.NONE)
    disk = replace(disk, table=kind, table_id=str(table.get("id", "")).lower())
    partitions = tuple(read_partition(each, disk, around) for each in _partitions(table))
    # The PE's stick is an ISO 9660 file system with a partition table in its first sectors.
    whole = held(disk.name, disk.size_bytes, around) if disk.removable or disk.transport == "usb" else None
    return replace(disk, partitions=partitions, holds=whole)


def _partitions(table: dict[str, object]) -> Iterable[dict[str, Any]]:
    found = table.get("partitions", [])
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def read_partition(told: dict[str, Any], disk: Disk, around: Surroundings) -> Partition:
    number = int(re.sub(r".*?(\d+)$", r"\1", str(told["node"]).removeprefix(f"/dev/{disk.name}")))
    size = int(told["size"]) * disk.logical_sector_bytes
    mbr = disk.table is TableKind.MBR
    part_type = str(told.get("type", "")).lower()
    name = partition_name(around.root, disk.name, number)
    # MBR partitions have no UUID of their own; the kernel makes one of the signature (block/partitions/msdos.c).
    part_uuid = f"{int(disk.table_id, 16):08x}-{number:02x}" if mbr and disk.table_id else str(told.get("uuid", ""))
    return Partition(
        number=number,
        start_bytes=int(told["start"]) * disk.logical_sector_bytes,
        size_bytes=size,
        type=f"0x{int(part_type, 16):02x}" if mbr else part_type,
        part_uuid=part_uuid.lower(),
        part_label=str(told.get("name", "")),
        flags=("boot",) if told.get("bootable") else tuple(str(told.get("attrs", "")).split()),
        holds=held(name, size, around) if name else None,
    )


def partition_name(root: Path, disk: str, number: int) -> str:
    """Kernel name of a partition; "" when the kernel has not read the table."""
    folder = root / "sys/class/block" / disk
    return next((p for p in partition_names(root, disk) if number_of(folder / p / "partition") == number), "")


def held(name: str, size_bytes: int, around: Surroundings) -> FileSystem | None:
    mount = mount_of(name, around)
    node = around.root / "dev" / name
    try:
        refuse_unreadable(node)
        return read_filesystem(node, size_bytes, mount.mountpoint if mount else "")
    except (OSError, RegraftError) as error:
        around.unread.append(f"{name}: {_last_line(error)}")
        return held_by_kernel(name, size_bytes, around)


def held_by_kernel(name: str, size_bytes: int, around: Surroundings) -> FileSystem | None:
    """What is known of a device that may not be opened: how it is mounted."""
    mount = mount_of(name, around)
    if mount is None:
        return None
    known = FileSystem(mount.kind, size_bytes=size_bytes, mountpoint=mount.mountpoint)
    return mounted_use(known, Path(mount.mountpoint))


def mount_of(name: str, around: Surroundings) -> Mount | None:
    """The mount that shows the whole file system; of several the shortest path."""
    found = [mount for mount in around.mounts if mount.device == name and mount.kind != "overlay"]
    return min(found, key=lambda mount: (mount.root != "/", len(mount.mountpoint)), default=None)


def with_filesystems(disks: Iterable[Disk], change: Callable[[FileSystem], FileSystem]) -> tuple[Disk, ...]:
    """The disks with every file system passed through ``change``."""
    found: list[Disk] = []
    for disk in disks:
        partitions = tuple(replace(p, holds=change(p.holds)) if p.holds else p for p in disk.partitions)
        found.append(replace(disk, partitions=partitions, holds=change(disk.holds) if disk.holds else None))
    return tuple(found)


def refuse_unreadable(node: Path) -> None:
    """Programs end alike on a device with nothing on it and on one that cannot be opened; open(2) does not."""
    os.close(os.open(node, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))


def _last_line(error: RegraftError | OSError) -> str:
    return error.message.strip().rpartition("\n")[2] if isinstance(error, RegraftError) else str(error)
