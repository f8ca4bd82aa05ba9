"""Pruning: what nothing needs goes, after its time, and never under the feet of who publishes or captures."""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from agent.depot.catalogue import find_image, images
from agent.depot.forget import forget
from agent.depot.lease import LeaseFile, decode, lease_path, leased, renewed
from agent.depot.local import LocalDepot
from agent.depot.marks import MARKS_FILE, decode_marks
from agent.depot.prune import plan_prune, prune
from agent.depot.signing import trusted_keys
from agent.depot.store import image_path, pack_path
from agent.depot.stored import stored_objects
from agent.errors import (
    DamagedError,
    NotTrustedError,
    RefusedError,
    StorageFullError,
    UnreachableError,
    UsageError,
)
from agent.model.image import ImageRef
from tests.depot.small_images import path_of, publish, put, small_manifest

DAY_S = 24 * 3600
MONDAY, TUESDAY, WEDNESDAY = "20301125T030000Z", "20301126T030000Z", "20301127T030000Z"
FIRST, SECOND = "20261121T000000Z", "20261122T000000Z"


def at(moment: str, depot: LocalDepot, grace_s: int = DAY_S) -> list[str]:
    """Prune at a time; what was deleted."""
    return [due.path for due in prune(depot, grace_s, lambda: moment).sweep.delete]


def marks(depot: LocalDepot) -> dict[str, str]:
    return decode_marks(depot.read(MARKS_FILE), "") if depot.exists(MARKS_FILE) else {}


def write_lease(depot: LocalDepot, begun: str, expires: str, name: str = "0" * 32) -> None:
    lease = LeaseFile(format=1, purpose="a test", begun=begun, expires=expires)
    depot.write(lease_path(name), msgspec.json.encode(lease))


def test_unreferenced_files_are_marked_then_deleted(depot: LocalDepot, tmp_path: Path) -> None:
    publish(depot, tmp_path, FIRST, (b"kept",))
    put(depot, tmp_path, b"stray")
    before = stored_objects(depot)
    assert at(MONDAY, depot) == [] and marks(depot) == {path_of(b"stray"): MONDAY}
    assert at("20301126T025959Z", depot) == []
    assert at(TUESDAY, depot) == [path_of(b"stray")] and marks(depot) == {}
    assert stored_objects(depot) == {path: size for path, size in before.items() if path != path_of(b"stray")}
    assert find_image(depot, trusted_keys(depot), ImageRef("web-1"))


def test_looking_changes_nothing(depot: LocalDepot, tmp_path: Path) -> None:
    put(depot, tmp_path, b"stray")
    for grace_s in (0, DAY_S):
        before = sorted((path, path.stat().st_mtime_ns) for path in depot.root.rglob("*"))
        plan = plan_prune(depot, grace_s, MONDAY)
        assert len(plan.sweep.delete) == (grace_s == 0) and len(plan.sweep.new) == 1
        assert sorted((path, path.stat().st_mtime_ns) for path in depot.root.rglob("*")) == before


def test_forgetting_starts_the_grace_period(depot: LocalDepot, tmp_path: Path) -> None:
    old = publish(depot, tmp_path, FIRST, (b"shared", b"old"))
    publish(depot, tmp_path, SECOND, (b"shared", b"new"))
    forget(depot, [old], lambda: MONDAY)
    gone = at(TUESDAY, depot)
    assert path_of(b"old") in gone and len(gone) == 2, "its pack and its listing"
    assert depot.exists(path_of(b"shared")) and depot.exists(path_of(b"new"))


def test_what_is_wanted_again_is_not_deleted(depot: LocalDepot, tmp_path: Path) -> None:
    """An image published between mark and deletion, or the same pack put again, takes the mark away."""
    put(depot, tmp_path, b"named later")
    put(depot, tmp_path, b"put again")
    at(MONDAY, depot)
    assert len(marks(depot)) == 2
    put(depot, tmp_path, b"put again")
    publish(depot, tmp_path, FIRST, (b"named later",))
    assert marks(depot) == {}
    assert at(TUESDAY, depot) == [] and marks(depot) == {path_of(b"put again"): TUESDAY}


def test_an_image_that_is_not_in_the_catalogue_still_counts(depot: LocalDepot, tmp_path: Path) -> None:
    """Publishing that was cut before the catalogue, forgetting that was cut after it: the manifest decides."""
    publish(depot, tmp_path, FIRST, (b"a",))
    empty = msgspec.json.decode(depot.read("catalogue.json"))
    depot.write("catalogue.json", msgspec.json.encode({**empty, "images": []}))
    assert images(depot) == () and at(MONDAY, depot, 0) == []
    assert depot.exists(path_of(b"a"))


def test_a_manifest_nobody_understands_stops_everything(depot: LocalDepot, tmp_path: Path) -> None:
    ref = publish(depot, tmp_path, FIRST, (b"a",))
    put(depot, tmp_path, b"stray")
    (depot.root / image_path(ref.machine, ref.time)).write_text("{")
    with pytest.raises(DamagedError, match="is not a manifest"):
        prune(depot, 0)
    assert depot.exists(path_of(b"a")) and depot.exists(path_of(b"stray"))
    forget(depot, [ref])
    assert {path_of(b"a"), path_of(b"stray")} < set(at(MONDAY, depot, 0)) and not stored_objects(depot)


