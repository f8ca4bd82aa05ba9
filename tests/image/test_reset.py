"""Restoring again onto a tree that drifted: only what differs is written, and by default everything is read."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.depot.catalogue import find_image
from agent.depot.local import LocalDepot
from agent.depot.signing import trusted_keys
from agent.errors import RefusedError, TargetIOError, UsageError
from agent.image.capture import CaptureSource, SourceVolume, capture_image
from agent.image.entry import PART_BYTES
from agent.image.extract import Existing, extract
from agent.image.flags import APPEND, IMMUTABLE
from agent.image.survey import survey
from agent.image.survey_marks import Marks
from agent.image.verify import verify_volume
from agent.image.write import write_volume
from agent.model.storage import FileSystem
from agent.process import run
from tests.image.source_tree import (
    Carried,
    awkward_tree,
    carry,
    describe,
    no_events,
    plain_tree,
    profile,
    random_bytes,
    set_flags,
)

pytestmark = pytest.mark.root
MakeFileSystem = Callable[[str, str], Path]


@pytest.fixture
def restored(depot: LocalDepot, tmp_path: Path) -> Carried:
    """A tree in ``source``, and its restored copy in ``target``."""
    tree, target = tmp_path / "source", tmp_path / "target"
    plain_tree(tree)
    (tree / "usr/huge").write_bytes(random_bytes(PART_BYTES + 5000))
    (tree / "usr/huge-too").write_bytes(random_bytes(PART_BYTES + 6000))
    shared = tree / "shared"
    shared.mkdir()
    os.chown(shared, 1000, 1000)
    shared.chmod(0o2775)
    for number in range(200):
        (tree / f"etc/{number}.conf").write_text(f"setting {number}\n" * 50)
        (shared / f"{number}").write_text(f"shared {number}\n")
        os.chown(shared / f"{number}", 0, 0)
    carried = carry(tree, depot)
    target.mkdir()
    write_volume(depot, carried.loaded, "root", target, no_events)
    assert describe(target) == describe(tree)
    return carried


def drift(target: Path) -> None:
    """What a day of use does to a machine."""
    (target / "etc/1.conf").write_text("another setting\n")
    (target / "etc/2.conf").unlink()
    (target / "etc/3.conf").chmod(0o600)
    (target / "etc/4.conf").unlink()
    (target / "etc/4.conf").mkdir()
    (target / "etc/4.conf/inside").touch()
    (target / "etc/new.conf").touch()
    (target / "var/new").mkdir(parents=True)
    (target / "var/new/file").write_text("x")
    os.utime(target / "shared/7")
    (target / "shared/8").write_text("overwritten in place, the directory does not notice\n")
    shutil.rmtree(target / "usr/bin")
    (target / "bin").unlink()
    (target / "bin").symlink_to("elsewhere")
    with (target / "usr/huge").open("r+b") as file:
        file.seek(PART_BYTES + 100)
        file.write(b"drifted")


@pytest.mark.parametrize("trust", [False, True])
def test_a_drifted_tree_becomes_the_image_again(trust: bool, restored: Carried, tmp_path: Path) -> None:
    target = tmp_path / "target"
    drift(target)
    untouched = {f"etc/{number}.conf": (target / f"etc/{number}.conf").stat().st_ctime_ns for number in range(10, 200)}
    result = write_volume(restored.depot, restored.loaded, "root", target, no_events, trust_metadata=trust)
    assert describe(target) == describe(tmp_path / "source")
    assert {path: (target / path).stat().st_ctime_ns for path in untouched} == untouched, "not even its ctime"
    assert result.bytes_written < 3 << 20, "a part of the large file, and little besides"
    assert result.bytes_kept > 60 << 20 and result.removed == 2
    assert result.bytes_fetched < 3 << 20, "nothing is fetched that is there"
    again = write_volume(restored.depot, restored.loaded, "root", target, no_events, trust_metadata=trust)
    assert (again.removed, again.bytes_fetched if trust else 0) == (0, 0)
    assert describe(target) == describe(tmp_path / "source")


def test_what_goes_of_its_own_accord_need_not_be_removed(
    restored: Carried, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    names = target / "etc/goes", target / "etc/stays"
    for path in names:
        path.touch()

    def survey_then_go(*arguments: Any) -> Marks:
        marks = survey(*arguments)
        assert sorted(marks.extra[b"etc"]) == [b"goes", b"stays"]
        names[0].unlink()
        return marks

    monkeypatch.setattr("agent.image.write.survey", survey_then_go)
    result = write_volume(restored.depot, restored.loaded, "root", target, no_events, trust_metadata=True)
    assert result.removed == 1 and describe(target) == describe(tmp_path / "source")


def test_everything_awkward_is_trusted_as_it_came(depot: LocalDepot, file_system: MakeFileSystem) -> None:
    source, target = file_system("ext4", "source"), file_system("ext4", "target")
    awkward_tree(source)
    carried = carry(source, depot)
    write_volume(depot, carried.loaded, "root", target, no_events)
    before = describe(target)
    result = write_volume(depot, carried.loaded, "root", target, no_events, trust_metadata=True)
    assert describe(target) == before
    assert (result.bytes_written, result.removed) == (0, 0)
    assert verify_volume(depot, carried.loaded, "root", target, no_events).mismatches == ()


@pytest.mark.parametrize("trust", [False, True])
def test_another_name_of_a_locked_file_is_made_again(
    trust: bool, depot: LocalDepot, file_system: MakeFileSystem
) -> None:
    """link(2) refuses what is immutable or append-only (EPERM); a file that is trusted was never unlocked."""
    source, target = file_system("ext4", "source"), file_system("ext4", "target")
    sizes = {"immutable": 1000, "append": 1000, "large": PART_BYTES + 5000, "free": 1000}
    locks = {"immutable": IMMUTABLE, "append": APPEND, "large": IMMUTABLE, "free": 0}
    for name, size in sizes.items():
        (source / name).write_bytes(random_bytes(size))
        os.link(source / name, source / f"{name}.second")
        set_flags(source / name, locks[name])
    carried = carry(source, depot)
    write_volume(depot, carried.loaded, "root", target, no_events)
    try:
        for name, lock in locks.items():
            set_flags(target / name, 0)
            (target / f"{name}.second").unlink()
            set_flags(target / name, lock or IMMUTABLE)
        write_volume(depot, carried.loaded, "root", target, no_events, trust_metadata=trust)
        assert describe(target) == describe(source)
        assert verify_volume(depot, carried.loaded, "root", target, no_events).mismatches == ()
    finally:
        run(["chattr", "-R", "-ia", source, target])


def hide_a_change(path: Path) -> None:
    """Other content under the same size and time: what trusting does not see."""
    found = path.stat()
    path.write_bytes(bytes(reversed(path.read_bytes())))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def test_what_trusting_does_not_see_hashing_does(restored: Carried, tmp_path: Path) -> None:
    target = tmp_path / "target"
    hide_a_change(target / "etc/5.conf")
    write_volume(restored.depot, restored.loaded, "root", target, no_events, trust_metadata=True)
    assert (target / "etc/5.conf").read_bytes() != (tmp_path / "source/etc/5.conf").read_bytes()
    write_volume(restored.depot, restored.loaded, "root", target, no_events)
    assert describe(target) == describe(tmp_path / "source")


@pytest.mark.parametrize("trust", [False, True])
def test_trusting_goes_by_the_time_whether_content_was_changed(trust: bool, restored: Carried, tmp_path: Path) -> None:
    target = tmp_path / "target"
    touched, closed = target / "shared/7", target / "etc/5.conf"
    before = {path: path.stat().st_ino for path in (touched, closed)}
    os.utime(touched)  # the same content
    closed.chmod(0o600)
    with touched.open():  # so that no new file can have its number
        write_volume(restored.depot, restored.loaded, "root", target, no_events, trust_metadata=trust)
    stayed = {path.name for path, inode in before.items() if path.stat().st_ino == inode}
    assert stayed == ({"5.conf"} if trust else {"5.conf", "7"})
    assert describe(target) == describe(tmp_path / "source")


def test_where_times_are_coarse_nothing_is_trusted(
    restored: Carried, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    monkeypatch.setattr("agent.image.write.mounted_kind", lambda root: "vfat")
    hide_a_change(target / "etc/5.conf")
    os.utime(target / "shared/7")
    before = (target / "shared/7").stat().st_ino
    write_volume(restored.depot, restored.loaded, "root", target, no_events, trust_metadata=True)
    assert (target / "shared/7").stat().st_ino == before
    assert describe(target) == describe(tmp_path / "source")


def test_after_trusting_what_was_written_is_read_back(restored: Carried, tmp_path: Path) -> None:
    target = tmp_path / "target"
    time.sleep(0.1)  # the clock of files has ticks
    since = time.time_ns() - 20_000_000
    (target / "etc/1.conf").write_text("another setting\n")
    write_volume(restored.depot, restored.loaded, "root", target, no_events, trust_metadata=True)
    read = verify_volume(restored.depot, restored.loaded, "root", target, no_events, changed_since_ns=since)
    size = (target / "etc/1.conf").stat().st_size
    assert (read.mismatches, read.bytes_read) == ((), size)
    assert read.bytes_trusted == restored.loaded.manifest.volumes[0].content_bytes - size
    hide_a_change(target / "etc/1.conf")
    (target / "etc/6.conf").chmod(0o600)
    (target / "etc/more").touch()
    read = verify_volume(restored.depot, restored.loaded, "root", target, no_events, changed_since_ns=since)
    assert {line.partition(":")[0] for line in read.mismatches} == {"/etc", "/etc/1.conf", "/etc/6.conf", "/etc/more"}


def test_nothing_is_removed_where_the_same_file_system_shows_again(restored: Carried, tmp_path: Path) -> None:
    """A bind mount has the device of the target: a file that does not belong there is somebody's elsewhere."""
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    place = target / "var/a place"
    for folder in (place, elsewhere):
        folder.mkdir(parents=True)
    (elsewhere / "precious").write_text("kept")
    (target / "etc/new.conf").touch()
    run(["mount", "--bind", elsewhere, place])
    try:
        with pytest.raises(RefusedError, match="a place shows a part of the same file system"):
            write_volume(restored.depot, restored.loaded, "root", target, no_events)
    finally:
        run(["umount", place])
    assert (elsewhere / "precious").read_text() == "kept"
    assert (target / "etc/new.conf").exists(), "nothing was begun"
    write_volume(restored.depot, restored.loaded, "root", target, no_events)
    assert not (target / "var").exists() and not (target / "etc/new.conf").exists()


