"""A small disk out of a file: loop device, partition table, file systems. For tests that are root's."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.process import run


@dataclass(frozen=True, slots=True)
class LoopDisk:
    node: Path

    @property
    def name(self) -> str:
        return self.node.name

    def part(self, number: int) -> Path:
        return Path(f"{self.node}p{number}")


def attached(file: Path, sector_bytes: int) -> Path:
    """A free loop device; another program may take the one that was found, so that it is tried again."""
    words = ["losetup", "--find", "--show", "--sector-size", str(sector_bytes), str(file)]
    for _ in range(20):
        result = subprocess.run(words, capture_output=True, text=True, check=False)
        if result.returncode == 0:
            return Path(result.stdout.strip())
        time.sleep(0.1)
    raise RuntimeError(f"losetup: {result.stderr}")


def detach(node: Path, file: Path) -> None:
    """Partitions and device, waited for: both only go once nobody has them open.

    Whoever looks at all devices (blkid, mkfs.btrfs, another run of the tests) has them open for a moment. Until then
    they still hold their file systems, and mkfs.btrfs refuses a UUID that any device has.
    """
    system = Path("/sys/block", node.name)
    _until(lambda: not list(system.glob(f"{node.name}p*")), ["partx", "--delete", node])
    run(["losetup", "--detach", node])
    _until(lambda: not _holds(system / "loop/backing_file", file), ["true"])


def _holds(backing: Path, file: Path) -> bool:
    try:
        return backing.read_text().strip() == str(file.resolve())
    except FileNotFoundError:
        return False


def _until(gone: Callable[[], bool], argv: list[str | Path]) -> None:
    for _ in range(200):
        run(argv, accept=range(256))
        if gone():
            return
        time.sleep(0.05)
    raise RuntimeError(f"after 10 s of ‘{' '.join(map(str, argv))}’ somebody still has it open")


@contextmanager
def loop_disk(file: Path, size_bytes: int, script: str = "", sector: int = 512) -> Iterator[LoopDisk]:
    """A loop device over a sparse file, partitioned by an sfdisk script; detached at the end."""
    with file.open("wb") as sparse:
        sparse.truncate(size_bytes)
    node = attached(file, sector)
    try:
        if script:
            run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", node], stdin=script.encode())
            run(["partx", "--delete", node], accept=range(256))  # of a run that was killed
            run(["partx", "--add", node])
        yield LoopDisk(node)
    finally:
        detach(node, file)


@contextmanager
def mounted(node: Path, where: Path) -> Iterator[Path]:
    where.mkdir(parents=True, exist_ok=True)
    run(["mount", node, where])
    try:
        yield where
    finally:
        run(["umount", where])
