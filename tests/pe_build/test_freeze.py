"""The folder of the frozen program: replaced by another program only, for somebody may be running what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from pe_build import freeze


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A frozen program in the cache."""
    folder = tmp_path / "kept"
    (folder / "_internal").mkdir(parents=True)
    (folder / "regraft").write_text("program")
    (folder / "_internal/libz.so.1").symlink_to("libz.so")
    monkeypatch.setattr(freeze, "frozen", lambda entry, cache: folder)
    return folder


def test_the_same_program_is_left_where_it_runs(kept: Path, tmp_path: Path) -> None:
    output = tmp_path / "build/regraft"
    freeze.freeze(output, kept, tmp_path)
    assert (output / "_internal/libz.so.1").readlink() == Path("libz.so")
    running = (output / "regraft").stat().st_ino
    freeze.freeze(output, kept, tmp_path)
    assert (output / "regraft").stat().st_ino == running


def test_another_program_takes_its_place(kept: Path, tmp_path: Path) -> None:
    output = tmp_path / "regraft"
    freeze.freeze(output, kept, tmp_path)
    (kept / "regraft").write_text("PROGRAM")
    (kept / "_internal/libz.so.1").unlink()
    freeze.freeze(output, kept, tmp_path)
    assert (output / "regraft").read_text() == "PROGRAM"
    assert not list((output / "_internal").iterdir())