def test_extract_makes_a_directory_equal_to_all_volumes(depot: LocalDepot, tmp_path: Path) -> None:
    root, boot, target = tmp_path / "root", tmp_path / "boot", tmp_path / "target"
    plain_tree(root)
    (root / "boot").mkdir()
    boot.mkdir()
    (boot / "vmlinuz").write_bytes(random_bytes(100_000))
    volumes = (
        SourceVolume("root", FileSystem("ext4", mountpoint="/"), root),
        SourceVolume("boot", FileSystem("ext4", mountpoint="/boot"), boot),
    )
    source = CaptureSource("web-1", "web-1", profile(), (), volumes)
    loaded = find_image(depot, trusted_keys(depot), capture_image(source, depot, no_events, jobs=2).ref)
    extract(depot, loaded, [], target, no_events)
    (target / "boot/more").touch()
    (target / "etc/more").touch()
    kept = extract(depot, loaded, [], target, no_events)
    assert (kept.removed, (target / "etc/more").exists()) == (0, True)
    result = extract(depot, loaded, [], target, no_events, Existing(trust_metadata=True, delete=True))
    assert (result.removed, result.bytes_written) == (2, 0)
    assert sorted(path.name for path in (target / "boot").iterdir()) == ["vmlinuz"]
    with pytest.raises(UsageError, match="whole image"):
        extract(depot, loaded, ["/etc"], target, no_events, Existing(delete=True))


