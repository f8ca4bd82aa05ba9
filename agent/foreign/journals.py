"""Journals of a disk image that was taken while its system ran: played back on a copy, by the kernel, or refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agent.errors import DamagedError, RefusedError
from agent.model.storage import Disk
from agent.probe.captured_mounts import KINDS
from agent.probe.disks import partition_name
from agent.probe.filesystems import unclean
from agent.probe.stack_open import Places
from agent.process import ProcessError, run


def dirty(disk: Disk) -> Iterator[tuple[int, Path, str, str]]:
    """Partition number, node, kind and reason of every file system that was not unmounted cleanly."""
    for number, held in Places(disk).contents():
        node = Path("/dev") / (partition_name(Path("/"), disk.name, number) if number else disk.name)
        reason = unclean(node, held.kind) if held.kind in KINDS else ""
        if reason:
            yield number, node, held.kind, reason


def refuse_dirty(disk: Disk) -> None:
    for number, _, kind, reason in dirty(disk):
        raise RefusedError(
            f"{kind} on {place(number)} of the image was not unmounted cleanly: {reason}",
            "let --replay play it back on a copy, or shut the system down and take the image again",
        )


def play_back(disk: Disk, mount_root: Path) -> None:
    """Mount every file system with a journal to play back, once. The disk must be a copy: it is written."""
    mount_root.mkdir(parents=True, exist_ok=True)
    for number, node, kind, _ in dirty(disk):
        try:
            run(["mount", "-t", kind, "-o", "rw,nosuid,nodev,noexec", node, mount_root])
        except ProcessError as error:
            raise DamagedError(
                f"the journal of {kind} on {place(number)} cannot be played back: {error.stderr.strip()}",
                "repair a copy of the image with fsck, then import that",
            ) from error
        run(["umount", mount_root])


def place(number: int) -> str:
    return f"partition {number}" if number else "the whole disk"
