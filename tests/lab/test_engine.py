"""The engine, seen with the lab's own eyes: what it carries through a depot is compared by code it does not share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.depot.local import LocalDepot
from agent.image.write import write_volume
from tests.image.source_tree import carry, no_events
from tests.lab.awkward import make_awkward_files
from tests.lab.inventory import differences, read_tree
from tests.lab.programs import run

pytestmark = pytest.mark.root


@pytest.fixture
def file_systems(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    with ExitStack() as stack:
        places = []
        for name in ("source", "target"):
            image, place = tmp_path / f"{name}.img", tmp_path / name
            with image.open("wb") as file:
                file.truncate(600 << 20)
            run(["mkfs.ext4", "-q", "-F", image])
            place.mkdir()
            run(["mount", "-o", "loop", image, place])
            stack.callback(run, ["umount", place])
            places.append(place)
        yield places[0], places[1]


def test_the_awkward_files_come_back(
    file_systems: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("REGRAFT_TRUST", raising=False)
    source, target = file_systems
    make_awkward_files(source / "awkward")
    depot = LocalDepot.init(tmp_path / "depot")
    carried = carry(source, depot)
    assert not carried.result.warnings
    written = write_volume(depot, carried.loaded, "root", target, no_events)
    assert not written.warnings
    unlike = differences(read_tree(source), read_tree(target), ignored=lambda path: path == "/lost+found")
    assert not unlike, "\n".join(map(str, unlike[:30]))
