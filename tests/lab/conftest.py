"""One cell of the matrix runs beside the other machine tests: an emulated machine uses one processor of two."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.matrix.runner import prepare_media
from tests.lab.programs import end_group, start
from tests.lab.serving import REPOSITORY

BESIDE = "debian-11-mbr--ahci-rtl8139-bios"


class Beside:
    """``python -m tests.lab matrix`` for one cell, from the first machine test on."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.log = out / "beside.log"
        self.child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self.child is None:
            prepare_media()  # once, and by nobody else at the same time
            words = [sys.executable, "-m", "tests.lab", "matrix", "--only", BESIDE, "--jobs", "1"]
            with self.log.open("wb") as output:
                self.child = start([*words, "--out", self.out / "matrix"], output=output, cwd=REPOSITORY)

    def wait(self, timeout_s: float) -> int:
        assert self.child is not None
        return self.child.wait(timeout_s)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits for it comes last."""
    items.sort(key=waits)


def waits(item: pytest.Item) -> bool:
    return "beside" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    made = Beside(tmp_path_factory.mktemp("beside"))
    yield made
    if made.child is not None:
        end_group(made.child)


@pytest.fixture(autouse=True)
def _cell_runs_beside(request: pytest.FixtureRequest) -> None:
    """It begins with the first test that needs the media as well: their building may take its time there."""
    needs_media = all(map(request.node.get_closest_marker, ("machine", "frozen")))
    if needs_media and any(map(waits, request.session.items)):
        request.getfixturevalue("beside").start()
