"""The catalogue is made again: the same as before, and only of what is signed."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.depot.catalogue import find_image, read_catalogue
from agent.depot.components import add_component
from agent.depot.forget import forget
from agent.depot.local import LocalDepot
from agent.depot.reindex import Reindexed, reindex
from agent.depot.signing import trusted_keys
from agent.depot.store import CATALOGUE_FILE, image_path
from agent.errors import DamagedError
from agent.model.image import ImageRef
from tests.depot.small_images import publish
from tests.depot.test_components import CONTROL, FILES, deb

TIMES = ("20261121T000000Z", "20261122T000000Z")


@pytest.fixture
def filled(depot: LocalDepot, tmp_path: Path) -> LocalDepot:
    for machine in ("web-1", "db-1"):
        for time in TIMES:
            publish(depot, tmp_path, time, (b"a", time.encode()), machine)
    deb(tmp_path / "kernel.deb", CONTROL, FILES)
    add_component(depot, tmp_path / "kernel.deb")
    return depot


def test_the_same_catalogue_comes_back(filled: LocalDepot) -> None:
    before = filled.read(CATALOGUE_FILE)
    for spoil in (b"{", None):
        path = filled.root / CATALOGUE_FILE
        path.unlink() if spoil is None else path.write_bytes(spoil)
        with pytest.raises(DamagedError, match=r"catalogue\.json"):
            read_catalogue(filled)
        assert reindex(filled, trusted_keys(filled)) == Reindexed(4, 2, 1, ())
        assert filled.read(CATALOGUE_FILE) == before
    assert find_image(filled, trusted_keys(filled), ImageRef("db-1")).manifest.time == TIMES[1]


def test_what_is_damaged_unsigned_or_misplaced_is_left_out_and_named(filled: LocalDepot) -> None:
    damaged, unsigned = (filled.root / image_path("web-1", time) for time in TIMES)
    damaged.write_bytes(damaged.read_bytes() + b" ")
    unsigned.with_name(unsigned.name + ".sig").unlink()
    misplaced = filled.root / image_path("db-1", "20990101T000000Z")
    for name in ("", ".sig"):
        good = filled.root / (image_path("db-1", TIMES[0]) + name)
        misplaced.with_name(misplaced.name + name).write_bytes(good.read_bytes())
    found = reindex(filled, trusted_keys(filled))
    assert found.images == 2 and {Path(path).name for path, _ in found.left_out} == {
        damaged.name, unsigned.name, misplaced.name
    }  # fmt: skip
    assert [each.machine for each in read_catalogue(filled).images] == ["db-1", "db-1"]


def test_an_image_whose_forgetting_was_cut_is_back(filled: LocalDepot, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input"):
        patch.setattr(Path, "unlink", broken)
        forget(filled, [ImageRef("web-1", TIMES[0])])
    assert len(read_catalogue(filled).images) == 3
    assert reindex(filled, trusted_keys(filled)).images == 4
