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

from agent.image.entry import DIRECTORY, PART_BYTES, Entry, text_and_raw
from agent.image.flags import read_flags
from agent.image.long_path import open_path
from agent.image.metadata import mtime_of, read_xattrs
from agent.image.mount_points import mount_points
from agent.image.previous import Known, Previous, folder_key
from agent.image.stamps import Stamp, stamp
from agent.image.system_path import printed, system_path
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
    ("/var/cache/apt/archives/partial/*", "packages that apt can fetch again"),
    ("/var/cache/apt/*pkgcache.bin", "made anew by apt"),
    ("/var/cache/dnf/*", "packages and lists that dnf fetches again"),
    ("/var/cache/libdnf5/*", "packages and lists that dnf fetches again"),
    ("/var/cache/yum/*", "packages and lists that yum fetches again"),
    ("/var/cache/zypp/*", "packages and lists that zypper fetches again"),
    ("/var/cache/PackageKit/*", "packages and lists that PackageKit fetches again"),
)


Name = tuple[bytes, bytes, bool]  # last part of the path; hard link to this path, if it is one; whether it is a file
Folder = tuple[bytes, Entry | None, list[Name | Entry]]  # path; own entry if it begins here; names, and known entries


class Batch(msgspec.Struct, tag="batch"):
    """Neighbours in the walk. What the last image knew already is there with its entries."""

    seq: int
    volume: int
    folders: list[Folder]
    stamps: list[Stamp]  # of the entries above, those of type "more" left out
    unread: int  # names that have to be looked at


class Part(msgspec.Struct, tag="part"):
    """32 MiB of a large file; the first part writes the file's entry."""

    seq: int
    volume: int
    name: bytes
    at: int
    size: int
    mtime: int
    stamp: Stamp


@dataclass(slots=True)
class Walk:
    """A walk over one volume. ``excluded`` and ``unreadable`` are complete once it has ended."""

    volume: int
    root: Path
    mountpoint: str  # where the volume belongs in the system it is part of
    patterns: tuple[tuple[str, str], ...]
    skipped_inodes: dict[tuple[int, int], str]
    crosses_devices: bool  # btrfs gives every subvolume a device number of its own
    previous: Previous | None = None
    stamps_before_ns: int = 0  # later changes tell nothing
    live: Path | None = None  # where the volume is in use, when ``root`` is a snapshot of it
    excluded: dict[str, Excluded] = field(default_factory=dict)
    unreadable: list[Excluded] = field(default_factory=list)
    unchanged: int = 0  # files that the last image knew
    _links: dict[tuple[int, int], bytes] = field(default_factory=dict)
    _starts: frozenset[str] = frozenset()  # of the patterns, up to what is no plain text in them
    _seq: int = 0
    _folders: list[Folder] = field(default_factory=list)
    _stamps: list[Stamp] = field(default_factory=list)
    _key: bytes = b""  # of the folder the walk is in
    _bytes: int = 0
    _unread_names: int = 0
    _count: int = 0

    def work(self, seq: int) -> Iterator[Batch | Part]:
        """Everything there is to read, numbered from ``seq``."""
        self._seq = seq
        mounts = mount_points(self.root, self.live)
        own = (self.mountpoint.rstrip("/") + "/lost+found/*", "belongs to the file system, not to its files")
        self.patterns += (own,)
        matcher = _matcher(self.patterns)
        self._starts = frozenset(re.split(r"[*?[]", glob, maxsplit=1)[0] for glob, _ in self.patterns)
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
        return system_path(self.mountpoint, name)

    def _folder(
        self, name: bytes, where: bytes, below: list[bytes], device: int | None, matcher: re.Pattern[str]
    ) -> Iterator[Batch | Part]:
        """One directory; a mount point (``device`` None) or another file system's comes without what is in it."""
        try:
            descriptor = open_path(where, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as error:
            self._unread(name, error)
            return
        try:
            found = os.fstat(descriptor)
            foreign = device is None or (found.st_dev != device and not self.crosses_devices)
            self._key = folder_key(name)
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
        self._stamps.append(stamp(found, self.stamps_before_ns))
        if (known := self._unchanged(b"", found)) is not None:
            return known.entry
        path, raw = text_and_raw(name)
        return Entry(
            path=path, raw=raw, type=DIRECTORY, mode=stat.S_IMODE(found.st_mode), uid=found.st_uid, gid=found.st_gid,
            mtime=mtime_of(found), xattrs=read_xattrs(descriptor), flags=read_flags(descriptor),
        )  # fmt: skip

    def _children(
        self, folder: bytes, descriptor: int, below: list[bytes], matcher: re.Pattern[str]
    ) -> Iterator[Batch | Part]:
        with os.scandir(descriptor) as scan:
            children = [(os.fsencode(child.name), child) for child in scan]
        children.sort(key=itemgetter(0))
        prefix = self.system_path(folder).rstrip("/") + "/"
        may_match = any(start.startswith(prefix) or prefix.startswith(start) for start in self._starts)
        for last, child in children:
            name = folder + b"/" + last if folder else last
            if may_match and (match := matcher.match(prefix + child.name)):
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
        regular = stat.S_ISREG(found.st_mode)
        known = None if target else self._unchanged(last, found)
        if regular and found.st_size > PART_BYTES and not target and known is None:
            yield from self._cut()
            mark = stamp(found, self.stamps_before_ns)
            for at in range(0, found.st_size, PART_BYTES):
                yield Part(self._next(), self.volume, name, at, found.st_size, mtime_of(found), mark)
            return
        if not self._folders or self._folders[-1][0] != folder:
            self._folders.append((folder, None, []))
        names = self._folders[-1][2]
        self._count += 1
        if known is not None:
            names.append(known.entry)
            names.extend(known.more)
            self._stamps.append(known.stamp)
            self.unchanged += 1
        else:
            names.append((last, target, regular))
            self._unread_names += not target
            self._bytes += found.st_size if regular else 0
        if self._bytes >= BATCH_BYTES or self._count >= BATCH_ENTRIES:
            yield from self._cut()

    def _unchanged(self, last: bytes, found: os.stat_result) -> Known | None:
        return self.previous.unchanged(self._key, last, found) if self.previous is not None else None

    def _cut(self) -> Iterator[Batch]:
        if self._folders:
            yield Batch(self._next(), self.volume, self._folders, self._stamps, self._unread_names)
        self._folders, self._stamps = [], []
        self._bytes = self._count = self._unread_names = 0

    def _next(self) -> int:
        self._seq += 1
        return self._seq - 1

    def _exclude(self, path: str, reason: str) -> None:
        self.excluded.setdefault(path, Excluded(printed(path), reason))

    def _unread(self, name: bytes, error: OSError) -> None:
        self.unreadable.append(Excluded(printed(self.system_path(name)), error.strerror or str(error)))


def _matcher(patterns: tuple[tuple[str, str], ...]) -> re.Pattern[str]:
    """One expression for all patterns; the group's number says which."""
    if not patterns:
        return re.compile(r"(?!)")
    return re.compile("|".join(f"(?P<p{number}>{fnmatch.translate(p)})" for number, (p, _) in enumerate(patterns)))


def status_in(root: Path, live: Path | None, place: Path) -> tuple[int, int] | None:
    """Device and inode of a place of the running system, as a walk over ``root`` meets them; None: it does not."""
    where = place
    if live is not None:
        try:
            where = root / place.resolve().relative_to(live.resolve())
        except ValueError:
            return None
    try:
        found = where.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


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