def test_a_lease_holds_what_a_capture_may_rely_on(depot: LocalDepot, tmp_path: Path) -> None:
    put(depot, tmp_path, b"long gone")
    at("20301120T000000Z", depot)
    old = publish(depot, tmp_path, FIRST, (b"reused",))
    write_lease(depot, MONDAY, "20301128T000000Z")  # a capture begins, and builds on that image
    put(depot, tmp_path, b"just stored")
    forget(depot, [old], lambda: "20301125T040000Z")
    deleted = at("20301125T050000Z", depot, grace_s=0)
    assert deleted == [path_of(b"long gone")]
    deleted = at("20301127T050000Z", depot)
    assert deleted == [], "however long it takes"
    manifest = small_manifest(depot, tmp_path, SECOND, (b"reused", b"just stored"))
    depot.publish_image(msgspec.json.encode(manifest))
    (depot.root / lease_path("0" * 32)).unlink()
    assert at("20301128T050000Z", depot, grace_s=0) != [], "the old listing"
    assert depot.exists(path_of(b"reused")) and depot.exists(path_of(b"just stored"))


def test_a_lease_that_expired_holds_nothing_and_goes(depot: LocalDepot, tmp_path: Path) -> None:
    write_lease(depot, MONDAY, TUESDAY)
    put(depot, tmp_path, b"stray")
    assert at(TUESDAY, depot, grace_s=0) == [] and depot.exists(lease_path("0" * 32))
    assert at(WEDNESDAY, depot, grace_s=0) == [path_of(b"stray")]
    assert not depot.exists(lease_path("0" * 32))


def test_a_lease_is_taken_renewed_and_ended(depot: LocalDepot) -> None:
    with leased(depot, "capture of web-1") as lease:
        first = decode(depot.read(lease_path(lease.id)))
        assert first is not None and first.purpose.startswith("capture of web-1 on ")
        depot.hold(lease.id, lease.purpose)
        again = decode(depot.read(lease_path(lease.id)))
        assert again is not None and again.begun == first.begun
    assert not depot.exists(lease_path(lease.id))
    with pytest.raises(UsageError, match="32 hexadecimal digits"):
        depot.hold("../x", "")


def test_a_lease_that_had_expired_begins_anew() -> None:
    begin = datetime(2026, 11, 24, 12, tzinfo=UTC)
    first = renewed(None, "p", begin)
    soon, late = renewed(first, "p", begin.replace(minute=59)), renewed(first, "p", begin.replace(hour=14))
    begun = [found.begun for found in map(decode, (first, soon, late)) if found]
    assert begun == ["20261124T120000Z", "20261124T120000Z", "20261124T140000Z"]


