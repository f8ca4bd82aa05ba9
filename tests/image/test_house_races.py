"""Pruning and forgetting while a real capture runs: it ends with a whole image, or with none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.depot.catalogue import find_image, images, last_image
from agent.depot.forget import forget
from agent.depot.lease import FOLDER
from agent.depot.local import LocalDepot
from agent.depot.prune import PrunePlan, prune
from agent.depot.signing import trusted_keys
from agent.depot.store import listing_path, needed_paths
from agent.errors import RefusedError
from agent.image import capture
from agent.image.capture import capture_image
from agent.image.check import check_images
from agent.image.check_work import DECODE
from agent.image.write import write_volume
from tests.image.source_tree import Carried, carry, describe, no_events, plain_tree, random_bytes, source

pytestmark = pytest.mark.root


@pytest.fixture
def first(depot: LocalDepot, tmp_path: Path) -> Carried:
    """The image that the capture builds on."""
    plain_tree(tmp_path / "source")
    return carry(tmp_path / "source", depot)


def in_the_middle(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Do something when all packs and listings are stored, and no manifest names the new ones."""
    real = LocalDepot.publish_profile

    def publish_profile(self: LocalDepot, xml: bytes) -> Any:
        monkeypatch.setattr(LocalDepot, "publish_profile", real)
        act()
        return real(self, xml)

    monkeypatch.setattr(LocalDepot, "publish_profile", publish_profile)


def again(first: Carried, tree: Path) -> Any:
    """A capture that reuses the first image's packs and stores one of its own."""
    (tree / "etc/new").write_bytes(random_bytes(200_000))
    return capture_image(source(tree), first.depot, no_events, jobs=2, previous=first.loaded)


def test_a_running_capture_loses_nothing(first: Carried, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image it builds on is forgotten, and everything unreferenced is pruned without any grace, meanwhile."""
    depot = first.depot
    plans: list[PrunePlan] = []

    def meanwhile() -> None:
        forget(depot, [first.loaded.manifest.ref])
        plans.extend(prune(depot, 0) for _ in range(2))

    in_the_middle(monkeypatch, meanwhile)
    result = again(first, tmp_path / "source")
    held = {due.path for plan in plans for due in plan.sweep.held}
    assert held >= needed_paths(first.loaded.manifest) and len(held) > len(needed_paths(first.loaded.manifest))
    assert not [due for plan in plans for due in plan.sweep.delete]
    assert [f"{each.machine}@{each.time}" for each in images(depot)] == [str(result.ref)]
    trust = trusted_keys(depot)
    assert check_images(depot, trust, [result.ref], DECODE, no_events).findings == ()
    gone = prune(depot, 0).sweep.delete
    old = {listing_path(each.sha256) for each in first.loaded.manifest.objects}
    assert {due.path for due in gone} == old, "the old listing and its stamps; the packs are needed"
    (tmp_path / "target").mkdir()
    write_volume(depot, find_image(depot, trust, result.ref), "root", tmp_path / "target", no_events)
    assert describe(tmp_path / "target") == describe(tmp_path / "source")


def test_a_capture_that_lost_its_lease_is_refused_rather_than_broken(
    first: Carried, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    depot = first.depot

    def meanwhile() -> None:
        for lease in (depot.root / FOLDER).iterdir():
            lease.unlink()
        forget(depot, [first.loaded.manifest.ref])
        assert prune(depot, 0).sweep.delete

    in_the_middle(monkeypatch, meanwhile)
    with pytest.raises(RefusedError, match="is absent"):
        again(first, tmp_path / "source")
    assert images(depot) == ()
    monkeypatch.undo()
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "home"))
    whole = carry(tmp_path / "source", depot)
    assert check_images(depot, trusted_keys(depot), [whole.result.ref], DECODE, no_events).findings == ()


def test_an_image_that_goes_before_the_capture_begins_is_not_built_on(
    first: Carried, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking for the last image and taking the lease there is no protection: it is looked for again."""
    depot = first.depot
    previous = last_image(depot, (), "web-1")
    assert previous is not None
    forget(depot, [previous.manifest.ref])
    gone = prune(depot, 0).sweep.delete
    assert len(gone) == len(needed_paths(previous.manifest))
    result = capture_image(source(tmp_path / "source"), depot, no_events, jobs=2, previous=previous)
    assert result.stored_bytes > 1 << 20
    assert check_images(depot, trusted_keys(depot), [result.ref], DECODE, no_events).findings == ()


def test_leases_end_with_captures_that_fail(first: Carried, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def broken(*_: object) -> None:
        seen.append(len(list((first.depot.root / FOLDER).iterdir())))
        raise RefusedError("no")

    monkeypatch.setattr(capture, "dump_profile", broken)
    with pytest.raises(RefusedError):
        again(first, tmp_path / "source")
    assert seen == [1] and not list((first.depot.root / FOLDER).iterdir())
