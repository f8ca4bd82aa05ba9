"""Files put into the tree of an image, and taken out of it, without a program: the change that a list can say."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.errors import PatchError, UsageError
from agent.image.target import remove
from agent.restore.inside import InsideRoot


@dataclass(frozen=True, slots=True)
class FileEdits:
    """Paths are the system's own. A file that was there keeps owner and mode; a new one is root's, with ours."""

    put: tuple[tuple[Path, str], ...] = ()  # our file → its path there
    remove: tuple[str, ...] = ()  # files, or directories with all they hold


def parse_put(text: str) -> tuple[Path, str]:
    """``motd:/etc/motd``."""
    ours, colon, path = text.partition(":/")
    if not colon or not ours or not Path(ours).is_file():
        raise UsageError(f"--put ‘{text}’ is not understood; expected FILE:/PATH with a file that is there")
    return Path(ours), "/" + path


def edited(edits: FileEdits) -> Callable[[Path], None]:
    """The change for `edit_image`. No link of the tree leads out of it, whatever the paths are."""

    def change(root: Path) -> None:
        inside = InsideRoot(root)
        for path in edits.remove:
            _remove(inside, path)
        for ours, path in edits.put:
            inside.write(path, ours.read_bytes(), mode=ours.stat().st_mode & 0o777)

    return change


def _remove(inside: InsideRoot, path: str) -> None:
    folder, _, name = path.rstrip("/").rpartition("/")
    if name in ("", ".", "..") or not inside.lexists(path.rstrip("/")):
        raise PatchError(f"{path} cannot be removed: it is not there", "paths begin at the system’s root")
    descriptor = inside.open(folder or "/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        remove(descriptor, os.fsencode(name), os.fstat(descriptor).st_dev)
    finally:
        os.close(descriptor)
