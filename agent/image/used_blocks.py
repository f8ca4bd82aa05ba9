"""A partition that is captured by its blocks: held against mounting, and asked which of them are used.

Only the file system itself knows; partclone reads its bitmap. What partclone does not read, or what was asked for
whole, is taken to the last byte.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.errors import RefusedError, TargetIOError
from agent.image.ext4 import RECOVER, SUPERBLOCK_AT
from agent.model.block_map import Run, used_runs
from agent.process import ProcessError, run

EXT = ("ext2", "ext3", "ext4")
# blkid's name → program. Others (btrfs, HFS+, …) are taken whole: a wrong map would lose data without a word.
MAPPERS = {
    "ntfs": "partclone.ntfs",
    "exfat": "partclone.exfat",
    "vfat": "partclone.fat",
    **dict.fromkeys(EXT, "partclone.extfs"),
}
MAP_TIMEOUT_S = 1800.0
HIBERNATED, UNCLEAN = 14, 15  # exit statuses of ntfs-3g.probe(8)
VOLUME_FLAGS_AT, VOLUME_DIRTY = 106, 0x2  # of the boot sector of exFAT (Microsoft's specification, 3.1.13)


@dataclass(frozen=True, slots=True)
class UsedBlocks:
    """What of a device is captured."""

    size_bytes: int
    runs: tuple[Run, ...]

    @property
    def used_bytes(self) -> int:
        return sum(each.size for each in self.runs)


@contextmanager
def held(node: Path) -> Iterator[None]:
    """Nobody mounts the device while it is read; RefusedError when somebody has."""
    try:
        descriptor = os.open(node, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise RefusedError(
                f"{node} is mounted, or held by another program; its blocks would change while they are read",
                f"unmount it, or leave it out with --without {node.name}",
            ) from None
        raise TargetIOError(f"{node} cannot be opened: {error.strerror}", "capture as root") from None
    try:
        yield
    finally:
        os.close(descriptor)


def read_used_blocks(node: Path, kind: str, whole: bool) -> UsedBlocks:
    """What is used of the file system ``kind`` on a held device. Raises RefusedError when its own map is in doubt."""
    size = device_bytes(node)
    program = "" if whole else MAPPERS.get(kind, "")
    if not program:
        return UsedBlocks(size, (Run(0, size),) if size else ())
    if kind in EXT:
        _refuse_unclean_ext(node, kind)
    elif kind == "exfat":
        _refuse_unclean_exfat(node)
    found = UsedBlocks(size, used_runs(_map(program, node, kind), size))
    if kind == "ntfs":
        _refuse_unclean_ntfs(node)
    return found


def device_bytes(node: Path) -> int:
    """Size of a block device or of an image file."""
    descriptor = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        return os.lseek(descriptor, 0, os.SEEK_END) if stat.S_ISBLK(found.st_mode) else found.st_size
    finally:
        os.close(descriptor)


def _refuse_unclean_ext(node: Path, kind: str) -> None:
    """What partclone 0.3.23 passes over: the bitmap is older than the journal, and its counts of free blocks, too.

    Without a journal it refuses what was not unmounted cleanly, as it does on FAT.
    """
    if int.from_bytes(_read(node, SUPERBLOCK_AT + 0x60, 4), "little") & RECOVER:  # s_feature_incompat
        raise RefusedError(
            f"{kind} on {node} was not unmounted cleanly: its journal holds changes that were not written back, and "
            "its map of used blocks is older than they are",
            _hint(node, "mount it once and unmount it, which plays the journal back"),
        )


def _refuse_unclean_exfat(node: Path) -> None:
    """What partclone 0.3.23 passes over, too: the bitmap may lack what was written last."""
    if int.from_bytes(_read(node, VOLUME_FLAGS_AT, 2), "little") & VOLUME_DIRTY:
        raise RefusedError(
            f"exfat on {node} was not unmounted cleanly: its map of used blocks may be wrong",
            _hint(node, f"let Windows check it, or ‘fsck.exfat {node}’"),
        )


def _refuse_unclean_ntfs(node: Path) -> None:
    """What partclone, which has refused volumes marked dirty, does not look for. The probe writes nothing."""
    status = run(["ntfs-3g.probe", "--readwrite", node], accept=range(256)).status
    if status == HIBERNATED:
        raise RefusedError(
            f"the Windows on {node} is hibernated or was shut down with fast start: what it holds is only half on disk",
            _hint(node, "start it and shut it down with ‘shutdown /s /t 0’"),
        )
    if status == UNCLEAN:
        raise RefusedError(
            f"ntfs on {node} was not unmounted cleanly: its map of used blocks may be wrong",
            _hint(node, "start Windows, let it check the disk and shut it down"),
        )


def _map(program: str, node: Path, kind: str) -> str:
    with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
        told, log = Path(folder) / "map", Path(folder) / "log"
        try:
            run([program, "--domain", "--quiet", "--source", node, "--output", told, "--logfile", log],
                timeout_s=MAP_TIMEOUT_S)  # fmt: skip
        except ProcessError as error:
            if error.status == 127:
                raise RefusedError(
                    f"{program} is not installed; it tells which blocks of {kind} on {node} are used",
                    _hint(node, "install the package partclone"),
                ) from None
            lines = [line.strip() for line in error.stderr.splitlines() if line.strip()]
            said = " ".join(line for line in lines if not line.startswith(("Partclone", "Starting")))
            raise RefusedError(
                f"which blocks of {kind} on {node} are used cannot be told: {said or 'partclone failed'}",
                _hint(node, "let the system it belongs to check it, and shut that down"),
            ) from None
        return told.read_text(errors="replace")


def _read(node: Path, at: int, size: int) -> bytes:
    descriptor = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, size, at)
    finally:
        os.close(descriptor)


def _hint(node: Path, first: str) -> str:
    return f"{first}; or take every byte of it with --whole {node.name}, or leave it out with --without {node.name}"
