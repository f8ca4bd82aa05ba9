"""What a machine keeps its data on: disks, partitions, what stands on them, file systems.

Sizes are bytes. Stable keys: a partition its PARTUUID; of all else its UUID, a logical volume its name in its group.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class TableKind(StrEnum):
    GPT = "gpt"
    MBR = "mbr"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class ChainLink:
    """One device between the root bus and a disk or NIC, outermost first; every one needs its driver."""

    modalias: str
    driver: str  # module bound on the running system, "" when none or built in and unnamed


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A file system, or what else a partition holds (swap, LVM2_member, crypto_LUKS, linux_raid_member)."""

    kind: str  # as blkid TYPE: ext4, xfs, btrfs, vfat, swap, …
    uuid: str = ""
    label: str = ""
    # ext: feature names of the superblock; xfs: key=value of xfs_info; btrfs: names of incompat features
    features: tuple[str, ...] = ()
    block_bytes: int = 0
    size_bytes: int = 0
    used_bytes: int = 0
    inodes: int = 0
    mountpoint: str = ""  # in the running (or, with --root, the described) system; "" when not mounted
    options: str = ""  # mount options as fstab gives them


@dataclass(frozen=True, slots=True)
class Partition:
    number: int
    start_bytes: int
    size_bytes: int
    type: str  # GPT type GUID in lower case, or MBR "0x83"
    part_uuid: str = ""  # lower case; MBR "xxxxxxxx-nn"
    part_label: str = ""
    flags: tuple[str, ...] = ()  # GPT attribute names / MBR "boot", as sfdisk writes them in attrs=
    holds: FileSystem | None = None


@dataclass(frozen=True, slots=True)
class Disk:
    name: str  # kernel name now: nvme0n1
    size_bytes: int
    logical_sector_bytes: int
    physical_sector_bytes: int
    transport: str = ""  # nvme, ata, scsi, sas, usb, virtio, mmc, …
    model: str = ""
    serial: str = ""
    wwn: str = ""
    by_path: str = ""  # /dev/disk/by-path name without the directory
    removable: bool = False
    read_only: bool = False
    rotational: bool = False
    boot_medium: bool = False  # the running system, or the PE's own medium, lives on it
    in_use: tuple[str, ...] = ()  # what holds it: "mounted on /srv", "swap", "LVM vg0", "md127"
    role: str = ""  # "boot" for the disk that the firmware boots in the described system
    table: TableKind = TableKind.NONE
    table_id: str = ""  # GPT disk GUID, or MBR signature "0x…"
    partitions: tuple[Partition, ...] = ()
    holds: FileSystem | None = None  # file system on the whole disk, without a table
    chain: tuple[ChainLink, ...] = ()


# --- what stands on partitions: LUKS, md RAID, LVM --------------------------------------------------------------------
#
# A *place* is where something lies: ``vda:3`` (disk and partition number, 0: the whole disk), or what stands on it:
# ``luks:UUID``, ``array:UUID``, ``lv:GROUP/VOLUME``. `agent.model.stack` makes and reads these words.


@dataclass(frozen=True, slots=True)
class Luks:
    """An encrypted device, opened: its header, and what lies in it. Never a key."""

    uuid: str
    on: str  # place
    version: int = 2
    label: str = ""
    name: str = ""  # of the mapping, as crypttab gives it: vda3_crypt
    cipher: str = ""  # aes-xts-plain64
    key_bytes: int = 0
    sector_bytes: int = 512
    offset_bytes: int = 0  # of the data, behind the header
    size_bytes: int = 0  # of the data
    kdf: str = ""  # pbkdf2, argon2i, argon2id
    passphrases: int = 0  # key slots that a passphrase or key file opens
    tokens: tuple[str, ...] = ()  # kinds of what opens the others: systemd-tpm2, clevis, systemd-fido2, …
    holds: FileSystem | None = None


@dataclass(frozen=True, slots=True)
class Array:
    """An md RAID array."""

    uuid: str  # as mdadm writes it: four groups of eight digits
    members: tuple[str, ...]  # places
    level: str = ""  # raid1
    name: str = ""  # in the superblock: debian:0
    node: str = ""  # kernel name: md0
    devices: int = 0
    metadata: str = "1.2"
    chunk_bytes: int = 0
    layout: str = ""  # of RAID 10: near=2
    offset_bytes: int = 0  # of the data on each member
    bitmap: bool = False
    size_bytes: int = 0
    holds: FileSystem | None = None


@dataclass(frozen=True, slots=True)
class PhysicalVolume:
    uuid: str
    on: str  # place
    size_bytes: int = 0
    offset_bytes: int = 0  # of the first extent


@dataclass(frozen=True, slots=True)
class LogicalVolume:
    name: str
    uuid: str
    size_bytes: int = 0
    kind: str = "linear"  # as lvs has it in lv_layout: linear, striped, thin,sparse, raid,raid1, cache, …
    holds: FileSystem | None = None


@dataclass(frozen=True, slots=True)
class VolumeGroup:
    name: str
    uuid: str
    extent_bytes: int = 0
    extents: int = 0
    physical: tuple[PhysicalVolume, ...] = ()
    logical: tuple[LogicalVolume, ...] = ()


@dataclass(frozen=True, slots=True)
class Stack:
    """Everything that stands between partitions and file systems."""

    luks: tuple[Luks, ...] = ()
    arrays: tuple[Array, ...] = ()
    groups: tuple[VolumeGroup, ...] = ()


NO_STACK = Stack()
