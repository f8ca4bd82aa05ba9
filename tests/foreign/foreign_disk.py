"""A small machine's disk in a file, as other programs would find it, and what they make of it."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agent.process import run
from tests.image.source_tree import describe, plain_tree
from tests.probe.loop import LoopDisk, loop_disk, mounted

ROOT = "4a1f7c0e-8f5d-4a0e-9b55-0000000000a1"
SRV = "4a1f7c0e-8f5d-4a0e-9b55-0000000000a2"
SWAP = "4a1f7c0e-8f5d-4a0e-9b55-0000000000a3"
TABLE = "7C0E2F7A-6F3D-4B3A-9C55-0A50C4B0A200"
PART_ROOT = "7C0E2F7A-6F3D-4B3A-9C55-0A50C4B0A202"
SCRIPT = f"""\
label: gpt
label-id: {TABLE}
start=1MiB, size=1MiB, type=21686148-6449-6E6F-744E-656564454649
start=2MiB, size=64MiB, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, uuid={PART_ROOT}, name="the system"
start=66MiB, size=40MiB, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4
start=106MiB, size=8MiB, type=0657FD6D-A4AB-43C4-84E5-0933C84B4F4F
"""
SIZE_BYTES = 128 << 20
OS_RELEASE = 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'
FSTAB = f"UUID={ROOT} / ext4 errors=remount-ro 0 1\nUUID={SRV} /srv ext4 noatime 0 2\nUUID={SWAP} none swap sw 0 0\n"


@dataclass
class MadeDisk:
    """The file, and all that its two trees are, by our own reading."""

    file: Path
    trees: dict[str, dict[bytes, tuple[object, ...]]] = field(default_factory=dict)


def system_files(root: Path, fstab: str = FSTAB) -> None:
    """What an image of a system must carry: attributes, a capability, a device, holes, hard links, a user's files."""
    plain_tree(root)
    (root / "etc/os-release").write_text(OS_RELEASE)
    (root / "etc/fstab").write_text(fstab)
    capability = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
    os.setxattr(root / "usr/bin/tool", "security.capability", capability)
    os.setxattr(root / "etc/hostname", "user.note", b"\x00\xffvalue")
    os.mknod(root / "disk", 0o060640, os.makedev(8, 1))
    (root / "home").mkdir()
    (root / "home/notes").write_text("mine")
    os.chown(root / "home/notes", 1000, 1001)
    os.chown(root / "home", 1000, 1001)
    run(["setfacl", "-m", "u:1003:r", root / "home/notes"])
    Path(os.fsdecode(os.fsencode(root) + b"/odd-\xff name")).write_bytes(b"x")


def make_disk(folder: Path, sector: int = 512) -> MadeDisk:
    made = MadeDisk(folder / "disk.raw")
    with loop_disk(made.file, SIZE_BYTES, SCRIPT, sector) as disk:
        fill(disk, folder, made)
    return made


def fill(disk: LoopDisk, folder: Path, made: MadeDisk) -> None:
    run(["mkfs.ext4", "-q", "-U", ROOT, "-L", "system", disk.part(2)])
    run(["mkfs.ext4", "-q", "-U", SRV, disk.part(3)])
    run(["mkswap", "-q", "-U", SWAP, disk.part(4)])
    with mounted(disk.part(2), folder / "mnt") as root:
        system_files(root)
        (root / "srv").mkdir()
        made.trees["root"] = tree_of(root)
    with mounted(disk.part(3), folder / "mnt") as srv:
        (srv / "page.html").write_text("served")
        made.trees["srv"] = tree_of(srv)


def tree_of(root: Path) -> dict[bytes, tuple[object, ...]]:
    """The tree without what belongs to its file system; flags too, because archives do not carry them."""
    return {
        name: tuple(fact for number, fact in enumerate(facts) if number != 6)
        for name, facts in describe(root).items()
        if not name.startswith(b"lost+found")
    }


@contextmanager
def whole_filesystem(folder: Path) -> Iterator[Path]:
    """A disk without a table: one file system with a system in it, mounted while the caller works on it."""
    file = folder / "whole.raw"
    with file.open("wb") as sparse:
        sparse.truncate(64 << 20)
    run(["mkfs.ext4", "-q", "-F", "-U", ROOT, file])
    with mounted(file, folder / "whole") as root:
        system_files(root, f"UUID={ROOT} / ext4 defaults 0 1\n")
        yield file
