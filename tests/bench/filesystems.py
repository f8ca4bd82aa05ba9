"""File systems and devices in memory: every contestant reads and writes the same kind, and no disk is timed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agent.process import run

MIB = 1 << 20
PATIENCE_S = 1800.0
# Inode tables and the journal are cleared by mkfs, not by the kernel in the background of whoever is measured.
AT_ONCE = "lazy_itable_init=0,lazy_journal_init=0"


def sparse_file(path: Path, size_bytes: int) -> Path:
    """A file of nothing but a hole, of whole MiB, as disks are; what was there before is gone."""
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(-(-size_bytes // MIB) * MIB)
    return path


def make_ext4(image: Path, size_bytes: int, inodes: int = 0, features: str = "") -> Path:
    """An empty ext4 in a sparse file; ``inodes`` 0: as many as mkfs finds usual. ``features`` beside the usual ones."""
    sparse_file(image, size_bytes)
    count = ["-N", str(inodes)] if inodes else []
    more = ["-O", features] if features else []
    run(["mkfs.ext4", "-q", "-F", *count, *more, "-E", AT_ONCE, image])
    return image


@contextmanager
def mounted(image: Path, at: Path, options: str = "noatime") -> Iterator[Path]:
    """A file system in a file, mounted through a loop device that goes when it is unmounted.

    Unmounting drops what the kernel kept of this file system, and of no other on the machine.
    """
    at.mkdir(parents=True, exist_ok=True)
    run(["mount", "-o", f"loop,{options}", image, at])
    try:
        yield at
    finally:
        run(["umount", at], timeout_s=PATIENCE_S)
        at.rmdir()


@contextmanager
def mounted_node(node: Path, at: Path) -> Iterator[Path]:
    """A block device's ext4, to be looked at."""
    at.mkdir(parents=True, exist_ok=True)
    run(["mount", "-o", "ro,noload", node, at])
    try:
        yield at
    finally:
        run(["umount", at], timeout_s=PATIENCE_S)
        at.rmdir()


@contextmanager
def loop_device(image: Path, read_only: bool = False) -> Iterator[Path]:
    """A file as a block device."""
    words = ["--read-only"] if read_only else []
    node = Path(run(["losetup", "--find", "--show", *words, image]).stdout.strip())
    try:
        yield node
    finally:
        run(["losetup", "--detach", node])


@dataclass(frozen=True, slots=True)
class Target:
    """What a contestant restores onto: a block device, and for those that write files, a file system on it."""

    node: Path
    mountpoint: Path


@contextmanager
def target_tree(folder: Path, size_bytes: int, inodes: int = 0, features: str = "") -> Iterator[Target]:
    """An empty ext4 on a loop device in memory, mounted; gone at the end."""
    image = make_ext4(folder / "target.img", size_bytes, inodes, features)
    try:
        with mounted(image, folder / "target") as at:
            yield Target(image, at)
    finally:
        image.unlink(missing_ok=True)


@contextmanager
def target_copy(folder: Path, of: Path) -> Iterator[Target]:
    """A file system that holds something already: a copy of an image file, in memory, mounted."""
    image = copy_sparse(of, folder / "target.img")
    try:
        with mounted(image, folder / "target") as at:
            yield Target(image, at)
    finally:
        image.unlink(missing_ok=True)


@contextmanager
def target_device(folder: Path, size_bytes: int) -> Iterator[Target]:
    """A blank loop device in memory; gone at the end."""
    image = sparse_file(folder / "target.img", size_bytes)
    try:
        with loop_device(image) as node:
            yield Target(node, folder / "target")
    finally:
        image.unlink(missing_ok=True)


def copy_sparse(source: Path, to: Path) -> Path:
    run(["cp", "--sparse=always", source, to], timeout_s=PATIENCE_S)
    return to


def copy_store(source: Path, to: Path) -> Path:
    """A store of any form, copied to where reading it measures no disk."""
    remove_tree(to)
    run(["cp", "--recursive", source, to], timeout_s=PATIENCE_S)
    return to


def remove_tree(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


@contextmanager
def memory(mountpoint: Path, size_bytes: int) -> Iterator[Path]:
    """A tmpfs of its own, gone at the end with everything in it."""
    mountpoint.mkdir(parents=True)
    run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=700", "regraft-bench", mountpoint])
    try:
        yield mountpoint
    finally:
        # Lazily: a loop device may be let go of a moment after its file system.
        run(["umount", "--lazy", mountpoint])
        mountpoint.rmdir()


def forget_cached_files() -> None:
    """Give back the memory in which the kernel keeps files of disks, whoever read them (proc_sys_vm(5))."""
    Path("/proc/sys/vm/drop_caches").write_text("3")


def forget_files_of(folder: Path) -> None:
    """The same of the files in a folder alone: programs that were used before stay in memory."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with suppress(FileNotFoundError):  # of another bench that ends
                _forget(path)


def _forget(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(descriptor)  # what has yet to be written is not given back
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def available_bytes() -> int:
    """Memory that can be used without swapping: MemAvailable of /proc/meminfo."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))


@contextmanager
def partition_of(disk: Path, number: int, mountpoint: Path) -> Iterator[Path]:
    """One partition of a disk image, mounted read-only."""
    node = run(["losetup", "--find", "--show", "--read-only", disk]).stdout.strip()
    mountpoint.mkdir(parents=True)
    try:
        run(["partx", "--add", node])
        run(["mount", "-o", "ro,noload", f"{node}p{number}", mountpoint])
        try:
            yield mountpoint
        finally:
            run(["umount", mountpoint])
            run(["partx", "--delete", node])
    finally:
        run(["losetup", "--detach", node])
        mountpoint.rmdir()
