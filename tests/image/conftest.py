"""Depots and file systems for the engine's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.depot.local import LocalDepot
from agent.process import run

MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-b", "4096"],  # a small one would have blocks of 1 KiB
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}


@pytest.fixture
def depot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalDepot:
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("REGRAFT_TRUST", raising=False)
    return LocalDepot.init(tmp_path / "depot")


@pytest.fixture
def file_system(tmp_path: Path) -> Iterator[Callable[[str, str], Path]]:
    """Makes and mounts file systems on loop devices: file_system("ext4", "name")."""
    mounted: list[Path] = []

    def make(kind: str, name: str) -> Path:
        image, place = tmp_path / f"{name}.img", tmp_path / name
        with image.open("wb") as file:
            file.truncate(600 << 20)
        run([*MAKE[kind], image])
        place.mkdir()
        run(["mount", "-o", "loop", image, place])
        mounted.append(place)
        return place

    yield make
    for place in mounted:
        run(["umount", place])
