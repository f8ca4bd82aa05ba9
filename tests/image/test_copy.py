"""Images go from depot to depot: only what is missing, nothing that is damaged or forged, signed anew."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.depot.catalogue import find_image, images
from agent.depot.http import HttpDepot
from agent.depot.lease import FOLDER
from agent.depot.local import LocalDepot
from agent.depot.prune import prune
from agent.depot.signing import TrustedKeys, trusted_keys
from agent.depot.store import Depot, WritableDepot, image_path, listing_path, pack_path
from agent.depot.stored import stored_objects
from agent.errors import DamagedError, NotAllowedError, NotTrustedError, RefusedError
from agent.image import pack
from agent.image.check import check_images
from agent.image.check_work import DECODE
from agent.image.copy import CopyResult, copy_image
from agent.image.write import write_volume
from agent.model.image import ImageRef
from agent.server.run import PreparedServer, ServeOptions, prepare
from tests.depot.web_server import Ranges, serve
from tests.image.source_tree import Carried, carry, describe, no_events, plain_tree, random_bytes

pytestmark = pytest.mark.root
TOKEN = "write-token-0123456789"


@pytest.fixture
def two(depot: LocalDepot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Carried, Carried]:
    """Two images of one machine; the second needs packs of the first. Packs of 1 MiB."""
    monkeypatch.setattr(pack, "PACK_BYTES", 1 << 20)
    tree = tmp_path / "source"
    plain_tree(tree)
    first = carry(tree, depot)
    (tree / "second").write_bytes(random_bytes(400_000))
    return first, carry(tree, depot, previous=first.loaded)


@pytest.fixture
def target(depot: LocalDepot, tmp_path: Path) -> LocalDepot:
    return LocalDepot.init(tmp_path / "target depot")


@pytest.fixture
def served(tmp_path: Path, depot: LocalDepot) -> Iterator[PreparedServer]:
    prepared = prepare(tmp_path / "served", "127.0.0.1", 0, ServeOptions(write_token=TOKEN))
    thread = threading.Thread(target=prepared.server.run, kwargs={"sockets": [prepared.listener]})
    thread.start()
    deadline = time.monotonic() + 20
    while not prepared.server.started and time.monotonic() < deadline:
        time.sleep(0.02)
    yield prepared
    prepared.server.should_exit = True
    thread.join(30)
    prepared.listener.close()


def copied(one: Carried, target: WritableDepot, source: Depot | None = None) -> CopyResult:
    keys = TrustedKeys(frozenset({one.depot.public_key}))
    return copy_image(source or one.depot, keys, one.loaded.manifest.ref, target, no_events)


def is_whole(target: Depot, key: str, one: Carried, tree: Path, folder: Path) -> None:
    """The image in the target is signed by the target's key only, and brings the tree back."""
    keys = TrustedKeys(frozenset({key}))
    assert check_images(target, keys, [one.loaded.manifest.ref], DECODE, no_events).findings == ()
    with pytest.raises(NotTrustedError):
        find_image(target, TrustedKeys(frozenset({one.depot.public_key})), one.loaded.manifest.ref)
    loaded = find_image(target, keys, one.loaded.manifest.ref)
    assert loaded.manifest == one.loaded.manifest and loaded.manifest_sha256 == one.loaded.manifest_sha256
    folder.mkdir()
    write_volume(target, loaded, "root", folder, no_events)
    assert describe(folder) == describe(tree)


def test_only_what_is_missing_travels(two: tuple[Carried, Carried], target: LocalDepot, tmp_path: Path) -> None:
    first, second = two
    before = stored_objects(second.depot)
    all_of_it = copied(second, target)
    assert (all_of_it.files, all_of_it.bytes_there) == (len(stored_objects(target)), 0)
    assert all_of_it.bytes_copied == sum(stored_objects(target).values())
    rest = copied(first, target)
    assert rest.files == len(stored_objects(target)) - all_of_it.files
    assert rest.bytes_there == sum(pack.size_bytes for pack in first.loaded.manifest.packs
                                   if pack in second.loaded.manifest.packs)  # fmt: skip
    again = copied(first, target)
    assert again.already_there and (again.files, again.bytes_copied) == (0, 0)
    assert stored_objects(second.depot) == before, "the source is only read"
    is_whole(target, target.public_key, second, tmp_path / "source", tmp_path / "out")
    assert not list((target.root / FOLDER).iterdir()) and not list((target.root / "tmp").glob("copy-*"))


