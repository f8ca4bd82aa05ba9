"""What is known to fail is found before the first write."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from agent.depot.store import listing_path, pack_path
from agent.errors import DamagedError
from agent.model.image import BLOCKS, ObjectRef
from agent.restore.preflight import check_content
from tests.model.test_layout import gpt_image

LISTING, PACK = "a" * 64, "b" * 64


class Depot:
    """Holds some paths."""

    location = "/srv/depot"

    def __init__(self, *paths: str) -> None:
        self.paths = paths

    def exists(self, path: str, size_bytes: int | None = None) -> bool:
        assert size_bytes == 1
        return path in self.paths


def prepared(*paths: str) -> Any:
    """A disk of blocks: nothing of its listing is read before it is written."""
    image = gpt_image()
    volume = replace(image.volumes[0], kind=BLOCKS, listing=ObjectRef(LISTING, 1))
    manifest = replace(image, volumes=(volume,), packs=(ObjectRef(PACK, 1),))
    return SimpleNamespace(loaded=SimpleNamespace(manifest=manifest), depot=Depot(*paths))


def test_a_depot_with_everything_is_good() -> None:
    check_content(prepared(listing_path(LISTING), pack_path(PACK)))


@pytest.mark.parametrize("absent", [listing_path(LISTING), pack_path(PACK)])
def test_what_the_depot_lost_is_named_while_the_disk_is_whole(absent: str) -> None:
    there = {listing_path(LISTING), pack_path(PACK)} - {absent}
    with pytest.raises(DamagedError, match=f"needs {absent}, which the depot /srv/depot does not have whole"):
        check_content(prepared(*there))
