"""A tree with everything that is awkward to carry, and a depot to carry it through."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from random import Random

from agent.depot.catalogue import LoadedImage, find_image
from agent.depot.local import LocalDepot
from agent.depot.signing import trusted_keys
from agent.image import flags
from agent.image.capture import CaptureResult, CaptureSource, SourceVolume, capture_image
from agent.model.events import Event
from agent.model.image import Excluded
from agent.model.profile import Profile
from agent.model.storage import FileSystem

MTIME = 1_600_000_000_123_456_789


def no_events(event: Event) -> None:
    """Nobody listens."""


@dataclass
class Carried:
    """An image in a depot of its own."""

    depot: LocalDepot
    result: CaptureResult
    loaded: LoadedImage


def profile(machine: str = "web-1") -> Profile:
    return Profile(machine=machine, time="2026-11-23T20:41:40Z", tool="test")


def source(tree: Path, kind: str = "ext4", mountpoint: str = "/", excludes: tuple[str, ...] = ()) -> CaptureSource:
    volume = SourceVolume("root", FileSystem(kind, mountpoint=mountpoint), tree)
    return CaptureSource(
        "web-1",
        "web-1.example",
        profile(),
        (),
        (volume,),
        tuple(Excluded(glob, "excluded by the test") for glob in excludes),
    )


def carry(
    tree: Path,
    depot: LocalDepot,
    kind: str = "ext4",
    excludes: tuple[str, ...] = (),
    previous: LoadedImage | None = None,
    read_all: bool = False,
) -> Carried:
    described = source(tree, kind, excludes=excludes)
    result = capture_image(described, depot, no_events, jobs=2, previous=previous, read_all=read_all)
    return Carried(depot, result, find_image(depot, trusted_keys(depot), result.ref))


def plain_tree(root: Path) -> None:
    """Files that any user can make."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "etc").mkdir()
    (root / "etc/hostname").write_text("web-1\n")
    (root / "etc/empty").write_bytes(b"")
    (root / "bin").symlink_to("usr/bin")
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/tool").write_bytes(b"\x7fELF" + bytes(range(256)) * 40)
    (root / "usr/bin/tool").chmod(0o755)
    os.link(root / "usr/bin/tool", root / "usr/bin/another")
    large = random_bytes(3 << 20)
    (root / "usr/large").write_bytes(large)
    (root / "usr/large-copy").write_bytes(large)
    (root / "usr/zeros").write_bytes(bytes(70_000))
    with (root / "usr/sparse").open("wb") as file:
        file.seek(5 << 20)
        file.write(b"in the middle")
        file.truncate(9 << 20)
    os.utime(root / "etc/hostname", ns=(MTIME, MTIME))
    os.utime(root / "usr", ns=(MTIME + 1, MTIME + 1))
    os.utime(root / "bin", ns=(MTIME + 2, MTIME + 2), follow_symlinks=False)


def awkward_tree(root: Path) -> None:
    """Beside the plain: what needs root and a real file system."""
    plain_tree(root)
    odd = os.fsencode(root) + b"/odd-\xff\xfe name"
    Path(os.fsdecode(odd)).write_bytes(b"no UTF-8 in its name")
    os.symlink(b"to-\xfd", os.fsencode(root) + b"/link-\xfc")
    (root / "new\nline").write_text("x")
    suid = root / "usr/bin/su"
    suid.write_bytes(b"su")
    os.chown(suid, 0, 5)
    suid.chmod(0o6755)
    os.mknod(root / "null", 0o020666, os.makedev(1, 3))
    os.mknod(root / "disk", 0o060640, os.makedev(8, 1))
    os.mkfifo(root / "fifo", 0o600)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
    attributes(root)
    with (root / "usr/huge").open("wb") as file:  # more than one part, with holes across their borders
        for at in (0, 31 << 20, (32 << 20) - 5, 70 << 20):
            file.seek(at)
            file.write(random_bytes(100_000))
        file.truncate(81 << 20)
    (root / "shared").mkdir()
    os.chown(root / "shared", 1000, 1001)
    (root / "shared").chmod(0o3777)
    (root / "shared/of-a-user").write_text("mine")
    os.chown(root / "shared/of-a-user", 1000, 1001)
    os.chown(root / "bin", 7, 8, follow_symlinks=False)
    (root / "secret").mkdir(mode=0o000)
    (root / "secret/inside").write_text("s")
    (root / "secret/inside").chmod(0)


def attributes(root: Path) -> None:
    """Extended attributes, a capability, ACLs, chattr flags."""
    target = root / "usr/attributes"
    target.write_text("attributes")
    os.setxattr(target, "user.note", b"\x00\xffvalue")
    os.setxattr(target, "trusted.note", b"t")
    capability = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)  # cap_net_raw=ep, linux/capability.h
    os.setxattr(target, "security.capability", capability)
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, perm, who)
        for tag, perm, who in ((1, 6, 0xFFFFFFFF), (2, 7, 1000), (4, 4, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF),
                               (32, 4, 0xFFFFFFFF))
    )  # fmt: skip
    os.setxattr(target, "system.posix_acl_access", acl)
    (root / "acl").mkdir()
    os.setxattr(root / "acl", "system.posix_acl_default", acl)
    (root / "acl/child").write_text("c")
    os.symlink("nowhere", root / "dangling")
    os.setxattr(root / "dangling", "trusted.link", b"l", follow_symlinks=False)
    for name, value in (
        ("immutable", flags.IMMUTABLE), ("append", flags.APPEND), ("nodump", flags.NODUMP | flags.NOATIME),
    ):  # fmt: skip
        (root / name).write_text(name)
        set_flags(root / name, value)
    (root / "locked").mkdir()
    (root / "locked/file").write_text("f")
    set_flags(root / "locked", flags.IMMUTABLE)


def set_flags(path: Path, value: int) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert flags.write_flags(descriptor, value) == 0
    finally:
        os.close(descriptor)


def get_flags(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return flags.read_flags(descriptor)
    finally:
        os.close(descriptor)


def random_bytes(count: int) -> bytes:
    """The same bytes in every run."""
    return Random(count).randbytes(count)


def describe(root: Path) -> dict[bytes, tuple[object, ...]]:
    """All that a tree is, by our own reading of it, not the engine's."""
    found: dict[bytes, tuple[object, ...]] = {}
    first: dict[tuple[int, int], bytes] = {}
    for folder, folders, files in os.walk(os.fsencode(root)):
        folders.sort()
        for name in [b".", *sorted(files), *folders]:
            path = os.path.join(folder, name)
            key = os.path.relpath(path, os.fsencode(root))
            status = os.lstat(path)
            xattrs = {x: os.getxattr(path, x, follow_symlinks=False) for x in os.listxattr(path, follow_symlinks=False)}
            content: object = None
            flag = 0
            kind = status.st_mode & 0o170000
            if kind == 0o100000:
                content = Path(os.fsdecode(path)).read_bytes()
            elif kind == 0o120000:
                content = os.readlink(path)
            if kind in (0o100000, 0o040000):
                flag = get_flags(Path(os.fsdecode(path)))
            same = first.setdefault((status.st_dev, status.st_ino), key) if kind != 0o040000 else key
            found[key] = (
                oct(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns, status.st_rdev,
                tuple(sorted(xattrs.items())), flag, same, content,
            )  # fmt: skip
    return found