def test_from_a_web_server(two: tuple[Carried, Carried], target: LocalDepot, tmp_path: Path) -> None:
    with serve(Ranges, two[1].depot.root) as (url, handler):
        copied(two[1], target, HttpDepot(url))
        asked = [line for line in handler.requests if "/packs/" in line]
        assert asked
        count = len(asked)
        copied(two[1], target, HttpDepot(url))
        assert len([line for line in handler.requests if "/packs/" in line]) == count
    is_whole(target, target.public_key, two[1], tmp_path / "source", tmp_path / "out")


def test_to_a_server(two: tuple[Carried, Carried], served: PreparedServer, tmp_path: Path) -> None:
    there = LocalDepot(tmp_path / "served")
    with pytest.raises(NotAllowedError):
        copied(two[1], HttpDepot(served.url, "wrong"))
    assert images(there) == () and stored_objects(there) == {}
    first = copied(two[0], HttpDepot(served.url, TOKEN))
    second = copied(two[1], HttpDepot(served.url, TOKEN))
    assert second.bytes_there > 0 and first.bytes_copied + second.bytes_copied == sum(stored_objects(there).values())
    assert copied(two[1], HttpDepot(served.url, TOKEN)).already_there
    assert not list((there.root / FOLDER).iterdir())
    is_whole(there, there.public_key, two[1], tmp_path / "source", tmp_path / "out")


def test_what_is_damaged_does_not_travel(two: tuple[Carried, Carried], target: LocalDepot) -> None:
    one = two[1]
    for path in (pack_path(one.loaded.manifest.packs[-1].sha256),
                 listing_path(one.loaded.manifest.volumes[0].listing.sha256)):  # fmt: skip
        place = one.depot.root / path
        good = place.read_bytes()
        place.write_bytes(good[:10] + bytes([good[10] ^ 1]) + good[11:])
        with pytest.raises(DamagedError, match=path):
            copied(one, target)
        place.unlink()
        with pytest.raises(DamagedError, match="is absent from depot"):
            copied(one, target)
        assert images(target) == () and not target.exists(path)
        place.write_bytes(good)
    already = stored_objects(target)
    assert already, "what was good is kept"
    result = copied(one, target)
    assert result.files == len(stored_objects(target)) - len(already)


def test_what_nobody_trusted_signed_does_not_travel(two: tuple[Carried, Carried], target: LocalDepot) -> None:
    with pytest.raises(NotTrustedError):
        copy_image(two[0].depot, trusted_keys(target), two[0].loaded.manifest.ref, target, no_events)
    assert stored_objects(target) == {}


def test_a_target_that_cannot_sign_is_refused_at_once(
    two: tuple[Carried, Carried], target: LocalDepot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(tmp_path / "home/depots" / target.id)
    with pytest.raises(NotTrustedError, match="no signing key"):
        copied(two[0], LocalDepot(target.root))
    assert stored_objects(target) == {}


def test_another_image_of_the_same_name_is_refused(two: tuple[Carried, Carried], target: LocalDepot) -> None:
    copied(two[0], target)
    ref = two[0].loaded.manifest.ref
    path = target.root / image_path(ref.machine, ref.time)
    path.write_bytes(path.read_bytes().replace(b'"web-1.example"', b'"web-2.example"'))
    with pytest.raises(RefusedError, match="another image of the name"):
        copied(two[0], target)


def test_publishing_that_was_cut_is_finished(two: tuple[Carried, Carried], target: LocalDepot) -> None:
    copied(two[0], target)
    ref = two[0].loaded.manifest.ref
    (target.root / (image_path(ref.machine, ref.time) + ".sig")).unlink()
    assert not copied(two[0], target).already_there
    assert find_image(target, trusted_keys(target), ref)


def test_what_was_pruned_meanwhile_is_copied_again(
    two: tuple[Carried, Carried], target: LocalDepot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that was cut left packs; they were marked long ago, are met again, and go before the image names them."""
    one = two[1]
    copied(one, target)
    ref = one.loaded.manifest.ref
    for name in ("", ".sig"):
        (target.root / (image_path(ref.machine, ref.time) + name)).unlink()
    assert prune(target, 86_400, lambda: "20200101T000000Z").sweep.new
    real = LocalDepot.publish_profile

    def publish_profile(self: LocalDepot, xml: bytes) -> Any:
        monkeypatch.setattr(LocalDepot, "publish_profile", real)
        assert prune(self, 86_400).sweep.delete
        return real(self, xml)

    monkeypatch.setattr(LocalDepot, "publish_profile", publish_profile)
    result = copied(one, target)
    assert result.files == len(stored_objects(target)) > 3
    keys = trusted_keys(target)
    assert check_images(target, keys, [ImageRef("web-1", ref.time)], DECODE, no_events).findings == ()
