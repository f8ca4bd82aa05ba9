"""The data sets: file systems in image files, made once and kept as long as what they depend on is the same.

system ──► second (the same on another machine), drifted (1 % changed)       large       ntfs
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from agent.process import run
from tests.bench import drift, identity, large, system, windows
from tests.bench.filesystems import copy_sparse, make_ext4, mounted, partition_of
from tests.bench.tree import Size, copy_part_of_usr, copy_tree, size_of

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "regraft" / "bench"
LARGE_BYTES = 10 * 10**9
ROOM = 1.15  # of a file system, over its content
NTFS_MIB = 2048


class Facts(msgspec.Struct, frozen=True):
    """What is known of a data set; written last, so that a set without it is unfinished."""

    size: Size
    how: str


@dataclass(frozen=True, slots=True)
class Data:
    """A data set: an unmounted file system in a file."""

    name: str
    image: Path
    facts: Facts

    @property
    def bytes(self) -> int:
        return self.facts.size.bytes

    @property
    def image_bytes(self) -> int:
        return self.image.stat().st_size

    @property
    def inodes(self) -> int:
        """Enough for a file system that holds the same."""
        return self.facts.size.entries * 5 // 4 + 4096


Fill = Callable[[Path], str]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the system comes from: Debian's packages, a disk's partition, a tree, or (``mib``) a small part of /usr."""

    mib: int = 0
    disk: Path | None = None
    partition: int = 2
    tree: Path | None = None

    @property
    def whole(self) -> bool:
        return not (self.mib or self.disk or self.tree)


@dataclass(frozen=True, slots=True)
class DataSets:
    """Finds and makes them below ``home``; only those of the whole bench are kept when it ends."""

    home: Path
    origin: Origin
    say: Callable[[str], None]
    used: dict[str, Data] = field(default_factory=dict)

    def system(self) -> Data:
        if "system" in self.used:
            return self.used["system"]
        if self.origin.whole:
            return self._made("system", system.IMAGE_BYTES, system.make_system, key_of(system, identity))
        size = self._small_bytes()
        return self._made("system", round(size * ROOM) + (256 << 20), self._fill_small, "small")

    def large(self) -> Data:
        size = self.origin.mib << 20 or LARGE_BYTES
        image_bytes = round(size * 1.02) + (256 << 20)
        return self._made("large", image_bytes, lambda root: large.make_large(root, size), key_of(large))

    def second(self) -> Data:
        return self._changed("second", drift.make_second)

    def drifted(self) -> Data:
        return self._changed("drifted", drift.make_drifted)

    def ntfs(self) -> Data:
        """A Windows volume with a part of the system's files, half full."""
        base, size = self.system(), (self.origin.mib or NTFS_MIB) << 20
        folder = self.home / f"ntfs-{digest(base.image.parent.name, key_of(windows), str(size))}"
        with self._finished(folder) as facts:
            if facts is None:
                self.say("ntfs: being made")
                image = folder / "ntfs.img"
                with mounted(base.image, folder / "system", "ro,noload") as root:
                    made, how = windows.make_ntfs(image, root, size)
                keep(folder, Facts(made, how))
        return self._found("ntfs", folder)

    def _fill_small(self, root: Path) -> str:
        origin = self.origin
        if origin.disk:
            with partition_of(origin.disk, origin.partition, self.home / "disk") as at:
                copy_tree(at, root)
            return f"partition {origin.partition} of {origin.disk.name}"
        if origin.tree:
            copy_tree(origin.tree, root)
            return f"a copy of {origin.tree}"
        copy_part_of_usr(root, origin.mib << 20)
        identity.give_identity(root, identity.FIRST)
        return f"{origin.mib} MiB of this machine’s /usr, with an identity of its own"

    def _small_bytes(self) -> int:
        if self.origin.disk:
            with partition_of(self.origin.disk, self.origin.partition, self.home / "disk") as at:
                return size_of(at).bytes * 5 // 4
        return (self.origin.mib << 20) * 5 // 4 or (size_of(self.origin.tree).bytes if self.origin.tree else 0)

    def _made(self, name: str, image_bytes: int, fill: Fill, key: str) -> Data:
        folder = self.home / f"{name}-{digest(key, str(image_bytes))}"
        with self._finished(folder) as facts:
            if facts is None:
                self.say(f"{name}: being made")
                make_ext4(folder / f"{name}.img", image_bytes, image_bytes // 8192)
                self._fill(folder, name, fill)
        return self._found(name, folder)

    def _changed(self, name: str, change: Fill) -> Data:
        base = self.system()
        folder = self.home / f"{name}-{digest(base.image.parent.name, key_of(drift, identity))}"
        with self._finished(folder) as facts:
            if facts is None:
                self.say(f"{name}: being made")
                copy_sparse(base.image, folder / f"{name}.img")
                self._fill(folder, name, change)
        return self._found(name, folder)

    def _fill(self, folder: Path, name: str, fill: Fill) -> None:
        with mounted(folder / f"{name}.img", folder / "tree") as root:
            how = fill(root)
            size = size_of(root)
            run(["fstrim", root])  # what was written and removed is a hole again, as on a disk that is cared for
        keep(folder, Facts(size, how))

    def _found(self, name: str, folder: Path) -> Data:
        self.used[name] = Data(name, folder / f"{name}.img", read_facts(folder))
        return self.used[name]

    @contextmanager
    def _finished(self, folder: Path) -> Iterator[Facts | None]:
        """The facts of a finished set; None: an empty folder to make it in, for one process at a time."""
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (folder / "facts.json").exists():
                yield read_facts(folder)
                return
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            yield None


def keep(folder: Path, facts: Facts) -> None:
    (folder / "facts.json").write_bytes(msgspec.json.encode(facts))


def read_facts(folder: Path) -> Facts:
    return msgspec.json.decode((folder / "facts.json").read_bytes(), type=Facts)


def key_of(*modules: object) -> str:
    """Of the code that makes a set, not of its words; Debian's packages are those of the day it is made."""
    return digest(*(code_of(Path(str(getattr(module, "__file__", ""))).read_text()) for module in modules))


def code_of(source: str) -> str:
    """A module without comments, docstrings and formatting."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            body[0].value = ast.Constant(None)
    return ast.unparse(tree)


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
