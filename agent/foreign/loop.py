"""A file seen as a disk: loop device, and the kernel told of its partitions.

The kernel need not look for partitions itself (a loop device that is made without it finds none): partx reads the
table and tells it of each, which works on every kernel, and with sectors of 4096 bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agent.errors import TargetIOError
from agent.process import ProcessError, run

GPT_MARK = b"EFI PART"
ATTEMPTS = 20  # another program may take the device that was found free


@contextmanager
def loop_disk(file: Path, *, sector_bytes: int = 512, writable: bool = False) -> Iterator[str]:
    """Kernel name of a loop device over ``file``, ``loop3``, with its partitions; gone at the end."""
    node = _attach(file, sector_bytes, writable)
    try:
        _tell_kernel(node, sector_bytes)
        yield node.name
    finally:
        with suppress(ProcessError):
            run(["partx", "--delete", node], accept=(0, 1))
        run(["losetup", "--detach", node])


def _tell_kernel(node: Path, sector_bytes: int) -> None:
    """Make the kernel's partitions those of the table. partx ends with 1 for a disk without one, and for trouble.

    Not by --update, which passes over the logical partitions of an MBR (util-linux 2.38).
    """
    run(["partx", "--delete", node], accept=(0, 1))
    told = run(["partx", "--add", "--sector-size", str(sector_bytes), node], accept=(0, 1))
    if told.status and run(["sfdisk", "--json", node], accept=(0, 1)).status == 0:
        raise TargetIOError(f"the kernel does not take the partitions of {node}: {told.stderr.strip()}", "try again")


def _attach(file: Path, sector_bytes: int, writable: bool) -> Path:
    mode = [] if writable else ["--read-only"]
    words = ["losetup", *mode, "--find", "--show", "--sector-size", str(sector_bytes), str(file)]
    for attempt in range(ATTEMPTS):
        try:
            return Path(run(words).stdout.strip())
        except ProcessError as error:
            if attempt == ATTEMPTS - 1:
                raise TargetIOError(
                    f"no loop device for {file}: {error.stderr.strip()}", "run as root, on a kernel with loop devices"
                ) from error
    raise AssertionError


def sector_bytes_of(file: Path) -> int:
    """Logical sector size that the disk in ``file`` was partitioned with: where its GPT header stands tells."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return 4096 if os.pread(descriptor, 8, 512) != GPT_MARK == os.pread(descriptor, 8, 4096) else 512
    finally:
        os.close(descriptor)
