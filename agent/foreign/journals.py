"""Journals of a disk image that was taken while its system ran: played back on a copy, by the kernel, or refused."""

from __future__ import annotations

from pathlib import Path

from agent.errors import DamagedError
from agent.model.profile import Disk
from agent.probe.disks import partition_name
from agent.probe.filesystems import unclean
from agent.probe.source import KINDS, contents
from agent.process import ProcessError, run


def play_back(disk: Disk, mount_root: Path) -> tuple[str, ...]:
    """Mount every file system with a journal to play back, once; the nodes. The disk must be a copy: it is written."""
    played: list[str] = []
    for number, held in contents(disk):
        node = Path("/dev") / (partition_name(Path("/"), disk.name, number) if number else disk.name)
        if held.kind not in KINDS or not unclean(node, held.kind):
            continue
        mount_root.mkdir(parents=True, exist_ok=True)
        try:
            run(["mount", "-t", held.kind, "-o", "rw,nosuid,nodev,noexec", node, mount_root])
        except ProcessError as error:
            raise DamagedError(
                f"the journal of {held.kind} on partition {number} cannot be played back: {error.stderr.strip()}",
                "repair a copy of the image with fsck, then import that",
            ) from error
        run(["umount", mount_root])
        played.append(str(node))
    return tuple(played)
