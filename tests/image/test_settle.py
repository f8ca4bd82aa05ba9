"""What was written goes to the disk while the rest is still written; what the kernel then says is heard."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from agent.errors import TargetIOError
from agent.image import settle
from agent.image.settle import LAST_STEP_BYTES, STEP_BYTES, Settler


def test_each_step_is_written_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(settle, "sync_filesystem", lambda descriptor: seen.append(os.fstat(descriptor).st_ino))
    settler = Settler(tmp_path)
    for number in range(1, 6):
        settler.written(number * STEP_BYTES // 2)
        if settler._thread is not None:
            settler._thread.join()
    settler.finish()
    assert seen == [tmp_path.stat().st_ino] * 2


@pytest.mark.parametrize(("more", "steps"), [(LAST_STEP_BYTES - 1, 1), (LAST_STEP_BYTES, 2)])
def test_the_rest_is_written_back_where_it_is_worth_it(
    more: int, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(settle, "sync_filesystem", seen.append)
    settler = Settler(tmp_path)
    settler.written(STEP_BYTES)
    settler.close()
    settler.written(STEP_BYTES + more)
    settler.all_written()
    settler.finish()
    assert len(seen) == steps


def test_a_disk_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(settle, "sync_filesystem", fail)
    settler = Settler(tmp_path)
    settler.written(STEP_BYTES)
    with pytest.raises(TargetIOError, match="Input/output error"):
        settler.finish()


def test_the_kernel_is_really_asked(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    settle.sync_filesystem(descriptor)
    os.close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        settle.sync_filesystem(descriptor)
