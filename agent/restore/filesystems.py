"""File systems made anew: same kind, UUID and label, and only features that the image's own kernel has lived with.

A newer mkfs turns on what an older kernel, or the image's GRUB, cannot read; so features are never left to defaults
where the source's are known. Nothing is discarded: on many disks that takes minutes, and fstrim does it later.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from agent.errors import RefusedError, TargetIOError
from agent.model.filesystem_size import EXT
from agent.model.plan import PlannedFilesystem, PlannedSubvolume
from agent.model.subvolumes import TOP, subvolume_option
from agent.process import run
from agent.restore.subvolumes import make_subvolumes, missing_subvolumes

MAKE_TIMEOUT_S = 1800.0
# What mke2fs -O may be given. Others are states (needs_recovery, orphan_present), or need figures that a profile does
# not have (bigalloc, casefold): the tree is the same without them.
_EXT_FEATURES = frozenset(
    {
        "64bit", "dir_index", "dir_nlink", "ea_inode", "encrypt", "ext_attr", "extent", "extra_isize", "filetype",
        "flex_bg", "has_journal", "huge_file", "inline_data", "large_dir", "large_file", "metadata_csum",
        "metadata_csum_seed", "orphan_file", "project", "quota", "resize_inode", "sparse_super", "sparse_super2",
        "stable_inodes", "uninit_bg", "verity",
    }
)  # fmt: skip
_EXT_OTHER_NAMES = {"extents": "extent", "gdt_csum": "uninit_bg"}
_EXT_UNKNOWN_SOURCE = ("-O", "^metadata_csum_seed,^orphan_file")  # as before e2fsprogs 1.47
_XFS_META = ("crc", "finobt", "rmapbt", "reflink", "bigtime", "inobtcount")
_XFS_INODE = ("sparse", "nrext64")
_XFS_NEEDS_CRC = ("finobt", "rmapbt", "reflink", "bigtime", "inobtcount", "sparse", "nrext64")
_BTRFS = {
    "extref": ("extref", "extended_iref"),
    "skinny-metadata": ("skinny_metadata", "skinny-metadata"),
    "no-holes": ("no_holes", "no-holes"),
}
_FAT32_CLUSTERS = 65_600  # 65,525 and more make it FAT32 for every reader (fatgen103, 3.5)


def make_filesystem(node: Path, planned: PlannedFilesystem) -> None:
    """Make ``planned`` on ``node`` and prove by reading it back that it is there."""
    forget_signatures(node)
    run(_command(node, planned), timeout_s=MAKE_TIMEOUT_S)
    make_subvolumes(node, planned_subvolumes(planned))
    wrong = _differences(node, planned)
    if wrong:
        raise TargetIOError(
            f"{planned.kind} on {node} reads back otherwise than it was made: {'; '.join(wrong)}",
            "the disk may be failing; read the kernel log",
        )


def forget_signatures(node: Path) -> None:
    """What lay on a partition before may not be recognised beside what comes onto it."""
    run(["wipefs", "--all", "--force", "--quiet", node])


def matches(node: Path, planned: PlannedFilesystem) -> bool:
    """Whether the planned file system is already there, from a run that was cut."""
    return not _differences(node, planned) and not missing_subvolumes(node, planned)


def planned_subvolumes(planned: PlannedFilesystem) -> tuple[PlannedSubvolume, ...]:
    """The subvolumes of a btrfs that are made; of an older image the one that its mount options name."""
    if planned.kind != "btrfs":
        return ()
    named = subvolume_option(planned.options)
    if planned.subvolumes or named in ("", TOP):
        return tuple(each for each in planned.subvolumes if each.path != TOP)
    return (PlannedSubvolume(path=named, mountpoint=planned.mountpoint),)


def _command(node: Path, planned: PlannedFilesystem) -> list[str]:
    if planned.kind in EXT:
        return _mke2fs(node, planned)
    match planned.kind:
        case "xfs":
            return _mkfs_xfs(node, planned)
        case "btrfs":
            return _mkfs_btrfs(node, planned)
        case "vfat":
            return _mkfs_vfat(node, planned)
        case "swap":
            return [
                "mkswap",
                "--force",
                *_option("--uuid", planned.uuid),
                *_option("--label", planned.label),
                str(node),
            ]
    raise RefusedError(
        f"file system {planned.kind} cannot be made", "expected ext2, ext3, ext4, xfs, btrfs, vfat, swap"
    )


def _mke2fs(node: Path, planned: PlannedFilesystem) -> list[str]:
    known = [_EXT_OTHER_NAMES.get(name, name) for name in planned.features]
    features = sorted(_EXT_FEATURES & set(known))
    chosen = ("-O", ",".join(["none", *features])) if features else _EXT_UNKNOWN_SOURCE
    block = max(planned.block_bytes or 4096, sector_bytes(node))
    return [
        *("mke2fs", "-F", "-q", "-t", planned.kind, *chosen, "-b", str(block), "-I", "256"),
        *_option("-N", str(planned.inodes) if planned.inodes else ""),
        *_option("-U", planned.uuid),
        *_option("-L", planned.label),
        *("-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0", str(node)),
    ]


def _mkfs_xfs(node: Path, planned: PlannedFilesystem) -> list[str]:
    told = dict(feature.split("=", 1) for feature in planned.features if "=" in feature)
    # Kernels before 5.10 know neither; a source that says nothing may have one.
    values = {"bigtime": "0", "inobtcount": "0"} if not told else {}
    if told:
        # An xfs_info that does not print a feature is older than the feature.
        values = {key: told.get(key, "1" if key == "crc" else "0") for key in (*_XFS_META, *_XFS_INODE)}
        if values["crc"] == "0":
            values.update(dict.fromkeys(_XFS_NEEDS_CRC, "0"))
    meta = [f"{key}={values[key]}" for key in _XFS_META if key in values]
    inode = [f"{key}={values[key]}" for key in _XFS_INODE if key in values]
    if told.get("isize", "").isdigit():
        inode.append(f"size={told['isize']}")
    block = max(planned.block_bytes or 4096, sector_bytes(node))
    words = ["mkfs.xfs", "-f", "-K", "-q", "-b", f"size={block}", *_option("-L", planned.label)]
    words += _option("-m", ",".join([*meta, *([f"uuid={planned.uuid}"] if planned.uuid else [])]))
    return [*words, *_option("-i", ",".join(inode)), str(node)]


def _mkfs_btrfs(node: Path, planned: PlannedFilesystem) -> list[str]:
    chosen = [
        name if set(names) & set(planned.features) else f"^{name}" for name, names in _BTRFS.items() if planned.features
    ]
    return [
        *("mkfs.btrfs", "-f", "-K", "-q"),
        *_option("-O", ",".join(chosen)),
        *_option("-U", planned.uuid),
        *_option("-L", planned.label),
        str(node),
    ]


def _mkfs_vfat(node: Path, planned: PlannedFilesystem) -> list[str]:
    sector = sector_bytes(node)
    # mkfs.fat's own choice on sectors of 4096 bytes has too few clusters for FAT32: firmware reads that as FAT16.
    counts = (count for count in (8, 4, 2, 1) if _clusters(size_bytes(node), sector, count) >= _FAT32_CLUSTERS)
    per_cluster = next(counts, 0)
    fat32 = ["-F", "32", "-s", str(per_cluster)] if per_cluster else []
    serial = planned.uuid.replace("-", "")
    return ["mkfs.vfat", *fat32, *_option("-i", serial), *_option("-n", planned.label[:11]), str(node)]


def _clusters(size: int, sector: int, per_cluster: int) -> int:
    """Clusters of a FAT32 of that size: less 32 reserved sectors and two tables of four bytes a cluster."""
    sectors = size // sector
    table = -(-sectors // per_cluster * 4 // sector)
    return (sectors - 32 - 2 * table) // per_cluster


def _option(name: str, value: str) -> list[str]:
    return [name, value] if value else []


def _differences(node: Path, planned: PlannedFilesystem) -> list[str]:
    found = signature(node)
    expected = {"TYPE": planned.kind, "UUID": planned.uuid, "LABEL": _label(planned)}
    return [
        f"{key} is {found.get(key, '') or '-'}, expected {value}"
        for key, value in expected.items()
        if value and found.get(key, "").lower() != value.lower()
    ]


def _label(planned: PlannedFilesystem) -> str:
    return planned.label[:11].rstrip() if planned.kind == "vfat" else planned.label


def signature(node: Path) -> dict[str, str]:
    """What blkid reads from the device itself, past every cache; empty when it finds nothing or cannot decide."""
    printed = run(["blkid", "--probe", "--output", "export", node], accept=(0, 2, 8)).stdout
    return dict(line.split("=", 1) for line in _unescaped(printed.splitlines()) if "=" in line)


def _unescaped(lines: Sequence[str]) -> Iterator[str]:
    """``--output export`` puts a backslash before what a shell would read."""
    for line in lines:
        yield line.replace("\\ ", " ").replace("\\\\", "\\")


def sector_bytes(node: Path) -> int:
    """Logical sector size of the disk that a partition is on."""
    place = _sysfs(node)
    queue = place / "queue" if (place / "queue").is_dir() else place.parent / "queue"
    return int((queue / "logical_block_size").read_text())


def size_bytes(node: Path) -> int:
    return int((_sysfs(node) / "size").read_text()) * 512


def _sysfs(node: Path) -> Path:
    number = node.stat().st_rdev
    return Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve(strict=True)
