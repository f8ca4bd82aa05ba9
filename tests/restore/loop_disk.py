"""A disk of any sector size for tests: a sparse file behind a loop device, gone with everything on it afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.model.plan import DiskIdentity
from agent.model.target_disk import identity
from agent.probe.disks import read_disk
from tests.probe.loop import attached, detach

MIB = 1 << 20


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
        detach(node, image)
        os.unlink(image)
