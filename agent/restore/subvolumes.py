"""The subvolumes of a btrfs that is made anew: names, nesting and the default as on the source."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from agent.errors import TargetIOError
from agent.model.plan import PlannedFilesystem, PlannedSubvolume
from agent.process import run

INODE = 256  # of every subvolume's root: BTRFS_FIRST_FREE_OBJECTID


def make_subvolumes(node: Path, planned: Sequence[PlannedSubvolume]) -> None:
    """Make every subvolume, those around others first; directories between them are made with the trees' own later."""
    if not planned:
        return
    with mounted_top(node) as top:
        for each in planned:
            place = _place(top, each)
            place.parent.mkdir(parents=True, exist_ok=True)
            run(["btrfs", "subvolume", "create", place])
            if each.default:
                run(["btrfs", "subvolume", "set-default", place])


def missing_subvolumes(node: Path, planned: PlannedFilesystem) -> list[str]:
    """Those that are not there, or not the default as they should be."""
    if not planned.subvolumes:
        return []
    with mounted_top(node) as top:
        default = run(["btrfs", "subvolume", "get-default", top]).stdout.strip()
        return [each.path for each in planned.subvolumes if not _is_there(top, each, default)]


def _is_there(top: Path, each: PlannedSubvolume, default: str) -> bool:
    place = _place(top, each)
    made = place.is_dir() and not place.is_symlink() and place.stat().st_ino == INODE
    return made and (not each.default or default.endswith(f" path {each.path.strip('/')}"))


def _place(top: Path, each: PlannedSubvolume) -> Path:
    place = top / each.path.strip("/")
    if place == top or not place.resolve().is_relative_to(top.resolve()):
        raise TargetIOError(f"subvolume ‘{each.path}’ cannot be made: its path leaves the file system")
    return place


@contextlib.contextmanager
def mounted_top(node: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
        run(["mount", "-t", "btrfs", "-o", "nosuid,nodev,noexec,subvol=/", node, folder])
        try:
            yield Path(folder)
        finally:
            run(["umount", folder])
