"""Files come in their order, opened some ahead, and none stays open that nobody took."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.image.open_ahead import AHEAD, open_in_turn
from agent.image.uncached import UNCACHED_BYTES

COUNT = 3 * AHEAD


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    for number in range(COUNT):
        (tmp_path / f"{number:03}").write_bytes(b"%03d" % number * (UNCACHED_BYTES if number == 7 else 1))
    (tmp_path / "005").unlink()
    (tmp_path / "006").unlink()
    (tmp_path / "006").symlink_to("007")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


NAMES = [b"%03d" % number for number in range(COUNT)]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_each_comes_in_its_turn_or_why_it_does_not(folder: int) -> None:
    before = open_files()
    with closing(open_in_turn(NAMES, folder)) as opened:
        for name, each in zip(NAMES, opened, strict=True):
            if name in (b"005", b"006"):
                assert isinstance(each, OSError)
                assert each.errno == (errno.ENOENT if name == b"005" else errno.ELOOP)
                continue
            assert isinstance(each, int)
            assert os.read(each, 3) == name
            os.close(each)
    assert open_files() == before


def test_what_nobody_takes_is_closed(folder: int) -> None:
    before = open_files()
    with closing(open_in_turn(NAMES, folder)) as opened:
        first = next(opened)
        assert isinstance(first, int)
        os.close(first)
        assert open_files() == before + AHEAD - 2  # two of them could not be opened
    assert open_files() == before


def test_nothing_to_open(folder: int) -> None:
    assert list(open_in_turn([], folder)) == []
