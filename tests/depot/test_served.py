"""Capture to, and restore from, a depot that regraft serves."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.depot.catalogue import find_image, images, last_image
from agent.depot.http import HttpDepot
from agent.depot.local import LocalDepot
from agent.depot.prune import PrunePlan, prune
from agent.depot.signing import trusted_keys
from agent.depot.store import Published, pack_path
from agent.errors import NoImageError, NotAllowedError, UsageError
from agent.image import pack
from agent.image.capture import capture_image
from agent.image.write import write_volume
from agent.model.image import ImageRef
from agent.server.run import PreparedServer, ServeOptions, prepare
from tests.image.source_tree import describe, no_events, plain_tree, random_bytes, source

pytestmark = pytest.mark.root
TOKEN = "write-token-0123456789"


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PreparedServer]:
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("REGRAFT_TRUST", raising=False)
    prepared = prepare(tmp_path / "depot", "127.0.0.1", 0, ServeOptions(write_token=TOKEN))
    thread = threading.Thread(target=prepared.server.run, kwargs={"sockets": [prepared.listener]})
    thread.start()
    deadline = time.monotonic() + 20
    while not prepared.server.started and time.monotonic() < deadline:
        time.sleep(0.02)
    yield prepared
    prepared.server.should_exit = True
    thread.join(30)
    prepared.listener.close()


def test_a_capture_over_the_network_comes_back_over_it(
    served: PreparedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "PACK_BYTES", 2 << 20)  # many packs, so that they go up while others fill
    tree, target = tmp_path / "source", tmp_path / "target"
    plain_tree(tree)
    for number in range(12):
        (tree / f"usr/random-{number}").write_bytes(random_bytes((1 << 20) + number))
    depot = HttpDepot(served.url, TOKEN)
    first = capture_image(source(tree), depot, no_events)
    assert first.packs >= 5
    key = LocalDepot(tmp_path / "depot").public_key
    previous = last_image(depot, (key,), "web-1")
    assert previous is not None and previous.manifest.ref == first.ref
    second = capture_image(source(tree), depot, no_events, previous=previous)
    assert second.stored_bytes < first.stored_bytes / 20
    target.mkdir()
    loaded = find_image(depot, trusted_keys(depot, [key]), second.ref)
    write_volume(depot, loaded, "root", target, no_events)
    assert describe(target) == describe(tree)
    for one in loaded.manifest.packs:
        pack.read_table(depot, one)
    assert last_image(depot, (), "web-9") is None


def test_what_the_server_has_a_part_of_only_is_put_again(served: PreparedServer, tmp_path: Path) -> None:
    """The same content makes the same packs again, and the server refuses an image whose packs are too short."""
    tree = tmp_path / "source"
    plain_tree(tree)
    depot = HttpDepot(served.url, TOKEN)
    first = capture_image(source(tree), depot, no_events, jobs=1)
    keys = trusted_keys(depot, [LocalDepot(tmp_path / "depot").public_key])
    loaded = find_image(depot, keys, first.ref)
    for each in loaded.manifest.packs:
        path = tmp_path / "depot" / pack_path(each.sha256)
        os.truncate(path, each.size_bytes - 1)
        assert depot.exists(pack_path(each.sha256)) and not depot.exists(pack_path(each.sha256), each.size_bytes)
    again = capture_image(source(tree), depot, no_events, jobs=1, previous=loaded)
    assert again.stored_bytes == first.stored_bytes
    assert find_image(depot, keys, again.ref).manifest.packs == loaded.manifest.packs
    for each in loaded.manifest.packs:
        assert depot.exists(pack_path(each.sha256), each.size_bytes)


def test_without_a_token_for_writing_nothing_is_published(served: PreparedServer, tmp_path: Path) -> None:
    plain_tree(tmp_path / "source")
    with pytest.raises(NotAllowedError):
        capture_image(source(tmp_path / "source"), HttpDepot(served.url, "wrong"), no_events)
    depot = LocalDepot(tmp_path / "depot")
    assert images(depot) == ()
    with pytest.raises(NoImageError):
        find_image(depot, trusted_keys(depot), ImageRef("web-1"))


def test_a_capture_over_the_network_holds_a_lease(
    served: PreparedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pruned on the server without any grace, when all packs are there and no manifest names them."""
    plain_tree(tmp_path / "source")
    there = LocalDepot(tmp_path / "depot")
    plans: list[PrunePlan] = []
    real = HttpDepot.publish_profile

    def publish_profile(self: HttpDepot, xml: bytes) -> Published:
        plans.append(prune(there, 0))
        return real(self, xml)

    monkeypatch.setattr(HttpDepot, "publish_profile", publish_profile)
    capture_image(source(tmp_path / "source"), HttpDepot(served.url, TOKEN), no_events)
    (plan,) = plans
    assert len(plan.sweep.held) >= 2 and not plan.sweep.delete
    assert [lease.purpose.startswith("capture of web-1 on ") for lease in plan.leases] == [True]
    assert len(images(there)) == 1 and not list((there.root / "leases").iterdir())
    with pytest.raises(UsageError, match="32 hexadecimal digits"):
        HttpDepot(served.url, TOKEN)._lease("PUT", "x" * 32, b"{}")
