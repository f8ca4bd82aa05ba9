"""Trees of files: copied, counted, compared."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

import msgspec

from agent.process import run

PATIENCE_S = 3600.0
# What a capture of a system leaves out; taken away before anybody is measured, so that all pack the same.
LEFT_OUT = ("dev/*", "lost+found", "proc/*", "run/*", "sys/*", "tmp/*", "var/tmp/*", "var/cache/apt/archives/*.deb")


class Size(msgspec.Struct, frozen=True):
    """How much a tree holds. Files of several names count once in bytes."""

    entries: int
    files: int
    bytes: int


def copy_tree(source: Path, to: Path) -> None:
    """All of it, on one file system, with metadata."""
    run(["cp", "--archive", "--one-file-system", f"{source}/.", to], timeout_s=PATIENCE_S)
    remove_left_out(to, LEFT_OUT)


def remove_left_out(root: Path, patterns: Iterable[str]) -> None:
    for path in [path for pattern in patterns for path in root.glob(pattern)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def copy_part_of_usr(to: Path, limit_bytes: int) -> None:
    """This machine's /usr, folder by folder in the order of names, until the size is reached."""
    chosen, size_bytes = [], 0
    for folder, folders, files in os.walk("/usr"):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(folder, name)
            size_bytes += os.lstat(path).st_size
            if size_bytes > limit_bytes:
                break
            chosen.append(path)
        if size_bytes > limit_bytes:
            break
    names = b"".join(os.fsencode(path.removeprefix("/")) + b"\0" for path in chosen)
    run(["cpio", "--pass-through", "--null", "--make-directories", "--preserve-modification-time", "--quiet", to],
        stdin=names, cwd=Path("/"), timeout_s=PATIENCE_S)  # fmt: skip


def size_of(tree: Path) -> Size:
    """Count a tree; its own folder, and what the file system itself put there, are not in it."""
    entries, files, size_bytes = 0, 0, 0
    seen: set[int] = set()
    for folder, folders, names in os.walk(tree):
        if Path(folder) == tree and "lost+found" in folders:
            folders.remove("lost+found")
        entries += len(folders) + len(names)
        for name in names:
            found = os.lstat(os.path.join(folder, name))
            if stat.S_ISREG(found.st_mode):
                files += 1
                if found.st_nlink == 1 or found.st_ino not in seen:
                    size_bytes += found.st_size
                    seen.add(found.st_ino)
    return Size(entries, files, size_bytes)


def same(one: Path, other: Path, acls: bool = True, extra: bool = False) -> str:
    """What differs between two trees, or nothing: a result that is wrong is not fast.

    Names that only ``other`` has differ too, unless ``extra`` ones are allowed.
    """
    words = ["rsync", "-aHAXn" if acls else "-aHXn", *([] if extra else ["--delete"]), "--checksum",
             "--itemize-changes", f"{one}/", f"{other}/"]  # fmt: skip
    lines = run(words, timeout_s=PATIENCE_S).stdout.splitlines()
    # The folder of a fresh file system itself, and its own.
    return "\n".join(line for line in lines if not line.endswith((" ./", " lost+found/")))


def same_content(one: Path, other: Path) -> str:
    """What differs in names and bytes only, or nothing."""
    words = ["rsync", "-rn", "--delete", "--checksum", "--itemize-changes", f"{one}/", f"{other}/"]
    return run(words, timeout_s=PATIENCE_S).stdout.strip()
