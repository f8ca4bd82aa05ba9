"""A small disk out of a file: loop device, partition table, file systems. For tests that are root's."""

from __future__ import annotations

from collections.abc import Iterator
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


@contextmanager
def loop_disk(file: Path, size_bytes: int, script: str = "", sector: int = 512) -> Iterator[LoopDisk]:
    """A loop device over a sparse file, partitioned by an sfdisk script; detached at the end."""
    with file.open("wb") as sparse:
        sparse.truncate(size_bytes)
    node = Path(run(["losetup", "--find", "--show", "--sector-size", str(sector), file]).stdout.strip())
    try:
        if script:
            run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", node], stdin=script.encode())
            run(["partx", "--delete", node], accept=range(256))  # of a run that was killed
            run(["partx", "--add", node])
        yield LoopDisk(node)
    finally:
        run(["partx", "--delete", node], accept=range(256))
        run(["losetup", "--detach", node])


@contextmanager
def mounted(node: Path, where: Path) -> Iterator[Path]:
    where.mkdir(parents=True, exist_ok=True)
    run(["mount", node, where])
    try:
        yield where
    finally:
        run(["umount", where])
