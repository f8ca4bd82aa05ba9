"""A capture that is cut – by a full depot, by force – leaves no image, and the next one goes on from there."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.depot.catalogue import find_image
from agent.depot.local import LocalDepot
from agent.depot.prune import prune
from agent.depot.signing import trusted_keys
from agent.depot.store import pack_path
from agent.depot.unfinished import unfinished_path
from agent.errors import NoImageError, StorageFullError
from agent.image import pack
from agent.image.capture import CaptureResult, capture_image
from agent.image.check import check_images
from agent.image.check_work import DECODE
from agent.image.write import write_volume
from agent.model.events import Event
from agent.model.image import ImageRef, ObjectRef
from agent.process import run
from tests.image.source_tree import describe, no_events, plain_tree, random_bytes, source

pytestmark = pytest.mark.root
PACK_BYTES = 1 << 20
CONTENT_BYTES = 24 << 20


@pytest.fixture(autouse=True)
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "PACK_BYTES", PACK_BYTES)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    plain_tree(tmp_path / "source")
    for number in range(48):
        (tmp_path / f"source/{number:02}").write_bytes(random_bytes((CONTENT_BYTES // 48) + number))
    return tmp_path / "source"


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of 16 MiB that a depot lives on."""
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "home"))
    place = tmp_path / "disk"
    place.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=16m", "depot", place])
    yield place
    run(["umount", place])


def kill_in_the_middle(tree: Path, depot: LocalDepot, packs: int) -> None:
    """A capture in a process of its own, killed when so many packs are stored; its workers find their parent gone."""
    ended, held = os.pipe()  # every process of the capture holds the other end
    child = os.fork()
    if child == 0:
        real = LocalDepot.put_file

        def put_file(self: LocalDepot, path: str, file: Path) -> None:
            real(self, path, file)
            if len(stored(depot)) >= packs:
                os.kill(parent, signal.SIGKILL)

        setattr(LocalDepot, "put_file", put_file)  # noqa: B010 - a method
        parent = os.getpid()
        capture_image(source(tree), depot, no_events, jobs=2)
        os._exit(0)
    os.close(held)
    assert os.read(ended, 1) == b""
    os.close(ended)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def stored(depot: LocalDepot) -> set[str]:
    return {path.relative_to(depot.root).as_posix() for path in depot.root.glob("packs/*/*.pack")}


def capture_again(tree: Path, depot: LocalDepot, said: Callable[[Event], None] = no_events) -> CaptureResult:
    return capture_image(source(tree), depot, said, jobs=2)


def assert_right(depot: LocalDepot, result: CaptureResult, tree: Path, target: Path) -> None:
    trust = trusted_keys(depot)
    assert check_images(depot, trust, [result.ref], DECODE, no_events).findings == ()
    target.mkdir()
    write_volume(depot, find_image(depot, trust, result.ref), "root", target, no_events)
    assert describe(target) == describe(tree)


def assert_no_image(depot: LocalDepot) -> None:
    with pytest.raises(NoImageError):
        find_image(depot, trusted_keys(depot), ImageRef("web-1"))
    assert not list(depot.root.glob("machines/*/images/*"))


def test_a_full_depot_refuses_cleanly_and_is_continued(small_disk: Path, tree: Path, tmp_path: Path) -> None:
    depot = LocalDepot.init(small_disk)
    with pytest.raises(StorageFullError) as refused:
        capture_again(tree, depot)
    said = str(refused.value)
    assert str(small_disk) in said and "are free" in said and "start the same" in said
    assert_no_image(depot)
    assert [path.name for path in (small_disk / "tmp").iterdir()] == ["catalogue.lock"], "staging is removed"
    assert not list(small_disk.glob("leases/*"))
    before = stored(depot)
    assert len(before) >= 8
    with pytest.raises(StorageFullError):
        capture_again(tree, depot)  # no room yet: nothing is lost by trying
    assert stored(depot) >= before
    run(["mount", "-o", "remount,size=64m", small_disk])
    held = len(stored(depot)) * PACK_BYTES
    said_now: list[str] = []
    result = capture_again(tree, depot, lambda event: said_now.append(event.text))
    assert any("continuing a capture that was cut" in text for text in said_now)
    assert result.stored_bytes < CONTENT_BYTES + (4 << 20) - held, "only what was not there"
    assert not depot.exists(unfinished_path("web-1"))
    assert_right(depot, result, tree, tmp_path / "target")


