"""Every test of this folder twice: with the program from source, and with the frozen one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agent.process import run
from tests.commands.program import FROM_SOURCE, REPOSITORY, Regraft
from tests.commands.system import awkward_tree


@pytest.fixture(scope="session")
def frozen_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The frozen program; made only when something that it depends on has changed."""
    folder = tmp_path_factory.mktemp("frozen") / "regraft"
    run([sys.executable, "-m", "pe_build", "freeze", "--output", folder], cwd=REPOSITORY, timeout_s=1200)
    return folder / "regraft"


@pytest.fixture(
    scope="session",
    params=[
        pytest.param("source", marks=pytest.mark.tools),
        pytest.param("frozen", marks=[pytest.mark.frozen, pytest.mark.timeout(1500)]),
    ],
)
def program(request: pytest.FixtureRequest) -> Path:
    if request.param == "source":
        return FROM_SOURCE
    frozen: Path = request.getfixturevalue("frozen_program")
    return frozen


@pytest.fixture
def regraft(program: Path, tmp_path: Path) -> Regraft:
    return Regraft(program, tmp_path / "home")


@pytest.fixture
def depot(regraft: Regraft, tmp_path: Path) -> Path:
    """An empty depot, which ``regraft`` may write to."""
    regraft("depot", "init", tmp_path / "depot")
    return tmp_path / "depot"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small system with awkward files."""
    awkward_tree(tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def captured(regraft: Regraft, depot: Path, tree: Path) -> Path:
    """A depot with the image ``web-1`` of that system."""
    regraft("capture", "--root", tree, "--depot", depot)
    return depot
