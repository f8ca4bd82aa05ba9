"""Folders of tests can be removed, whatever flags their files got."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from agent.image.flags import APPEND, IMMUTABLE, read_flags, write_flags
from tests.thaw import sweep, thaw

pytestmark = pytest.mark.root


def lock(path: Path, flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        write_flags(descriptor, flags)
    finally:
        os.close(descriptor)


def locked_tree(top: Path) -> Path:
    (top / "folder").mkdir(parents=True)
    for name in ("folder/immutable", "append", "plain"):
        (top / name).write_text("x")
    (top / "link").symlink_to("nowhere")
    os.mkfifo(top / "pipe")
    lock(top / "folder/immutable", IMMUTABLE)
    lock(top / "append", APPEND)
    lock(top / "folder", IMMUTABLE)
    return top


def test_what_is_locked_can_be_removed_again(tmp_path: Path) -> None:
    top = locked_tree(tmp_path / "top")
    with pytest.raises(PermissionError):
        shutil.rmtree(top)
    thaw(top)
    shutil.rmtree(top)
    assert not top.exists()


def test_what_earlier_runs_left_goes_and_the_rest_stays(tmp_path: Path) -> None:
    base = tmp_path / "pytest-7"
    base.mkdir()
    locked_tree(tmp_path / "garbage-1/test_x0")
    other = locked_tree(tmp_path / "pytest-6/test_y0")
    sweep(base)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pytest-6", "pytest-7"]
    descriptor = os.open(other / "append", os.O_RDONLY)
    try:
        assert read_flags(descriptor) & APPEND, "another run may be at work there"
    finally:
        os.close(descriptor)