def test_a_killed_capture_is_continued(depot: LocalDepot, tree: Path, tmp_path: Path) -> None:
    kill_in_the_middle(tree, depot, 12)
    assert_no_image(depot)
    kept = stored(depot)
    assert len(kept) >= 12
    result = capture_again(tree, depot)
    new = stored(depot) - kept
    assert sum((depot.root / path).stat().st_size for path in new) == result.stored_bytes
    assert result.stored_bytes < CONTENT_BYTES - 11 * PACK_BYTES + (4 << 20)
    manifest = find_image(depot, trusted_keys(depot), result.ref).manifest
    assert {pack_path(each.sha256) for each in manifest.packs} >= kept
    assert_right(depot, result, tree, tmp_path / "target")


def test_what_changed_since_is_stored_anew(depot: LocalDepot, tree: Path, tmp_path: Path) -> None:
    first = capture_again(tree, depot)
    for number in range(24):
        (tree / f"{number:02}").write_bytes(random_bytes(600_000 + number))
    child_sees = find_image(depot, trusted_keys(depot), first.ref)
    kill_in_the_middle(tree, depot, len(stored(depot)) + 4)
    (tree / "05").write_bytes(random_bytes(700_000))
    result = capture_image(source(tree), depot, no_events, jobs=2, previous=child_sees)
    assert result.stored_bytes < 24 * 600_000 - 3 * PACK_BYTES + 700_000
    assert_right(depot, result, tree, tmp_path / "target")


def test_a_pack_that_is_not_whole_is_passed_over(depot: LocalDepot, tree: Path, tmp_path: Path) -> None:
    kill_in_the_middle(tree, depot, 12)
    table, short, gone = sorted(depot.root / path for path in stored(depot))[:3]
    data = bytearray(table.read_bytes())
    data[-80] ^= 1
    table.write_bytes(data)
    os.truncate(short, short.stat().st_size - 1)
    gone.unlink()
    depot.note_pack("web-1", ObjectRef("0" * 64, 5))
    with (depot.root / unfinished_path("web-1")).open("ab") as file:
        file.write(b'\n{"sha256":"../../x","size_bytes":1}\n{"sha256":"' + b"[" * 100_000)
    said: list[str] = []
    result = capture_again(tree, depot, lambda event: said.append(event.text))
    assert [text for text in said if "not taken over" in text and table.stem in text]
    assert result.stored_bytes > 3 * PACK_BYTES
    assert_right(depot, result, tree, tmp_path / "target")


def test_prune_keeps_them_for_the_grace_and_while_a_capture_builds_on_them(
    depot: LocalDepot, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_in_the_middle(tree, depot, 12)
    for lease in depot.root.glob("leases/*"):
        lease.unlink()  # as an hour does
    kept = stored(depot)
    assert {due.path for due in prune(depot, 24 * 3600, lambda: "20261101T000000Z").sweep.new} == kept
    assert stored(depot) == kept, "marked long ago: nothing but what builds on them keeps them from now on"
    real = LocalDepot.publish_profile

    def meanwhile(self: LocalDepot, xml: bytes) -> object:
        assert prune(depot, 0).sweep.delete == ()
        return real(self, xml)

    monkeypatch.setattr(LocalDepot, "publish_profile", meanwhile)
    result = capture_again(tree, depot)
    assert stored(depot) >= kept
    assert_right(depot, result, tree, tmp_path / "target")


def test_what_nobody_continues_goes(depot: LocalDepot, tree: Path) -> None:
    kill_in_the_middle(tree, depot, 12)
    for lease in depot.root.glob("leases/*"):
        lease.unlink()
    prune(depot, 24 * 3600)
    assert depot.exists(unfinished_path("web-1")) and stored(depot)
    prune(depot, 0)
    assert stored(depot) == set() and not depot.exists(unfinished_path("web-1"))
    assert depot.unfinished("web-1") == ()


def test_an_error_of_the_depot_is_none_of_a_file(
    depot: LocalDepot, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full or failing depot was once taken for a file that cannot be read."""

    def write(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("agent.image.pack.os.write", write)
    with pytest.raises(StorageFullError):
        capture_again(tree, depot)
    assert_no_image(depot)
