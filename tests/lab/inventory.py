"""What lies on a disk, seen from outside the product: content digests and all metadata, for comparing two disks.

Shares no line with the product's engine: a mistake there must not be able to hide itself here. Runs on the host as
root, on loop devices of the stopped machine's disk image, read-only.

    python -m tests.lab.inventory DISK.img > inventory.jsonl
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import struct
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.lab.programs import LabError, run

FS_IOC_GETFLAGS = 0x80086601
# Those that people set: secure-deletion 1, undelete 2, sync 8, immutable 10, append 20, no-dump 40, no-atime 80,
# journal-data 4000, no-tail 8000, dirsync 10000, top-dir 20000, no-cow 800000, project-inherit 20000000.
SETTABLE_FLAGS = 0x2083C0FB
# "lazytime" and friends do not change what is there; the journal must not be replayed by looking at it.
MOUNT_OPTIONS = {
    "ext4": "ro,noload",
    "ext3": "ro,noload",
    "ext2": "ro",
    "xfs": "ro,norecovery,nouuid",
    "btrfs": "ro,subvolid=5",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """Everything about one name that a restore must bring back."""

    kind: str
    mode: int
    owner: int
    group: int
    mtime_ns: int
    size: int = 0
    sha256: str = ""
    target: str = ""  # of a symbolic link
    device: str = ""
    linked_with: str = ""  # the first name of the same file, where it has several
    data_bytes: int = 0  # size without holes
    flags: int = 0
    xattrs: tuple[tuple[str, str], ...] = ()


Inventory = Mapping[str, Entry]


@dataclass(frozen=True, slots=True)
class Unlike:
    """One thing about one path that two disks do not agree on."""

    path: str
    what: str
    source: str
    restored: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what} is {self.restored or 'absent'}, expected {self.source or 'absent'}"


# --- reading ------------------------------------------------------------------------------------------------------

KINDS = {
    stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket", stat.S_IFCHR: "character device", stat.S_IFBLK: "block device",
}  # fmt: skip


def read_tree(root: Path, prefix: str = "") -> dict[str, Entry]:
    """All entries of the one file system that begins at ``root``, by their escaped path below ``prefix``."""
    found: dict[str, Entry] = {}
    first_names: dict[int, str] = {}
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found[prefix or "/"] = read_entry(descriptor, b".", prefix or "/", first_names)
        walk(descriptor, os.fstat(descriptor).st_dev, prefix, found, first_names)
    finally:
        os.close(descriptor)
    return found


def walk(directory: int, device: int, prefix: str, found: dict[str, Entry], first_names: dict[int, str]) -> None:
    """By descriptors: paths may be longer than the kernel takes at once."""
    for name in sorted(os.fsencode(name) for name in os.listdir(directory)):
        path = f"{prefix}/{escaped(name)}"
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        found[path] = read_entry(directory, name, path, first_names)
        if stat.S_ISDIR(info.st_mode) and info.st_dev == device:
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            try:
                walk(below, device, path, found, first_names)
            finally:
                os.close(below)


def read_entry(directory: int, name: bytes, path: str, first_names: dict[int, str]) -> Entry:
    info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    kind = KINDS[stat.S_IFMT(info.st_mode)]
    place = b"/proc/self/fd/%d/%s" % (directory, name)
    facts: dict[str, object] = {}
    if kind == "file":
        facts = read_file(place)
        facts["size"] = info.st_size
    elif kind == "directory":
        facts["flags"] = read_flags(place)
    elif kind == "link":
        facts["target"] = escaped(os.readlink(name, dir_fd=directory))
    elif kind.endswith("device"):
        facts["device"] = f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"
    if kind != "directory" and info.st_nlink > 1:
        facts["linked_with"] = first_names.setdefault(info.st_ino, path)
    return Entry(
        kind=kind,
        mode=stat.S_IMODE(info.st_mode),
        owner=info.st_uid,
        group=info.st_gid,
        mtime_ns=info.st_mtime_ns,
        xattrs=read_xattrs(place),
        **facts,  # type: ignore[arg-type]
    )


def read_file(place: bytes) -> dict[str, object]:
    digest = hashlib.sha256()
    with open(place, "rb", buffering=0) as file:
        while data := file.read(1 << 20):
            digest.update(data)
        return {"sha256": digest.hexdigest(), "data_bytes": data_bytes(file.fileno()), "flags": flags_of(file.fileno())}


def data_bytes(descriptor: int) -> int:
    """What is not a hole."""
    total, position, end = 0, 0, os.fstat(descriptor).st_size
    while position < end:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError:  # nothing but a hole follows
            break
        position = os.lseek(descriptor, start, os.SEEK_HOLE)
        total += position - start
    return total


def read_flags(place: bytes) -> int:
    descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return flags_of(descriptor)
    finally:
        os.close(descriptor)


def flags_of(descriptor: int) -> int:
    value = bytearray(8)
    try:
        fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, value)
    except OSError:  # a file system without flags
        return 0
    flags: int = struct.unpack("@l", value)[0]
    return flags & SETTABLE_FLAGS


def read_xattrs(place: bytes) -> tuple[tuple[str, str], ...]:
    """ACLs and capabilities are attributes too."""
    names = sorted(os.listxattr(place, follow_symlinks=False))
    return tuple((name, os.getxattr(place, name, follow_symlinks=False).hex()) for name in names)


def escaped(name: bytes) -> str:
    """Bytes that are not UTF-8 as ``\\xff``; the rest as it is."""
    return "".join(
        f"\\x{ord(char) - 0xDC00:02x}" if 0xDC80 <= ord(char) <= 0xDCFF else char
        for char in name.decode("utf-8", "surrogateescape")
    )


# --- the disk of a stopped machine --------------------------------------------------------------------------------


def read_disk(disk: Path, sector_bytes: int = 512) -> dict[str, Entry]:
    """All volumes of a disk, below the mount points that its own fstab gives them."""
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lab-inventory")))
        mounted: dict[str, Path] = {}
        for number, (start, size) in enumerate(partitions(disk, sector_bytes)):
            device = stack.enter_context(loop(disk, start, size, sector_bytes))
            facts = probe(device)
            if facts.get("TYPE") in MOUNT_OPTIONS:
                options = MOUNT_OPTIONS[facts["TYPE"]]
                mounted[facts["UUID"]] = stack.enter_context(mount(device, work / str(number), options))
        tops = [place for mount in mounted.values() for place in (mount, *subvolumes(mount))]
        root = next((place for place in tops if (place / "etc/fstab").is_file()), None)
        if root is None:
            raise LabError(f"no file system of {disk} has an /etc/fstab; found file systems {', '.join(mounted)}")
        found = read_tree(root)
        for (uuid, subvolume), mountpoint in fstab_places((root / "etc/fstab").read_text()).items():
            if uuid in mounted and mountpoint:
                # The mounted file system covers the directory it is mounted on.
                found.update(read_tree(mounted[uuid] / subvolume, mountpoint))
        return found


def subvolumes(top: Path) -> list[Path]:
    """Those right below the top of a btrfs: their first inode is always the same (btrfs, BTRFS_FIRST_FREE_OBJECTID)."""
    return sorted(place for place in top.iterdir() if place.is_dir() and place.lstat().st_ino == 256)


def partitions(disk: Path, sector_bytes: int) -> list[tuple[int, int]]:
    """Start and size in bytes. A table counts in sectors, and only a device says how large they are."""
    with loop(disk, 0, disk.stat().st_size, sector_bytes) as device:
        table = json.loads(run(["sfdisk", "--json", device]).stdout)["partitiontable"]
    sector = table.get("sectorsize", 512)
    extended = ("5", "f", "85")  # holds partitions, and no file system
    return [
        (part["start"] * sector, part["size"] * sector) for part in table["partitions"] if part["type"] not in extended
    ]


def probe(device: Path) -> dict[str, str]:
    said = run(["blkid", "--probe", "--output", "export", device], accept=(0, 2)).stdout
    return dict(line.partition("=")[::2] for line in said.splitlines() if "=" in line)


def fstab_places(fstab: str) -> dict[tuple[str, str], str]:
    """(UUID, subvolume) → mount point, "" for the root."""
    fields = [line.split() for line in fstab.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return {
        (words[0].removeprefix("UUID="), subvolume_of(words[3] if len(words) > 3 else "")): words[1].rstrip("/")
        for words in fields
        if len(words) > 1 and words[0].startswith("UUID=") and words[1].startswith("/")
    }


def subvolume_of(options: str) -> str:
    found = [word.removeprefix("subvol=") for word in options.split(",") if word.startswith("subvol=")]
    return found[0].strip("/") if found else ""


@contextmanager
def loop(disk: Path, start: int, size: int, sector_bytes: int) -> Iterator[Path]:
    words = ["losetup", "--find", "--show", "--read-only", f"--offset={start}", f"--sizelimit={size}"]
    if sector_bytes != 512:
        words.append(f"--sector-size={sector_bytes}")
    device = Path(run([*words, disk]).stdout.strip())
    try:
        yield device
    finally:
        run(["losetup", "--detach", device])


@contextmanager
def mount(device: Path, at: Path, options: str) -> Iterator[Path]:
    at.mkdir()
    run(["mount", "-o", options, device, at])
    try:
        yield at
    finally:
        run(["umount", at])


# --- comparing ----------------------------------------------------------------------------------------------------


def differences(
    source: Inventory, restored: Inventory, changed: Collection[str] = (), ignored: Callable[[str], bool] | None = None
) -> list[Unlike]:
    """What ``restored`` lacks, has too much, or has otherwise, without the paths ``changed`` and ``ignored``.

    A directory that holds such a path, or may have held one, may have another time, nothing else. Where the source
    has a hole, the copy must have one; it may have more of them.
    """

    def excused(path: str) -> bool:
        return path in changed or (ignored is not None and ignored(path))

    stirred = {path.rpartition("/")[0] or "/" for path in {*source, *restored, *changed} if excused(path)}
    unlike: list[Unlike] = []
    for path in sorted({*source, *restored}):
        if excused(path):
            continue
        was, now = source.get(path), restored.get(path)
        if was is None or now is None:
            unlike.append(Unlike(path, "entry", was.kind if was else "", now.kind if now else ""))
            continue
        wanted, found = asdict(was), asdict(now)
        for what, value in wanted.items():
            if found[what] == value or (what == "mtime_ns" and (path in stirred or excused(f"{path}/any name"))):
                continue
            if what == "data_bytes" and found[what] <= value:
                continue
            if what == "linked_with" and {value, found[what]} & set(changed):
                continue
            unlike.append(Unlike(path, what, str(value), str(found[what])))
    return unlike


def dump(inventory: Inventory) -> str:
    return "".join(json.dumps({"path": path, **asdict(entry)}) + "\n" for path, entry in inventory.items())


def load(text: str) -> dict[str, Entry]:
    found = {}
    for line in text.splitlines():
        facts = json.loads(line)
        facts["xattrs"] = tuple((name, value) for name, value in facts["xattrs"])
        path = facts.pop("path")
        found[path] = Entry(**facts)
    return found


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.stdout.write(dump(read_disk(Path(sys.argv[1]))))
