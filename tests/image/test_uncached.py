"""Reads and writes past the page cache move the same bytes, and leave none of them there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.image import uncached
from agent.image.uncached import UNCACHED_BYTES, is_sound
from agent.process import run
from tests.image.source_tree import random_bytes

PIECE = random_bytes(4 * UNCACHED_BYTES)


@pytest.mark.parametrize(
    ("release", "expected"),
    [("6.1.0-57-amd64", False), ("6.14.2", False), ("6.15.0", False), ("6.16.0-rc1", True), ("7.0", True), ("", False)],
)
def test_the_kernels_that_freed_pages_twice_are_not_asked(release: str, expected: bool) -> None:
    assert is_sound(release) is expected


def copied(folder: Path, size: int) -> bytes | bytearray:
    """A file of that size, written and read in one piece behind its first block."""
    descriptor = os.open(folder / "file", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        assert uncached.write(descriptor, memoryview(PIECE)[:size], 4096) == size
        os.fsync(descriptor)
        assert uncached.read(descriptor, size + 10, 4096) == PIECE[:size]  # no more is there
        return uncached.read(descriptor, 4096 + size, 0)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("size", [1, UNCACHED_BYTES - 1, UNCACHED_BYTES, len(PIECE)])
@pytest.mark.parametrize("has_it", [True, False])
def test_the_bytes_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, has_it: bool) -> None:
    monkeypatch.setattr(uncached, "_KERNEL_HAS_IT", has_it)
    assert copied(tmp_path, size) == bytes(4096) + PIECE[:size]


def test_a_file_system_without_it_takes_the_usual_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uncached, "_KERNEL_HAS_IT", True)
    descriptor = os.memfd_create("tmpfs")  # shmem refuses the flag: EOPNOTSUPP
    try:
        assert uncached.write(descriptor, memoryview(PIECE), 0) == len(PIECE)
        assert uncached.read(descriptor, len(PIECE), 0) == PIECE
    finally:
        os.close(descriptor)


def test_what_went_wrong_is_not_taken_for_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uncached, "_KERNEL_HAS_IT", True)
    (tmp_path / "file").touch()
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            uncached.write(descriptor, memoryview(PIECE), 0)
    finally:
        os.close(descriptor)


@pytest.mark.root
def test_nothing_stays_in_the_cache(file_system: Callable[[str, str], Path]) -> None:
    place = file_system("xfs", "target")  # the first file system that had it
    copied(place, len(PIECE))
    found = run(["fincore", "--bytes", "--noheadings", "--output", "RES", place / "file"]).stdout
    cached_bytes = int(found.split()[0])
    if is_sound(os.uname().release):
        assert cached_bytes == 0
    else:
        assert cached_bytes >= len(PIECE)
