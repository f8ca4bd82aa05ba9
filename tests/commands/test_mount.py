"""An image as a file system, with either program."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.process import run
from tests.commands.program import Regraft, mounted


@pytest.mark.root
def test_an_image_is_mounted(regraft: Regraft, captured: Path, tree: Path, tmp_path: Path) -> None:
    with mounted(regraft, tmp_path / "mnt", "--depot", captured):
        words = ["rsync", "-aHAXSn", "--checksum", "--delete", "--itemize-changes", f"{tree}/", f"{tmp_path}/mnt/"]
        assert run(words).stdout == ""


def test_what_mounting_needs_is_said(regraft: Regraft, captured: Path, tmp_path: Path) -> None:
    done = regraft("mount", "web-1", tmp_path, "--depot", captured, code=2, FUSE_LIBRARY_PATH="libnothing.so.9")
    assert "libnothing.so.9" in done.stderr and "next: install it" in done.stderr