def test_renewing_goes_to_the_depot_now_and_then_and_survives_a_pause(
    depot: LocalDepot, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[str] = []

    def hold(self: LocalDepot, lease: str, purpose: str) -> None:
        held.append(lease)
        if len(held) == 2:
            raise UnreachableError("no answer")

    monkeypatch.setattr(LocalDepot, "hold", hold)
    clock = iter((0.0, 59.0, 61.0, 62.0, 122.0))
    with leased(depot, "capture") as lease:
        lease._renewed = 0.0
        monkeypatch.setattr("agent.depot.lease.time", SimpleNamespace(monotonic=lambda: next(clock)))
        for _ in range(5):
            lease.renew()
    assert held == [lease.id] * 3, "taken, renewed at 61 and at 122"


def test_who_cannot_publish_learns_it_before_the_work(depot: LocalDepot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_HOME", "/nonexistent")
    with pytest.raises(NotTrustedError, match="no signing key"), leased(LocalDepot(depot.root), "capture"):
        raise AssertionError("no work is begun")


def test_publishing_and_pruning_never_overlap(
    depot: LocalDepot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prune comes while an image is being published, after its packs were looked at and before its manifest."""
    manifest = msgspec.json.encode(small_manifest(depot, tmp_path, FIRST, (b"pack",)))
    pruned: list[list[str]] = []
    pruner = threading.Thread(target=lambda: pruned.append(at(MONDAY, LocalDepot(depot.root), grace_s=0)))
    real = LocalDepot._check_present

    def looked(self: LocalDepot, path: str, size_bytes: int) -> None:
        real(self, path, size_bytes)
        if not pruner.is_alive() and not pruned:
            pruner.start()
            time.sleep(0.3)  # all the time it needs, if it does not wait
            assert not pruned

    monkeypatch.setattr(LocalDepot, "_check_present", looked)
    depot.publish_image(manifest)
    pruner.join(10)
    assert pruned == [[]]
    assert depot.exists(path_of(b"pack")) and len(images(depot)) == 1


def test_what_was_deleted_first_is_refused_and_no_image(depot: LocalDepot, tmp_path: Path) -> None:
    """Somebody without a lease came too late: no image, rather than one with a hole in it."""
    manifest = msgspec.json.encode(small_manifest(depot, tmp_path, FIRST, (b"pack",)))
    assert path_of(b"pack") in at(MONDAY, depot, grace_s=0)
    with pytest.raises(RefusedError, match="is absent"):
        depot.publish_image(manifest)
    assert images(depot) == ()


def test_leftovers_of_cut_work_go(depot: LocalDepot, tmp_path: Path) -> None:
    ref = publish(depot, tmp_path, FIRST, (b"a",))
    tmp = depot.root / "tmp"
    (tmp / "capture-x").mkdir()
    (tmp / "capture-x/0-0.pack").write_bytes(bytes(1000))
    (tmp / "put-old").write_bytes(bytes(10))
    stray = depot.root / "machines/web-1/images/20200101T000000Z.json.sig"
    stray.write_text("{}")
    for path in (*tmp.rglob("*"), stray):
        os.utime(path, (0, 0))
    (tmp / "fresh").write_bytes(b"")
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    assert {due.path for due in plan_prune(depot, 0, now).leftovers} == {
        "tmp/capture-x", "tmp/put-old", "machines/web-1/images/20200101T000000Z.json.sig"
    }  # fmt: skip
    prune(depot, 0, lambda: now)
    assert sorted(path.name for path in tmp.iterdir()) == ["catalogue.lock", "fresh"]
    assert not stray.exists() and find_image(depot, trusted_keys(depot), ref)


def test_deleting_that_is_cut_is_continued(depot: LocalDepot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strays = [put(depot, tmp_path, bytes([number])) for number in range(3)]
    publish(depot, tmp_path, FIRST, (b"kept",))
    at(MONDAY, depot)
    real = Path.unlink
    with monkeypatch.context() as patch:
        count = iter(range(100))

        def unlink(self: Path, missing_ok: bool = False) -> None:
            if self.suffix == ".pack" and next(count) == 1:
                raise OSError(5, "Input/output error", str(self))
            real(self, missing_ok)

        patch.setattr(Path, "unlink", unlink)
        with pytest.raises(OSError, match="Input/output error"):
            at(TUESDAY, depot)
    left = [stray for stray in strays if depot.exists(pack_path(stray.sha256))]
    assert len(left) == 2 and len(marks(depot)) == 3
    assert len(at(TUESDAY, depot)) == 2 and marks(depot) == {}
    assert find_image(depot, trusted_keys(depot), ImageRef("web-1"))


def test_a_full_depot_gets_room_before_it_marks(
    depot: LocalDepot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mark needs room that only deleting makes."""
    put(depot, tmp_path, b"due")
    at(MONDAY, depot)
    put(depot, tmp_path, b"new")
    left = depot.root / "tmp/put-old"
    left.write_bytes(bytes(10))
    os.utime(left, (0, 0))
    real = LocalDepot.write

    def write(self: LocalDepot, path: str, data: bytes) -> None:
        if self.exists(path_of(b"due")) or left.exists():
            raise StorageFullError(f"no room for {path}")
        real(self, path, data)

    monkeypatch.setattr(LocalDepot, "write", write)
    assert at(TUESDAY, depot) == [path_of(b"due")]
    assert marks(depot) == {path_of(b"new"): TUESDAY} and depot.exists(path_of(b"new"))


def test_deleting_that_is_cut_before_the_marks_is_continued(
    depot: LocalDepot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The marks speak of what is gone, and the grace of what is new begins with the next run."""
    put(depot, tmp_path, b"due")
    publish(depot, tmp_path, FIRST, (b"kept",))
    at(MONDAY, depot)
    put(depot, tmp_path, b"new")

    def cut(self: LocalDepot, path: str, data: bytes) -> None:
        raise OSError(5, "Input/output error", path)

    with monkeypatch.context() as patch:
        patch.setattr(LocalDepot, "write", cut)
        with pytest.raises(OSError, match=MARKS_FILE):
            at(TUESDAY, depot)
    assert not depot.exists(path_of(b"due")) and marks(depot) == {path_of(b"due"): MONDAY}
    assert at(TUESDAY, depot) == [] and marks(depot) == {path_of(b"new"): TUESDAY}
    assert find_image(depot, trusted_keys(depot), ImageRef("web-1"))


def test_marks_that_are_not_understood_are_named(depot: LocalDepot) -> None:
    for text in ("{", '{"format": 2, "marked": {}}'):
        (depot.root / MARKS_FILE).write_text(text)
        with pytest.raises(DamagedError, match=r"marks\.json"):
            prune(depot, 0)


def test_files_with_other_names_are_nobodys_business(depot: LocalDepot) -> None:
    other = depot.root / "packs/ab/notes.pack"
    other.parent.mkdir()
    other.write_text("mine")
    assert at(MONDAY, depot, grace_s=0) == [] and other.read_text() == "mine"