@pytest.mark.parametrize("aliases", [False, True])
def test_names_that_differ_in_their_case_alone_go_where_they_are_other_files(
    aliases: bool, restored: Carried, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is the same file under two names is seen on FAT only, by a test in the live system."""
    monkeypatch.setattr("agent.image.write.has_aliases", lambda root: aliases)
    target = tmp_path / "target"
    os.link(target / "etc/5.conf", target / "etc/5.CONF")
    (target / "etc/6.CONF").write_text("another file")
    (target / "etc/7.conf").rename(target / "etc/7.CONF")
    (target / "DIRECTORY").mkdir()
    (target / "DIRECTORY/file").touch()
    result = write_volume(restored.depot, restored.loaded, "root", target, no_events, trust_metadata=True)
    assert result.removed == 4 and describe(target) == describe(tmp_path / "source")


def test_a_bind_mount_is_not_emptied_by_what_takes_its_place(restored: Carried, tmp_path: Path) -> None:
    """Taking single files out of an image removes what is in their way, but nothing of what is mounted there."""
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    (elsewhere / "below").mkdir(parents=True)
    (elsewhere / "below/precious").write_text("kept")
    place = target / "etc/5.conf"
    place.unlink()
    (place / "mounted").mkdir(parents=True)
    run(["mount", "--bind", elsewhere, place / "mounted"])
    try:
        with pytest.raises(TargetIOError):
            extract(restored.depot, restored.loaded, ["/etc/5.conf"], target, no_events)
    finally:
        run(["umount", place / "mounted"])
    assert (elsewhere / "below/precious").read_text() == "kept"
    extract(restored.depot, restored.loaded, ["/etc/5.conf"], target, no_events)
    assert describe(target) == describe(tmp_path / "source")


@pytest.mark.parametrize(("trust", "aliases"), [(False, False), (True, False), (False, True)])
def test_what_is_mounted_below_an_extra_directory_stops_nothing_else(
    trust: bool, aliases: bool, restored: Carried, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays, with the directories that lead to it; all else becomes the image, and the directory is told of."""
    monkeypatch.setattr("agent.image.write.has_aliases", lambda root: aliases)
    target = tmp_path / "target"
    place = target / "extra/deep/mnt"
    place.mkdir(parents=True)
    for file in ("extra/a", "extra/deep/z", "extra/zz"):
        (target / file).touch()
    drift(target)
    run(["mount", "-t", "tmpfs", "none", place])
    try:
        (place / "precious").write_text("kept")
        result = write_volume(restored.depot, restored.loaded, "root", target, no_events, trust_metadata=trust)
        assert (place / "precious").read_text() == "kept"
    finally:
        run(["umount", place])
    assert result.removed == 2, "what drift made; the directory that stays is not counted"
    (said,) = result.warnings
    assert said == f"/extra: was not removed: something is mounted in it, on {place}"
    assert sorted(path.relative_to(target).as_posix() for path in (target / "extra").rglob("*")) == [
        "extra/deep", "extra/deep/mnt",
    ]  # fmt: skip
    assert write_volume(restored.depot, restored.loaded, "root", target, no_events, trust_metadata=trust).removed == 1
    assert describe(target) == describe(tmp_path / "source")


def test_what_cannot_be_removed_is_named(restored: Carried, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "target"
    (target / "var/extra").mkdir(parents=True)

    def failing(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("agent.image.cleaner.remove", failing)
    for trust in (False, True):
        with pytest.raises(TargetIOError, match=f"{target}/var does not belong and cannot be removed: Input/output"):
            write_volume(restored.depot, restored.loaded, "root", target, no_events, trust_metadata=trust)


@pytest.mark.parametrize("hidden", [False, True])
def test_mounts_that_are_no_second_view(hidden: bool, restored: Carried, tmp_path: Path) -> None:
    """The target itself may be a mount point; a mount that another one hides is not in the way."""
    target, other = tmp_path / "target", tmp_path / "other"
    (other / "place").mkdir(parents=True)
    run(["mount", "--bind", target, target])
    mounted = [target]
    if hidden:
        (target / "place").mkdir()
        run(["mount", "--bind", other, target / "place"])
        run(["mount", "--bind", other, target])
        mounted = [target, target / "place", target]
    try:
        (target / "new").touch()
        write_volume(restored.depot, restored.loaded, "root", target, no_events)
        assert describe(target) == describe(tmp_path / "source")
    finally:
        for each in mounted:
            run(["umount", each])
