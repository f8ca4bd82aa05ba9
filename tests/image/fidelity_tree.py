"""Everything that gets lost on the way through backups, beside what `tests.lab.awkward` makes; for one kind of
file system or for two of them, as far as both can hold it."""

from __future__ import annotations

import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from random import Random

from agent.process import run
from tests.lab.awkward import add_flags, make_awkward_files, sparse_file

MIB = 1 << 20
PART = 32 * MIB
SYNC, IMMUTABLE, APPEND, NODUMP, NOATIME, DIRSYNC, NOCOW = 0x8, 0x10, 0x20, 0x40, 0x80, 0x10000, 0x800000


@dataclass(frozen=True)
class Holds:
    """What a file system can hold: bytes of a symbolic link's text and of an attribute, seconds since 1970, flags."""

    link_bytes: int
    xattr_bytes: int
    earliest_s: int
    latest_s: int
    flags: int
    device: tuple[int, int] = (4095, 1_048_575)


# ext4(5): attributes of one inode share a block of 4 KiB; 34 bits of seconds from 1901. XFS: XFS_SYMLINK_MAXLEN,
# XATTR_SIZE_MAX, bigtime from 1901 to 2486, 9 and 18 bits of device
# numbers. Btrfs: items below a node of 16 KiB, times beyond what
# 64 bits of nanoseconds hold.
OF = {
    "ext4": Holds(4095, 3500, -(1 << 31), (1 << 34) - (1 << 31) - 1, SYNC | NODUMP | NOATIME | DIRSYNC),
    "xfs": Holds(1023, 65536, -(1 << 31), 16_299_260_424, SYNC | NODUMP | NOATIME, (511, 262_143)),
    "btrfs": Holds(3900, 15_000, -9_223_372_036, 18_446_744_073, SYNC | NODUMP | NOATIME | DIRSYNC | NOCOW),
}


def both(source: str, target: str) -> Holds:
    one, other = OF[source], OF[target]
    return Holds(
        min(one.link_bytes, other.link_bytes), min(one.xattr_bytes, other.xattr_bytes),
        max(one.earliest_s, other.earliest_s), min(one.latest_s, other.latest_s), one.flags & other.flags,
        min(one.device, other.device),
    )  # fmt: skip


