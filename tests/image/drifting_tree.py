"""A tree with everything that ext4 writes to its disk in more than one way, and changes to it at random places."""

from __future__ import annotations

import os
import shutil
import stat
import struct
from pathlib import Path
from random import Random

from agent.image.flags import DIRSYNC, IMMUTABLE, NOATIME, NODUMP, SYNC, write_flags
from tests.image.source_tree import plain_tree

LATEST_S = {128: (1 << 31) - 1, 256: (1 << 34) - (1 << 31) - 1}  # by the size of an inode
EARLIEST_S = -(1 << 31)
MANY = 1500  # names of a directory that needs an index, and blocks that list blocks


def ext4_tree(top: Path, inode_bytes: int) -> None:
    plain_tree(top / "plain")
    links, times, marked, owned = (top / name for name in ("links", "times", "marked", "owned"))
    for folder in (links, times, marked, owned):
        folder.mkdir(parents=True)
    for size in (1, 58, 59, 60, 61, 200, 900):
        (links / f"to-{size}").symlink_to(text_of(size))
    os.setxattr(links / "to-58", "trusted.of-a-link", b"value", follow_symlinks=False)
    os.setxattr(links / "to-200", "trusted.of-a-link", b"value" * 40, follow_symlinks=False)
    os.symlink(b"to-\xfd", os.fsencode(links) + b"/from-\xfc")
    _attributes(marked)
    for number, flag in enumerate((NODUMP, SYNC, NOATIME | DIRSYNC, IMMUTABLE)):
        folder = owned / f"flags-{number}"
        folder.mkdir()
        (folder / "file").write_text("x")
        set_flags(folder, flag)
    for owner in (1000, 65_535, 65_536, 4_294_967_294):
        path = owned / str(owner)
        path.write_text("x")
        os.chown(path, owner, 4_294_967_294 - owner)
        (owned / f"d{owner}").mkdir()
        os.chown(owned / f"d{owner}", owner, owner)
    (owned / "mode").mkdir(mode=0o000)
    (owned / "mode").chmod(0o7000)
    os.mknod(owned / "null", stat.S_IFCHR | 0o620, os.makedev(1, 3))
    os.mkfifo(owned / "fifo")
    odd = os.fsencode(top) + b"/odd-\xff"
    os.mkdir(odd)
    for name in (b"\xfe", b"new\nline", b"n" * 255, b"lost+found"):
        with open(odd + b"/" + name, "wb") as file:
            file.write(name)
    _many(top / "many")
    seconds = (EARLIEST_S, -1, 0, (1 << 31) - 1, 1 << 31, 1 << 32, LATEST_S[256])
    for number, second in enumerate(each for each in seconds if each <= LATEST_S[inode_bytes]):
        path = times / f"{number}"
        path.mkdir() if number % 2 else path.write_text("x")
        time = second * 10**9 + (999_999_999 if inode_bytes > min(LATEST_S) else 0)
        os.utime(path, ns=(time, time))


def text_of(size: int, part: str = "name/") -> str:
    """Where a link leads: of names that are not too long."""
    return (part * size)[:size]


def _attributes(top: Path) -> None:
    acl = struct.pack("<IHHIHHIHHIHHIHHI", 2, 1, 7, 0xFFFFFFFF, 2, 5, 1000, 4, 5, 0xFFFFFFFF, 16, 7, 0xFFFFFFFF, 32, 5,
                      0xFFFFFFFF)  # fmt: skip
    for number, (name, value) in enumerate(
        [("user.small", b"v"), ("user.empty", b""), ("user.large", b"v" * 700), ("trusted.mine", b"\0\xff"),
         ("security.other", b"label"), ("system.posix_acl_default", acl), ("system.posix_acl_access", acl)]
    ):  # fmt: skip
        folder = top / f"{number}"
        folder.mkdir()
        os.setxattr(folder, name, value)
        if number % 2:
            os.setxattr(folder, "user.second", b"another")
        (folder / "file").write_text("x")
        os.setxattr(folder / "file", "user.of-a-file", value)


def _many(top: Path) -> None:
    """Full of names, emptied, and filled anew in part; beside it, one with many directories, and one left large."""
    top.mkdir()
    for number in range(MANY):
        (top / f"{number:05}-{'long' * 12}").touch()
    for number in range(0, MANY, 2):
        (top / f"{number:05}-{'long' * 12}").unlink()
    for number in range(300):
        (top / f"again-{number}").mkdir()
    (top / "emptied").mkdir()
    for number in range(MANY // 3):
        (top / f"emptied/{number:05}-{'long' * 40}").touch()
    for path in (top / "emptied").iterdir():
        path.unlink()


def set_flags(path: Path, flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        write_flags(descriptor, flags)
    finally:
        os.close(descriptor)


def drift(top: Path, chance: Random) -> None:
    """A few changes, some of which must not be noticed."""
    for _ in range(chance.randint(1, 25)):
        everything = [path for path in sorted(top.rglob("*")) if path.name != "lost+found"]
        path = chance.choice(everything)
        try:
            change(path, path.is_dir() and not path.is_symlink(), chance)
        except PermissionError:  # below something immutable
            continue


def change(path: Path, is_directory: bool, chance: Random) -> None:
    place = path if is_directory else path.parent
    match chance.randint(0, 13):
        case 0:
            shutil.rmtree(path) if is_directory else path.unlink()
        case 1:
            time = chance.choice((0, 1, -5, 1_700_000_000)) * 10**9 + chance.choice((0, 7))
            os.utime(path, ns=(time, time), follow_symlinks=False)
        case 2 if not path.is_symlink():
            path.chmod(chance.choice((0o700, 0o644, 0o4755)))
        case 3:
            os.chown(path, chance.choice((0, 12, 70_000)), 13, follow_symlinks=False)
        case 4:
            place.joinpath(f"new-{chance.random()}").mkdir()
        case 5:
            place.joinpath(f"new-{chance.random()}").write_text("new")
        case 6 if not is_directory:
            path.unlink()
            path.mkdir()
        case 7 if not path.is_symlink():
            os.setxattr(path, "user.note", b"drifted" * chance.choice((1, 90)))
        case 8 if is_directory:
            shutil.rmtree(path)
            path.symlink_to("/etc")
        case 9 if is_directory or path.is_file():
            set_flags(path, chance.choice((0, NODUMP, SYNC)))
        case 10:
            path.rename(path.with_name(f"moved-{chance.random()}"))
        case 11 if path.is_symlink():
            found = path.lstat()
            text = os.readlink(path)
            path.unlink()
            path.symlink_to(text_of(len(os.fsencode(text)), "other/"))
            os.chown(path, found.st_uid, found.st_gid, follow_symlinks=False)
            os.utime(path, ns=(found.st_mtime_ns, found.st_mtime_ns), follow_symlinks=False)
        case 12 if path.is_file() and not path.is_symlink():
            found = path.stat()
            with path.open("ab") as file:
                file.write(b"more")
            if chance.random() < 0.5:
                os.utime(path, ns=(found.st_mtime_ns, found.st_mtime_ns))
        case 13 if is_directory:
            for number in range(chance.choice((5, 200))):
                (path / f"more-{number}-{'x' * 90}").touch()
