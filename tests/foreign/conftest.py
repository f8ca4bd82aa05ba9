"""A program with a depot, and a disk that everything here reads and nothing changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.program import FROM_SOURCE, Regraft
from tests.foreign.foreign_disk import MadeDisk, make_disk


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> MadeDisk:
    return make_disk(tmp_path_factory.mktemp("disk"))


@pytest.fixture
def regraft(tmp_path: Path) -> Regraft:
    """The program, with a depot of its own."""
    program = Regraft(FROM_SOURCE, tmp_path / "home", environment={"REGRAFT_DEPOT": str(tmp_path / "depot")})
    program("depot", "init", tmp_path / "depot")
    return program
