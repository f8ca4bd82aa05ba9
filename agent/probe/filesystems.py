"""What a device holds: file system, its features, size and use; swap; members of stacks. Reads only."""

from __future__ import annotations

import os
import re
import struct
from dataclasses import replace
from pathlib import Path

from agent.errors import TemporaryError
from agent.model.storage import FileSystem
from agent.process import ProcessError, run

EXT = ("ext2", "ext3", "ext4")
# States of one moment, which no new file system is made with.
EXT_STATES = frozenset({"needs_recovery", "orphan_present"})
XFS_FEATURES = frozenset(
    {
        "isize", "sectsz", "attr", "projid32bit", "crc", "finobt", "sparse", "rmapbt", "reflink", "bigtime",
        "inobtcount", "nrext64", "exchange", "parent", "ascii-ci", "ftype",
    }
)  # fmt: skip
_PAIR = re.compile(r"([A-Za-z][\w-]*)=([\w-]+)")
_BLKID_ESCAPE = re.compile(rb"\\x([0-9a-fA-F]{2})")


def read_filesystem(node: Path, size_bytes: int, mountpoint: str = "") -> FileSystem | None:
    """What the device holds; None when nothing is known there. Raises ProcessError where it cannot be read."""
    found = identify(node)
    if found is None:
        return None
    known = replace(found, size_bytes=size_bytes, mountpoint=mountpoint)
    if known.kind in EXT:
        known = ext_details(known, node)
    elif known.kind == "xfs":
        known = xfs_details(known, node)
    elif known.kind == "btrfs":
        known = btrfs_details(known, node)
    elif known.kind == "vfat":
        known = vfat_details(known, node)
    elif known.kind in ("ntfs", "exfat"):
        known = boot_sector_details(known, node)
    return mounted_use(known, Path(mountpoint)) if mountpoint else known


def identify(node: Path) -> FileSystem | None:
    """Kind, UUID and label, by libblkid's own look at the device; the cache and udev are not asked."""
    # 2: nothing found, or the device is a partition table only; 8: two signatures contradict each other
    found = run(["blkid", "--probe", "--output", "udev", node], accept=(0, 2, 8), timeout_s=60)
    values = dict(line.partition("=")[::2] for line in found.stdout.splitlines())
    kind = values.get("ID_FS_TYPE", "")
    if not kind:
        return None
    features = (values["ID_FS_VERSION"],) if kind == "vfat" and values.get("ID_FS_VERSION") else ()
    return FileSystem(
        kind=kind, uuid=plain(values.get("ID_FS_UUID_ENC", "")), label=plain(values.get("ID_FS_LABEL_ENC", "")),
        features=features,
    )  # fmt: skip


def plain(encoded: str) -> str:
    """blkid writes unsafe bytes as ``\\x20``."""
    raw = _BLKID_ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), encoded.encode("utf-8", "surrogateescape"))
    return raw.decode("utf-8", "surrogateescape")


def asked(words: list[str | Path]) -> str:
    """What a program prints; "" when it is missing or finds the file system unreadable: details are no need."""
    try:
        return run(words, timeout_s=120).stdout
    except (ProcessError, TemporaryError):
        return ""


# --- by kind --------------------------------------------------------------------------------------------------------


def ext_details(known: FileSystem, node: Path) -> FileSystem:
    values = ext_header(node)
    block = _number(values, "Block size")
    blocks, free = _number(values, "Block count"), _number(values, "Free blocks")
    features = tuple(word for word in values.get("Filesystem features", "").split() if word not in EXT_STATES)
    return replace(
        known, features=features, block_bytes=block, size_bytes=block * blocks or known.size_bytes,
        used_bytes=block * (blocks - free), inodes=_number(values, "Inode count"),
    )  # fmt: skip


def ext_header(node: Path) -> dict[str, str]:
    lines = asked(["dumpe2fs", "-h", node]).splitlines()
    pairs = (line.partition(":") for line in lines)
    return {key: value.strip() for key, colon, value in pairs if colon}


def xfs_details(known: FileSystem, node: Path) -> FileSystem:
    pairs = _PAIR.findall(asked(["xfs_info", node]) or asked(["xfs_db", "-r", "-c", "info", node]))
    features = tuple(f"{key}={value}" for key, value in pairs if key in XFS_FEATURES)
    counts = xfs_counts(node)
    block, blocks = counts.get("blocksize", 0), counts.get("dblocks", 0)
    # The log's blocks are in neither count of free ones.
    return replace(
        known, features=tuple(dict.fromkeys(features)), block_bytes=block,
        size_bytes=block * blocks or known.size_bytes, used_bytes=block * (blocks - counts.get("fdblocks", blocks)),
        inodes=counts.get("icount", 0),
    )  # fmt: skip


def xfs_counts(node: Path) -> dict[str, int]:
    """Counters of the superblock: exact after a clean unmount."""
    words: list[str | Path] = ["xfs_db", "-r", "-c", "sb 0", "-c", "p blocksize dblocks fdblocks icount", node]
    pairs = re.findall(r"(\w+) = (\d+)", asked(words))
    return {key: int(value) for key, value in pairs}


