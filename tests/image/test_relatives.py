"""A second machine with the same software costs little, and is whole when the first is forgotten."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from agent.commands.capture import capture_source
from agent.commands.options import Access
from agent.console.recorder import Recorder
from agent.depot.catalogue import find_image
from agent.depot.forget import forget
from agent.depot.local import LocalDepot
from agent.depot.prune import prune
from agent.depot.signing import trusted_keys
from agent.depot.store import pack_path
from agent.image.capture import CaptureResult
from agent.image.check import check_images
from agent.image.check_work import DECODE
from agent.image.write import write_volume
from agent.probe.source import directory_source
from tests.commands.system import OS_RELEASE
from tests.image.source_tree import describe, no_events

pytestmark = pytest.mark.tools  # workers are processes


def system(root: Path, own: str, packages: int = 20, seed: int = 1) -> Path:
    """A tree of some MiB; ``own`` is what only this machine has."""
    content = random.Random(seed)
    (root / "etc").mkdir(parents=True)
    (root / "etc/os-release").write_text(OS_RELEASE)
    (root / "etc/hostname").write_text(own + "\n")
    (root / "var/lib/dpkg").mkdir(parents=True)
    paragraph = "Package: p{0}\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.{0}\n"
    (root / "var/lib/dpkg/status").write_text("\n".join(paragraph.format(number) for number in range(packages)))
    for number in range(120):
        folder = root / f"usr/lib/p{number // 10}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file{number}").write_bytes(content.randbytes(content.randrange(200, 120_000)))
    (root / "usr/lib/large").write_bytes(content.randbytes(5 << 20))
    return root


def capture(depot: LocalDepot, root: Path, name: str) -> CaptureResult:
    access = Access(str(depot.root), "", ())
    return capture_source(access, directory_source(root, name), Recorder([]))


@pytest.fixture
def depot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalDepot:
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "home"))
    return LocalDepot.init(tmp_path / "depot")


def test_a_second_machine_stores_only_what_is_its_own(depot: LocalDepot, tmp_path: Path) -> None:
    first = capture(depot, system(tmp_path / "one", "one"), "one")
    two = system(tmp_path / "two", "two")
    (two / "srv").mkdir()
    (two / "srv/own").write_bytes(random.Random(2).randbytes(300_000))
    second = capture(depot, two, "two")
    assert 300_000 <= second.stored_bytes < 0.1 * first.stored_bytes
    keys = trusted_keys(depot)
    forget(depot, [first.ref])
    prune(depot, 0)
    prune(depot, 0)
    assert check_images(depot, keys, [second.ref], DECODE, no_events).findings == ()
    (tmp_path / "target").mkdir()
    write_volume(depot, find_image(depot, keys, second.ref), "root", tmp_path / "target", no_events)
    assert describe(tmp_path / "target") == describe(two)
    again = capture(depot, two, "two")
    assert again.stored_bytes == 0


def test_an_update_of_both_is_stored_once(depot: LocalDepot, tmp_path: Path) -> None:
    one, two = system(tmp_path / "one", "one"), system(tmp_path / "two", "two")
    capture(depot, one, "one")
    capture(depot, two, "two")
    for root in (one, two):
        (root / "usr/lib/p3/file31").write_bytes(random.Random(3).randbytes(400_000))
    assert capture(depot, one, "one").stored_bytes >= 400_000
    assert capture(depot, two, "two").stored_bytes < 40_000


@pytest.mark.parametrize("how", ["absent", "shorter"])
def test_what_lay_in_a_lost_pack_of_both_is_stored_again(how: str, depot: LocalDepot, tmp_path: Path) -> None:
    """The relative's image refers to the lost pack, too: what lies there is none to refer to."""
    one, two = system(tmp_path / "one", "one"), system(tmp_path / "two", "two")
    first = capture(depot, one, "one")
    keys = trusted_keys(depot)
    shared = find_image(depot, keys, first.ref).manifest.packs
    before = find_image(depot, keys, capture(depot, two, "two").ref).manifest
    assert {pack.sha256 for pack in before.packs} & {pack.sha256 for pack in shared}
    for pack in shared:
        path = depot.root / pack_path(pack.sha256)
        if how == "absent":
            path.unlink()
        else:
            os.truncate(path, pack.size_bytes - 1)
    again = capture(depot, two, "two")
    assert again.stored_bytes > 5 << 20
    assert check_images(depot, keys, [again.ref], DECODE, no_events).findings == ()
    (tmp_path / "target").mkdir()
    write_volume(depot, find_image(depot, keys, again.ref), "root", tmp_path / "target", no_events)
    assert describe(tmp_path / "target") == describe(two)


def test_a_machine_with_other_software_is_not_built_on(depot: LocalDepot, tmp_path: Path) -> None:
    first = capture(depot, system(tmp_path / "one", "one"), "one")
    stranger = capture(depot, system(tmp_path / "two", "two", packages=3), "two")
    assert stranger.stored_bytes > 0.9 * first.stored_bytes
