"""The one way to look into a system's files, whether it runs, lies below a directory, or is inside an image.

Decisions take a ``Tree``; `agent.probe.live_tree` and `agent.image.image_tree` provide them.
Paths are absolute inside the tree, ``/etc/fstab``; symbolic links are resolved inside the tree only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

# What a machine may put into files of the restored system: nothing that a shell, a udev rule or a table would read
# as more than a word; \040 and its like are how fstab writes a space.
SAFE = re.compile(r"(?:[A-Za-z0-9 ._:/=,@+~-]|\\0[0-7]{2})*")
MAX_LINKS = 40  # as Linux: MAXSYMLINKS


class Tree(Protocol):
    """Read-only view of a root file system with everything mounted below it."""

    def read_bytes(self, path: str) -> bytes:
        """Content of the regular file at ``path``, links followed. Raises FileNotFoundError."""

    def exists(self, path: str) -> bool:
        """Whether ``path`` is there, links followed."""

    def is_file(self, path: str) -> bool:
        """Whether ``path`` is a regular file, links followed."""

    def size(self, path: str) -> int:
        """Bytes of the regular file at ``path``, links followed; 0 where there is none."""

    def list_dir(self, path: str) -> tuple[str, ...]:
        """Sorted names in the directory at ``path``; empty when there is no such directory."""

    def read_link(self, path: str) -> str | None:
        """Target text of the symbolic link at ``path`` itself; None when it is not one."""


def read_text(tree: Tree, path: str) -> str:
    """Text of a file, undecodable bytes kept as surrogates; empty when it does not exist."""
    try:
        return tree.read_bytes(path).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return ""


def plain_names(tree: Tree, path: str) -> tuple[str, ...]:
    """Names in a directory that may be filled into a recipe; files of other names are nobody's configuration."""
    return tuple(name for name in tree.list_dir(path) if SAFE.fullmatch(name))


@dataclass(frozen=True, slots=True)
class MemoryTree:
    """A tree given as a mapping of path to text: what recipes' own tests and rehearsals of decisions use."""

    files: Mapping[str, bytes]

    def read_bytes(self, path: str) -> bytes:
        try:
            return self.files[path]
        except KeyError:
            raise FileNotFoundError(path) from None

    def exists(self, path: str) -> bool:
        return path in self.files or any(name.startswith(path.rstrip("/") + "/") for name in self.files)

    def is_file(self, path: str) -> bool:
        return path in self.files

    def size(self, path: str) -> int:
        return len(self.files.get(path, b""))

    def list_dir(self, path: str) -> tuple[str, ...]:
        parent = PurePosixPath(path)
        below = (PurePosixPath(name) for name in self.files)
        return tuple(sorted({p.relative_to(parent).parts[0] for p in below if parent in p.parents}))

    def read_link(self, path: str) -> str | None:
        return None