def btrfs_details(known: FileSystem, node: Path) -> FileSystem:
    text = asked(["btrfs", "inspect-internal", "dump-super", node])
    values = dict(re.findall(r"^(\w+)[ \t]+(\S+)", text, re.MULTILINE))
    listed = re.search(r"^incompat_flags.*?\((.*?)\)", text, re.MULTILINE | re.DOTALL)
    names = re.findall(r"\w+", listed[1]) if listed else []
    return replace(
        known, features=tuple(name.lower() for name in names), block_bytes=_number(values, "sectorsize"),
        size_bytes=_number(values, "total_bytes") or known.size_bytes, used_bytes=_number(values, "bytes_used"),
    )  # fmt: skip


def vfat_details(known: FileSystem, node: Path) -> FileSystem:
    """FAT has no program that tells this without checking everything: boot sector and FSINFO (fatgen103)."""
    try:
        with node.open("rb") as device:
            boot = device.read(512)
            sector, cluster_sectors, reserved = struct.unpack_from("<HBH", boot, 11)
            small, fat_sectors, large, fat_large = (
                *struct.unpack_from("<H", boot, 19), *struct.unpack_from("<H", boot, 22),
                *struct.unpack_from("<II", boot, 32),
            )  # fmt: skip
            information = struct.unpack_from("<H", boot, 48)[0]
            device.seek(information * sector)
            signature, free = struct.unpack("<4sI", device.read(512)[484:492])
    except (OSError, struct.error):
        return known
    sectors, fat = small or large, fat_sectors or fat_large
    data = sectors - reserved - boot[16] * fat
    size = sectors * sector
    # FAT12 and FAT16 keep no count; where there is none nothing is known, and everything counts as used.
    counted = fat_sectors == 0 and signature == b"rrAa" and free != 0xFFFFFFFF
    used = data * sector - free * cluster_sectors * sector if counted else size
    return replace(known, block_bytes=cluster_sectors * sector, size_bytes=size, used_bytes=min(max(used, 0), size))


def boot_sector_details(known: FileSystem, node: Path) -> FileSystem:
    """Cluster and size as the boot sector of NTFS or exFAT has them; used are all, for those who do not ask further.

    exFAT: Microsoft's specification, 3.1. NTFS: as Linux, fs/ntfs3/ntfs.h, struct NTFS_BOOT.
    """
    try:
        with node.open("rb") as device:
            boot = device.read(512)
        if known.kind == "exfat":
            sectors, sector_shift, cluster_shift = struct.unpack_from("<Q", boot, 72)[0], boot[108], boot[109]
            sector, cluster = 1 << sector_shift, 1 << (sector_shift + cluster_shift)
        else:
            sector, per_cluster, sectors = *struct.unpack_from("<HB", boot, 11), *struct.unpack_from("<Q", boot, 40)
            # More than 128 sectors a cluster are written as a power of two, negative.
            cluster = sector * (per_cluster if per_cluster <= 0x80 else 1 << (0x100 - per_cluster))
    except (OSError, struct.error, IndexError):
        return known
    size = min(sectors * sector, known.size_bytes)
    return replace(known, block_bytes=cluster, size_bytes=size, used_bytes=size)


def mounted_use(known: FileSystem, where: Path) -> FileSystem:
    """Size and use as the mounted file system tells them: superblocks on the disk lag behind."""
    try:
        told = os.statvfs(where)
    except OSError:
        return known
    inodes = known.inodes if known.kind in EXT else told.f_files
    return replace(
        known, used_bytes=(told.f_blocks - told.f_bfree) * told.f_frsize, inodes=inodes,
        block_bytes=known.block_bytes or told.f_bsize, size_bytes=known.size_bytes or told.f_blocks * told.f_frsize,
    )  # fmt: skip


def unclean(node: Path, kind: str) -> str:
    """Why a file system cannot be read as it lies there without writing to it; "" when it can."""
    if kind in EXT:
        dirty = "needs_recovery" in ext_header(node).get("Filesystem features", "").split()
        return "its journal holds changes that were not written back" if dirty else ""
    if kind == "xfs":
        return _xfs_unclean(node)
    if kind == "btrfs":
        values = dict(re.findall(r"^(\w+)[ \t]+(\S+)", asked(["btrfs", "inspect-internal", "dump-super", node]), re.M))
        return "its log tree holds changes that were not written back" if _number(values, "log_root") else ""
    return ""


def _xfs_unclean(node: Path) -> str:
    try:
        told = run(["xfs_logprint", "-t", node], accept=(0, 1), timeout_s=120)
    except ProcessError as error:
        return f"whether its log is clean cannot be told: {error.stderr or 'xfs_logprint failed'}"
    state = re.search(r"state: <(\w+)>", told.stdout + told.stderr)
    if state and state[1] == "CLEAN":
        return ""
    return f"its log is {state[1].lower() if state else 'not readable'}"


def _number(values: dict[str, str], key: str) -> int:
    found = re.match(r"(0x[0-9a-fA-F]+|\d+)", values.get(key, ""))
    return int(found[1], 0) if found else 0
