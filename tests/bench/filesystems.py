"""File systems on loop devices in memory: every contestant reads and writes the same kind, and no disk is timed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.process import run


@dataclass(frozen=True, slots=True)
class LoopFileSystem:
    """An ext4 in a file on tmpfs, mounted through a loop device that goes when it is unmounted."""

    backing: Path
    size_bytes: int
    mountpoint: Path

    def make_anew(self) -> None:
        """Empty, and nothing of it cached."""
        self.unmount()
        self.backing.unlink(missing_ok=True)
        with self.backing.open("wb") as file:
            file.truncate(self.size_bytes)
        run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.backing])
        self.mount()

    def forget_cache(self) -> None:
        """Unmounting drops what the kernel kept of this file system, and of no other on the machine."""
        self.unmount()
        self.mount()

    def mount(self) -> None:
        run(["mount", "-o", "loop,noatime", self.backing, self.mountpoint])

    def unmount(self) -> None:
        if self.mountpoint.is_mount():
            run(["umount", self.mountpoint])


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


@contextmanager
def loop_filesystem(folder: Path, name: str, size_bytes: int) -> Iterator[LoopFileSystem]:
    made = LoopFileSystem(folder / f"{name}.img", size_bytes, folder / name)
    made.mountpoint.mkdir()
    try:
        made.make_anew()
        yield made
    finally:
        made.unmount()


@contextmanager
def partition_of(disk: Path, number: int, mountpoint: Path) -> Iterator[Path]:
    """One partition of a disk image, mounted read-only."""
    node = run(["losetup", "--find", "--show", "--read-only", disk]).stdout.strip()
    mountpoint.mkdir()
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
