"""A disk of any sector size for tests: a sparse file behind a loop device, gone with everything on it afterwards."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.model.plan import DiskIdentity
from agent.model.target_disk import identity
from agent.probe.disks import read_disk

MIB = 1 << 20


def attached(image: Path, sector_bytes: int) -> Path:
    """A free loop device; another program may take the one that was found, so that it is tried again."""
    words = ["losetup", "--find", "--show", "--sector-size", str(sector_bytes), str(image)]
    for _ in range(20):
        result = subprocess.run(words, capture_output=True, text=True, check=False)
        if result.returncode == 0:
            return Path(result.stdout.strip())
        time.sleep(0.1)
    raise RuntimeError(f"losetup: {result.stderr}")


@contextmanager
def loop_disk(folder: Path, size_bytes: int, sector_bytes: int = 512) -> Iterator[DiskIdentity]:
    """A blank disk; its identity as a plan would have it."""
    image = folder / f"disk-{sector_bytes}.img"
    with image.open("wb") as file:
        file.truncate(size_bytes)
    node = attached(image, sector_bytes)
    try:
        yield identity(read_disk(node.name))
    finally:
        subprocess.run(["partx", "--delete", str(node)], capture_output=True, check=False)
        subprocess.run(["losetup", "--detach", str(node)], check=True)
        os.unlink(image)
