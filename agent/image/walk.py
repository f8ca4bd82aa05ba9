"""Walks a volume in restore order and cuts it into work: a directory, its files by name, then its directories."""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

import msgspec

from agent.image.flags import read_flags
from agent.image.listing import DIRECTORY, PART_BYTES, Entry, text_and_raw
from agent.image.metadata import read_xattrs
from agent.model.image import Excluded

BATCH_BYTES = 8 << 20
BATCH_ENTRIES = 1024

# Contents that a running system makes anew. The directories themselves travel.
DEFAULT_EXCLUDES: tuple[tuple[str, str], ...] = (
    ("/proc/*", "made by the kernel"),
    ("/sys/*", "made by the kernel"),
    ("/dev/*", "made by the kernel"),
    ("/run/*", "lives until shutdown only"),
    ("/tmp/*", "temporary files"),
    ("/var/tmp/*", "temporary files"),
    ("/var/cache/apt/archives/*.deb", "packages that apt can fetch again"),
)


Name = tuple[bytes, bytes, bool]  # last part of the path; hard link to this path, if it is one; whether it is a file


class Batch(msgspec.Struct, tag="batch"):
    """Neighbours in the walk. Each folder: its path, its own entry if it begins here, its names."""

    seq: int
    volume: int
    folders: list[tuple[bytes, Entry | None, list[Name]]]


class Part(msgspec.Struct, tag="part"):
    """32 MiB of a large file; the first part writes the file's entry."""

    seq: int
    volume: int
    name: bytes
    at: int
    size: int
    mtime: int


@dataclass(slots=True)
class Walk:
    """A walk over one volume. ``excluded`` and ``unreadable`` are complete once it has ended."""

    volume: int
    root: Path
    mountpoint: str  # where the volume belongs in the system it is part of
    patterns: tuple[tuple[str, str], ...]
    skipped_inodes: dict[tuple[int, int], str]
    crosses_devices: bool  # btrfs gives every subvolume a device number of its own
    excluded: dict[str, Excluded] = field(default_factory=dict)
    unreadable: list[Excluded] = field(default_factory=list)
    _links: dict[tuple[int, int], bytes] = field(default_factory=dict)
    _seq: int = 0
    _folders: list[tuple[bytes, Entry | None, list[Name]]] = field(default_factory=list)
    _bytes: int = 0
    _count: int = 0

    def work(self, seq: int) -> Iterator[Batch | Part]:
        """Everything there is to read, numbered from ``seq``."""
        self._seq = seq
        mounts = mount_points()
        own = (self.mountpoint.rstrip("/") + "/lost+found/*", "belongs to the file system, not to its files")
        self.patterns += (own,)
        matcher = _matcher(self.patterns)
        top = os.path.realpath(os.fsencode(self.root))
        device = os.stat(top).st_dev
        pending = [b""]
        while pending:
            name = pending.pop()
            below: list[bytes] = []
            # No link is followed on the way down, so this is the path that the kernel's mount table names.
            where = os.path.join(top, name) if name else top
            foreign = bool(name) and where in mounts
            yield from self._folder(name, where, below, None if foreign else device, matcher)
            pending.extend(reversed(below))
        yield from self._cut()

    def system_path(self, name: bytes) -> str:
        """The path as the running system knows it."""
        return (self.mountpoint.rstrip("/") + "/" + os.fsdecode(name)).rstrip("/") or "/"

    def _folder(
        self, name: bytes, where: bytes, below: list[bytes], device: int | None, matcher: re.Pattern[str]
    ) -> Iterator[Batch | Part]:
        """One directory; a mount point (``device`` None) or another file system's comes without what is in it."""
        try:
            descriptor = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as error:
            self._unread(name, error)
            return
        try:
            found = os.fstat(descriptor)
            foreign = device is None or (found.st_dev != device and not self.crosses_devices)
            self._folders.append((name, self._directory(name, descriptor, found), []))
            self._count += 1
            if foreign:
                self._exclude(self.system_path(name), "another file system")
            else:
                yield from self._children(name, descriptor, below, matcher)
        except OSError as error:
            self._unread(name, error)
        finally:
            os.close(descriptor)

    def _directory(self, name: bytes, descriptor: int, found: os.stat_result) -> Entry:
        path, raw = text_and_raw(name)
        return Entry(
            path=path, raw=raw, type=DIRECTORY, mode=stat.S_IMODE(found.st_mode), uid=found.st_uid, gid=found.st_gid,
            mtime=found.st_mtime_ns, xattrs=read_xattrs(descriptor), flags=read_flags(descriptor),
        )  # fmt: skip

    def _children(
        self, folder: bytes, descriptor: int, below: list[bytes], matcher: re.Pattern[str]
    ) -> Iterator[Batch | Part]:
        with os.scandir(descriptor) as scan:
            children = [(os.fsencode(child.name), child) for child in scan]
        children.sort(key=itemgetter(0))
        prefix = self.system_path(folder).rstrip("/") + "/"
        for last, child in children:
            name = folder + b"/" + last if folder else last
            match = matcher.match(prefix + child.name)
            if match:
                self._exclude(*self.patterns[int(str(match.lastgroup)[1:])])
                continue
            try:
                found = child.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            reason = self.skipped_inodes.get((found.st_dev, found.st_ino))
            if reason:
                self._exclude(self.system_path(name), reason)
            elif stat.S_ISDIR(found.st_mode):
                below.append(name)
            else:
                yield from self._file(folder, last, name, found)

    def _file(self, folder: bytes, last: bytes, name: bytes, found: os.stat_result) -> Iterator[Batch | Part]:
        target = b""
        if found.st_nlink > 1:
            target = self._links.setdefault((found.st_dev, found.st_ino), name)
            target = b"" if target == name else target
        if stat.S_ISREG(found.st_mode) and found.st_size > PART_BYTES and not target:
            yield from self._cut()
            for at in range(0, found.st_size, PART_BYTES):
                yield Part(self._next(), self.volume, name, at, found.st_size, found.st_mtime_ns)
            return
        if not self._folders or self._folders[-1][0] != folder:
            self._folders.append((folder, None, []))
        regular = stat.S_ISREG(found.st_mode)
        self._folders[-1][2].append((last, target, regular))
        self._bytes += found.st_size if regular else 0
        self._count += 1
        if self._bytes >= BATCH_BYTES or self._count >= BATCH_ENTRIES:
            yield from self._cut()

    def _cut(self) -> Iterator[Batch]:
        if self._folders:
            yield Batch(self._next(), self.volume, self._folders)
        self._folders, self._bytes, self._count = [], 0, 0

    def _next(self) -> int:
        self._seq += 1
        return self._seq - 1

    def _exclude(self, path: str, reason: str) -> None:
        self.excluded.setdefault(path, Excluded(_printable(path), reason))

    def _unread(self, name: bytes, error: OSError) -> None:
        self.unreadable.append(Excluded(_printable(self.system_path(name)), error.strerror or str(error)))