def content(size: int, seed: int) -> bytes:
    """Quick to make and to pack, and no two MiB of it alike."""
    noise = Random(seed).randbytes(65536 - 8)
    pieces = (number.to_bytes(8, "big") + noise for number in range(-(-size // 65536)))
    return b"".join(pieces)[:size]


def make_everything(top: Path, holds: Holds) -> None:
    """The whole tree below ``top``. Same input, same bytes."""
    make_awkward_files(top / "awkward", min(2000, holds.link_bytes))
    for name, make in (("sizes", make_sizes), ("holes", make_holes), ("links", make_links)):
        (top / name).mkdir()
        make(top / name)
    (top / "special").mkdir()
    make_special(top / "special", holds.device)
    (top / "attributes").mkdir()
    make_attributes(top / "attributes", holds)
    (top / "times").mkdir()
    make_times(top / "times", holds)
    (top / "flags").mkdir()
    make_flags(top / "flags", holds.flags)
    os.chown(top, 70_000, 4_294_967_294)
    top.chmod(0o3771)
    os.setxattr(top, "user.top", b"of the root itself")


def make_sizes(top: Path) -> None:
    """Around every border: of blocks, of chunks, of parts."""
    borders = (0, 4096, 65536, MIB, 4 * MIB)
    for size in sorted({max(0, border + more) for border in borders for more in (-1, 0, 1)}):
        (top / f"{size}-bytes").write_bytes(content(size, size))
    (top / "a-part").write_bytes(content(PART, 47))  # links, attributes and flags have larger ones
    for owner in ((65_536, 65_537), (4_294_967_294, 1), (2_147_483_648, 4_000_000_000)):
        path = top / f"of-{owner[0]}"
        path.write_text("mine")
        os.chown(path, *owner)


def make_holes(top: Path) -> None:
    chance = Random(42)
    block = chance.randbytes(4096)
    sparse_file(top / "start", 3 * MIB, {2 * MIB: block})
    sparse_file(top / "middle", 3 * MIB, {0: block, 2 * MIB + 4096: block})
    sparse_file(top / "end", 3 * MIB, {0: block})
    sparse_file(top / "checkers", 2 * MIB, dict.fromkeys(range(0, 2 * MIB, 16384), block))
    sparse_file(top / "parts", 3 * PART + 17, dict.fromkeys((0, PART - 4096, 2 * PART, 3 * PART + 16), block))
    sparse_file(top / "small", 16384, {8192: block})
    sparse_file(top / "one-byte", 100_000, {99_999: b"x"})
    runs = b"".join(bytes(128 << 10) if number % 3 == 1 else chance.randbytes(128 << 10) for number in range(40))
    (top / "zero-runs").write_bytes(runs)  # 5 MiB, written
    (top / "zero-runs-in-parts").write_bytes(runs[:MIB] + bytes(40 * MIB) + runs[-MIB:])
    (top / "zeros-at-the-end").write_bytes(block + bytes(2 * MIB))
    for name, words in (("preallocated", []), ("preallocated-beyond", ["--keep-size"])):
        sparse_file(top / name, 1 if words else 0, {0: b"x"} if words else {})
        run(["fallocate", *words, "--length", "9MiB", top / name])
    with (top / "preallocated").open("r+b") as file:
        file.seek(4 * MIB)
        file.write(block)
    # More blocks than bytes, and a hole all the same.
    sparse_file(top / "hole-and-more-blocks", 3 * MIB, {0: block, 3 * MIB - 4096: block})
    run(["fallocate", "--keep-size", "--offset", "3MiB", "--length", "4MiB", top / "hole-and-more-blocks"])
    (top / "punched").write_bytes(chance.randbytes(MIB))
    run(["fallocate", "--punch-hole", "--offset", "256KiB", "--length", "512KiB", top / "punched"])


def make_links(top: Path) -> None:
    """Every kind of file but directories can have several names; the last is in another directory, first by name."""
    (top / "a" / "far").mkdir(parents=True)
    (top / "z").mkdir()
    (top / "z" / "large").write_bytes(content(PART + 5, 43))
    (top / "z" / "empty").touch()
    os.symlink("nowhere", top / "z" / "link")
    os.mkfifo(top / "z" / "fifo", 0o640)
    os.mknod(top / "z" / "device", stat.S_IFCHR | 0o600, os.makedev(5, 1))
    for name in ("large", "empty", "link", "fifo", "device"):
        os.link(top / "z" / name, top / "a" / "far" / name, follow_symlinks=False)
        os.link(top / "z" / name, top / f"{name}-\udcff", follow_symlinks=False)


def make_special(top: Path, device: tuple[int, int]) -> None:
    for number, (kind, major, minor) in enumerate(
        ((stat.S_IFCHR, *device), (stat.S_IFBLK, 259, 70000), (stat.S_IFCHR, 0, 0), (stat.S_IFBLK, 8, 256))
    ):
        os.mknod(top / f"device-{number}", kind | 0o604, os.makedev(major, minor))
        os.chown(top / f"device-{number}", 0, 6)
    os.mkfifo(top / "fifo", 0o6622)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(top / "socket"))
    (top / "socket").chmod(0o1777)
    for name in ("fifo", "socket", "device-0"):
        os.setxattr(top / name, "trusted.note", name.encode())
        os.setxattr(top / name, "security.note", name.encode())
    run(["setfacl", "-m", "u:70000:rw", top / "fifo"])


def make_attributes(top: Path, holds: Holds) -> None:
    plain = top / "plain"
    plain.write_text("attributes\n")
    os.setxattr(plain, "user.long", Random(44).randbytes(holds.xattr_bytes))
    many = top / "many"
    many.write_text("many\n")
    for number in range(60):
        os.setxattr(many, f"user.{number:02d}", b"v" * number)
    os.setxattr(many, b"user.not-utf8-\xff\xfe", b"named by bytes")
    os.setxattr(many, "user.new\nline", b"x\ny")
    os.setxattr(many, "user." + "n" * 250, b"")
    (top / "large").write_bytes(content(PART + 1, 45))
    os.setxattr(top / "large", "trusted.large", b"t")
    (top / "large").chmod(0o755)
    run(["setcap", "cap_sys_admin,cap_chown+eip", top / "large"])
    (top / "owned").write_bytes(b"")
    os.chown(top / "owned", 70_000, 70_000)
    (top / "owned").chmod(0o6755)
    run(["setcap", "cap_setuid=ep", top / "owned"])
    folder = top / "shared"
    folder.mkdir()
    os.chown(folder, 1000, 70_001)
    folder.chmod(0o2770)
    run(["setfacl", "-m", "u:70000:rwx,g:4000:---,d:u:70000:rwx,d:g::r-x,d:m::rwx,d:o::---", folder])
    (folder / "inherits").write_text("has an ACL of its own by its directory\n")
    (folder / "below").mkdir()
    (folder / "none").write_text("has none all the same\n")
    run(["setfacl", "-b", folder / "none"])
    (folder / "none").chmod(0o604)
    os.symlink("nowhere", top / "link")
    os.setxattr(top / "link", "trusted.link", b"of the link", follow_symlinks=False)
    os.setxattr(top / "link", "security.link", b"of the link", follow_symlinks=False)


def make_times(top: Path, holds: Holds) -> None:
    stamps = {
        "1901": max(-2_147_483_647, holds.earliest_s), "1969": -1, "1970": 0, "2038": (1 << 31) - 1, "2039": 1 << 31,
        "2106": (1 << 32) + 5, "earliest": holds.earliest_s, "latest": holds.latest_s,
    }  # fmt: skip
    for number, (name, seconds) in enumerate(stamps.items()):
        time_ns = seconds * 1_000_000_000 + (999_999_999 - number if name not in ("earliest", "latest") else 0)
        (top / name).write_text(name)
        (top / f"{name}-directory").mkdir()
        os.symlink("x", top / f"{name}-link")
        for suffix in ("", "-directory", "-link"):
            os.utime(top / f"{name}{suffix}", ns=(time_ns, time_ns), follow_symlinks=False)


def make_flags(top: Path, flags: int) -> None:
    """Last: what is locked cannot be touched again."""
    single = {1 << bit for bit in range(32) if flags >> bit & 1}
    for flag in sorted(single):
        (top / f"directory-{flag:x}").mkdir()
        add_flags(top / f"directory-{flag:x}", flag)
        (top / f"directory-{flag:x}" / "inherits").write_text("as the directory")
        if flag != DIRSYNC:
            (top / f"file-{flag:x}").touch()
            add_flags(top / f"file-{flag:x}", flag)
            (top / f"file-{flag:x}").write_bytes(Random(flag).randbytes(9000))
    for name, locks in (("immutable", IMMUTABLE), ("append", APPEND), ("all", IMMUTABLE | APPEND | NODUMP | NOATIME)):
        locked = top / f"locked-{name}"
        (locked / "below").mkdir(parents=True)
        (locked / "below" / "file").write_text("inside of what is locked\n")
        (locked / "large").write_bytes(content(PART + 1 if name == "all" else MIB + 1, 46))
        (locked / "special").mkdir()
        os.mkfifo(locked / "special" / "fifo")
        os.link(locked / "below" / "file", locked / "another-name")
        os.setxattr(locked / "large", "user.locked", name.encode())
        for path in ("large", "below/file", "below", "special", "."):
            add_flags(locked / path, locks)


def unlock(top: Path) -> None:
    run(["chattr", "-R", "-f", "-ia", top], accept=range(256))
