"""What a file system that was written block by block must learn of its new partition: where it begins, how far it goes.

The content was compared with the image before; what is changed here is only what the new place asks for.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

from agent.errors import PatchError, TargetIOError
from agent.model.plan import FitFilesystem
from agent.process import ProcessError, run

GROW_TIMEOUT_S = 3600.0
_HIDDEN = struct.Struct("<I")  # sectors before the partition, at 28 of the boot sector of FAT and NTFS
_HIDDEN_AT = 28
_SECTOR_MOST = 1 << 32


def fit_filesystem(node: Path, step: FitFilesystem) -> tuple[str, ...]:
    """Make the file system on ``node`` fit its partition; what could not be done, and does no harm, comes back."""
    warnings: list[str] = []
    old, new = step.start_sectors
    if old != new and new < _SECTOR_MOST:
        tell_start(node, step.kind, old, new)
    if step.size_bytes:
        warnings += grow_ntfs(node, step)
    return tuple(warnings)


def tell_start(node: Path, kind: str, old: int, new: int) -> None:
    """Write where the partition begins into the boot sector and its copy, if they told the truth before.

    Boot code of BIOS adds that number to find the file system on the disk.
    """
    descriptor = os.open(node, os.O_RDWR | os.O_CLOEXEC)
    try:
        for at in (0, _copy_at(os.pread(descriptor, 512, 0), kind)):
            sector = os.pread(descriptor, 512, at)
            if len(sector) == 512 and _MARKS[kind](sector) and _HIDDEN.unpack_from(sector, _HIDDEN_AT)[0] == old:
                os.pwrite(descriptor, _HIDDEN.pack(new), at + _HIDDEN_AT)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# How the boot sector of each kind is told from anything else.
_MARKS: dict[str, Callable[[bytes], bool]] = {
    "ntfs": lambda sector: sector[3:11] == b"NTFS    " and sector[510:512] == b"\x55\xaa",
    "vfat": lambda sector: sector[510:512] == b"\x55\xaa" and (b"FAT" in sector[54:62] or b"FAT32" in sector[82:90]),
}


def _copy_at(sector: bytes, kind: str) -> int:
    """Where the copy of the boot sector lies: behind the last sector of NTFS, in the reserved sectors of FAT32."""
    bytes_per_sector = struct.unpack_from("<H", sector, 11)[0]
    if kind == "ntfs":
        return int(struct.unpack_from("<Q", sector, 40)[0] * bytes_per_sector)
    return int(struct.unpack_from("<H", sector, 50)[0] * bytes_per_sector) if b"FAT32" in sector[82:90] else 0


def grow_ntfs(node: Path, step: FitFilesystem) -> tuple[str, ...]:
    """Let an NTFS fill its partition; Windows checks it at its next start, as ntfsresize always asks for.

    One that ntfsresize will not touch (marked for a check, damaged) stays as it is, whole, with a warning.
    """
    try:
        run(["ntfsresize", "--no-action", "--force", "--no-progress-bar", node], timeout_s=GROW_TIMEOUT_S)
    except ProcessError as error:
        said = (error.stderr.strip() or error.stdout.strip()).splitlines()
        return (
            f"ntfs on partition {step.partition} was not grown to {step.size_bytes:,} bytes: "
            f"{said[-1] if said else f'ntfsresize ended with status {error.status}'}; its content is whole",
        )
    try:
        run(["ntfsresize", "--force", "--no-progress-bar", node], timeout_s=GROW_TIMEOUT_S)
    except ProcessError as error:
        raise PatchError(
            f"ntfs on partition {step.partition} could not be grown to {step.size_bytes:,} bytes: {error.message}",
            "start the same restore again; if it fails there too, choose a disk of the size of the source’s",
        ) from None
    found = ntfs_bytes(node)
    if not step.size_bytes - 2 * (1 << 20) < found <= step.size_bytes:
        raise TargetIOError(f"ntfs on {node} has {found:,} bytes after it was grown, expected {step.size_bytes:,}")
    return ()


def ntfs_bytes(node: Path) -> int:
    """Size that the boot sector tells, its own copy included."""
    with node.open("rb") as device:
        boot = device.read(512)
    sectors: int = struct.unpack_from("<Q", boot, 40)[0]
    sector: int = struct.unpack_from("<H", boot, 11)[0]
    return (sectors + 1) * sector