def _printable(path: str) -> str:
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _matcher(patterns: tuple[tuple[str, str], ...]) -> re.Pattern[str]:
    """One expression for all patterns; the group's number says which."""
    if not patterns:
        return re.compile(r"(?!)")
    return re.compile("|".join(f"(?P<p{number}>{fnmatch.translate(p)})" for number, (p, _) in enumerate(patterns)))


def mount_points() -> frozenset[bytes]:
    """Where something is mounted now (proc(5), /proc/pid/mountinfo, field 5 with octal escapes)."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return frozenset()
    fields = (line.split(b" ")[4] for line in lines)
    return frozenset(re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), each) for each in fields)


def swap_inodes(root: Path) -> dict[tuple[int, int], str]:
    """Swap files, in use or named by the fstab below ``root``: made anew at a restore, never copied."""
    paths: list[Path] = []
    try:
        swaps = Path("/proc/swaps").read_text().splitlines()[1:]
        paths += [Path(line.split()[0]) for line in swaps if line.split()[1] == "file"]
    except (OSError, IndexError):
        pass
    try:
        fstab = (root / "etc/fstab").read_text(errors="replace").splitlines()
    except OSError:
        fstab = []
    rows = [line.split() for line in fstab if not line.lstrip().startswith("#")]
    paths += [root / row[0].lstrip("/") for row in rows if len(row) > 2 and row[2] == "swap" and row[0].startswith("/")]
    found: dict[tuple[int, int], str] = {}
    for path in paths:
        try:
            status = path.lstat()
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            found[(status.st_dev, status.st_ino)] = "swap file"
    return found
