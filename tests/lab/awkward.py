"""Files that backup programs lose: made on the host as root, below one directory of a mounted file system."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import stat
import struct
from pathlib import Path

from tests.lab.programs import run

FS_IOC_GETFLAGS = 0x80086601
FS_IOC_SETFLAGS = 0x40086602
IMMUTABLE = 0x10
APPEND_ONLY = 0x20
NO_DUMP = 0x40
A_TIME_NS = 1_234_567_890_123_456_789  # 2009-02-13 23:31:30.123456789
SMALL_FILES = 3000


def make_awkward_files(top: Path, long_target_bytes: int = 2000) -> None:
    """The whole zoo. Same input, same bytes: the seed is fixed, so a rebuilt source is the same source.

    ``long_target_bytes``: of a symbolic link; XFS holds at most 1023.
    """
    top.mkdir(exist_ok=True)
    make_small_files(top / "small")
    make_names(top / "names")
    make_links(top / "links", long_target_bytes)
    make_sparse_files(top / "sparse")
    make_special_files(top / "special")
    make_modes(top / "modes")
    make_attributes(top / "attributes")
    make_big_file(top / "big")
    make_deep(top / "deep")
    (top / "empty" / "of" / "files").mkdir(parents=True)
    (top / "empty" / "file").touch()
    set_times(top)
    make_flags(top / "flags")  # last: an immutable file cannot be touched again


def make_small_files(top: Path) -> None:
    chance = random.Random(59061)
    for number in range(SMALL_FILES):
        directory = top / f"{number % 40:02d}"
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"file-{number:04d}"
        path.write_bytes(chance.randbytes(chance.choice((0, 1, 17, 400, 4095, 4096, 4097, 20000))))
        os.chown(path, chance.choice((0, 1000, 1001, 65534, 4_000_000_000)), chance.choice((0, 100, 1000)))
        path.chmod(chance.choice((0o644, 0o600, 0o640, 0o755, 0o400, 0o000)))


def make_names(top: Path) -> None:
    top.mkdir()
    names = [
        b"not-utf8-\xff\xfe\x80",
        b"latin1-\xe9\xe8",
        b"new\nline",
        b"tab\tand space ",
        b" leading space",
        b"-rf",
        b"*?[glob]",
        b"quote'\"`$(echo)\\",
        b"control-\x01\x1b[31m\x7f",
        "ünï-日本語-🦀".encode(),
        "e\u0301-decomposed".encode(),
        b"...",
        b"a" * 255,
        "é".encode() * 127,
    ]
    for name in names:
        with open(os.path.join(os.fsencode(top), name), "wb") as file:
            file.write(b"named " + name)
    os.mkdir(os.path.join(os.fsencode(top), b"directory-\xf0\x28\n"))
    with open(os.path.join(os.fsencode(top), b"directory-\xf0\x28\n", b"inside"), "wb") as file:
        file.write(b"inside")


def make_links(top: Path, long_target_bytes: int = 2000) -> None:
    (top / "a").mkdir(parents=True)
    (top / "b").mkdir()
    (top / "a" / "one").write_text("one file, four names\n")
    for other in ("a/two", "b/three", "zz-four"):
        os.link(top / "a" / "one", top / other)
    os.symlink("a/one", top / "relative")
    os.symlink("/etc/hostname", top / "absolute")
    os.symlink("../../../../../../../../etc/shadow", top / "escaping")
    os.symlink("nowhere/at/all", top / "dangling")
    os.symlink("loop", top / "loop")
    os.symlink(b"target-\xff-not-utf8", os.fsencode(top / "bytes"))
    os.symlink("x" * long_target_bytes, top / "long-target")
    os.link(top / "relative", top / "relative-hard", follow_symlinks=False)
    os.lchown(top / "dangling", 1000, 1000)


def make_sparse_files(top: Path) -> None:
    top.mkdir()
    sparse_file(top / "hole-only", 64 << 20, {})
    sparse_file(top / "hole-then-data", 32 << 20, {(32 << 20) - 5: b"tail\n"})
    sparse_file(top / "data-then-hole", 16 << 20, {0: b"head"})
    sparse_file(top / "islands", 200 << 20, {n * (10 << 20): bytes([n]) * 8192 for n in range(1, 20)})
    sparse_file(top / "unaligned", 3_000_001, {1_000_003: b"x" * 4099})
    (top / "zeroes-written").write_bytes(bytes(1 << 20))  # blocks of zeroes, not a hole


def sparse_file(path: Path, size: int, data: dict[int, bytes]) -> None:
    with path.open("wb") as file:
        for offset, content in data.items():
            file.seek(offset)
            file.write(content)
        file.truncate(size)


def make_special_files(top: Path) -> None:
    top.mkdir()
    os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(top / "big-minor", stat.S_IFBLK | 0o660, os.makedev(259, 70000))
    os.mkfifo(top / "fifo", 0o620)
    os.chown(top / "fifo", 1000, 5)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(top / "socket"))
    listener.close()


def make_modes(top: Path) -> None:
    top.mkdir()
    for name, mode in (("setuid", 0o4755), ("setgid", 0o2755), ("setuid-owned", 0o4711), ("all", 0o7777)):
        (top / name).write_text("#!/bin/sh\nid\n")
        os.chown(top / name, *((1000, 1000) if name == "setuid-owned" else (0, 50)))
        (top / name).chmod(mode)
    for name, mode in (("sticky", 0o1777), ("setgid-directory", 0o2775), ("closed", 0o000)):
        (top / name).mkdir()
        (top / name).chmod(mode)


def make_attributes(top: Path) -> None:
    top.mkdir()
    (top / "acl").write_text("acl\n")
    run(["setfacl", "-m", "u:1000:rwx,u:4000:r--,g:1001:-w-,m::rwx", top / "acl"])
    (top / "default-acl").mkdir()
    run(["setfacl", "-m", "u:1000:rwx,d:u:1000:rwx,d:g:1001:r-x,d:o::---", top / "default-acl"])
    (top / "capable").write_bytes(b"\x7fELF not really")
    (top / "capable").chmod(0o755)
    run(["setcap", "cap_net_raw,cap_net_bind_service+ep", top / "capable"])
    (top / "user").write_text("user attributes\n")
    os.setxattr(top / "user", "user.text", b"value")
    os.setxattr(top / "user", "user.binary", bytes(range(256)))
    os.setxattr(top / "user", "user.empty", b"")
    os.setxattr(top / "user", "user.large", b"L" * 3000)
    os.setxattr(top / "user", "trusted.lab", b"trusted")
    os.setxattr(top / "user", "security.lab", b"security")
    (top / "directory").mkdir()
    os.setxattr(top / "directory", "user.on-directory", b"yes")
    os.symlink("user", top / "link")
    os.setxattr(top / "link", "trusted.on-link", b"yes", follow_symlinks=False)


def make_big_file(top: Path) -> None:
    """More than 64 MiB: it spans packs. Half of it cannot be compressed, half of it can."""
    top.mkdir()
    chance = random.Random(8959)
    with (top / "seventy-two-mebibytes").open("wb") as file:
        for number in range(72):
            noise = chance.randbytes(1 << 19)
            file.write(noise + (b"line %d of a log file\n" % number * (1 << 15))[: 1 << 19])


def make_deep(top: Path) -> None:
    """As deep as whole paths can name: they end shortly before PATH_MAX, wherever the restored system is mounted."""
    top.mkdir()
    here = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(19):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    bottom = os.open("bottom", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=here)
    os.write(bottom, b"bottom\n")
    os.close(bottom)
    os.close(here)


def set_times(top: Path) -> None:
    """Nanoseconds everywhere; before 1970 and after 2038 too."""
    names = sorted((top / "names").iterdir()) + sorted((top / "links").iterdir())
    for number, path in enumerate(names):
        os.utime(path, ns=(A_TIME_NS + number, A_TIME_NS + 1000 * number + 1), follow_symlinks=False)
    os.utime(top / "modes" / "all", ns=(-1_000_000_001, -86_400_000_000_001))
    os.utime(top / "modes" / "setgid", ns=(5_000_000_000_000_000_007, 5_000_000_000_000_000_009))
    for directory in ("sparse", "special", "empty", "names", "links"):
        os.utime(top / directory, ns=(A_TIME_NS, A_TIME_NS + 42))


def make_flags(top: Path) -> None:
    top.mkdir()
    for name, flags in (("immutable", IMMUTABLE), ("append-only", APPEND_ONLY), ("no-dump", NO_DUMP)):
        (top / name).write_text(f"{name}\n")
        os.utime(top / name, ns=(A_TIME_NS, A_TIME_NS))
        add_flags(top / name, flags)
    (top / "immutable-directory").mkdir()
    (top / "immutable-directory" / "inside").write_text("inside\n")
    add_flags(top / "immutable-directory", IMMUTABLE)


def add_flags(path: Path, flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        value = bytearray(struct.pack("@l", 0))
        fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, value)
        (found,) = struct.unpack("@l", value)
        fcntl.ioctl(descriptor, FS_IOC_SETFLAGS, struct.pack("@l", found | flags))
    finally:
        os.close(descriptor)
