"""Captures that build on the last image: what is unchanged is not read, and nothing that changed is overlooked."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import zstandard

from agent.depot.catalogue import LoadedImage
from agent.depot.local import LocalDepot
from agent.depot.store import listing_path, pack_path
from agent.image import capture, flags, stamps, uncached
from agent.image.entry import PART_BYTES
from agent.image.listing import open_listing
from agent.image.mountinfo import mounted_kind
from agent.image.read_work import Reader
from agent.image.write import write_volume
from agent.model.image import AT_REST, LIVE, SNAPSHOT, ObjectRef
from agent.process import run
from tests.image.source_tree import (
    awkward_tree,
    carry,
    describe,
    no_events,
    plain_tree,
    random_bytes,
    set_flags,
    source,
)

pytestmark = pytest.mark.root
MakeFileSystem = Callable[[str, str], Path]


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files made just now count as old: no test waits for the clock."""
    monkeypatch.setattr(capture, "MARGIN_NS", -3600 * 10**9)


def restored(depot: LocalDepot, loaded: LoadedImage, to: Path) -> dict[bytes, object]:
    to.mkdir()
    write_volume(depot, loaded, "root", to, no_events)
    return described(to)


def described(tree: Path) -> dict[bytes, object]:
    found: dict[bytes, object] = {**describe(tree)}
    for name in (b"lost+found", b"lost+found/."):
        found.pop(name, None)
    return found


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
@pytest.mark.usefixtures("settled")
def test_an_unchanged_tree_is_not_read(
    kind: str, depot: LocalDepot, file_system: MakeFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = file_system(kind, "source")
    awkward_tree(tree)
    first = carry(tree, depot, kind)
    assert first.result.unchanged == 0

    def read(*_: object) -> None:
        raise AssertionError("a file was read")

    monkeypatch.setattr(Reader, "_regular", read)
    monkeypatch.setattr(Reader, "_special", read)
    monkeypatch.setattr(Reader, "_part", read)
    second = carry(tree, depot, kind, previous=first.loaded)
    assert second.result.stored_bytes == 0 and second.result.unchanged > 20
    assert second.loaded.manifest.volumes[0].listing == first.loaded.manifest.volumes[0].listing
    assert second.loaded.manifest.volumes[0].stamps == first.loaded.manifest.volumes[0].stamps
    third = carry(tree, depot, kind, previous=second.loaded)
    assert third.loaded.manifest.volumes == first.loaded.manifest.volumes


def keeping_times(path: Path, change: Callable[[Path], object]) -> None:
    """As someone who hides a change would make it."""
    before = path.stat()
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def exchange(path: Path) -> None:
    """Another file, of the same size and times, in the place of the first."""
    other = path.with_name("other")
    other.write_bytes(bytes(reversed(path.read_bytes())))
    other.chmod(path.stat().st_mode & 0o7777)
    os.rename(other, path)


@pytest.mark.usefixtures("settled")
def test_every_change_is_seen(depot: LocalDepot, file_system: MakeFileSystem, tmp_path: Path) -> None:
    tree = file_system("ext4", "source")
    plain_tree(tree)
    (tree / "usr/huge").write_bytes(random_bytes(PART_BYTES + 5000))
    (tree / "usr/huge-too").write_bytes(random_bytes(PART_BYTES + 6000))
    for name in ("content", "exchanged", "mode", "attribute", "flag", "linked", "gone", "to-link", "to-folder", "kept"):
        (tree / "etc" / name).write_text(f"the file {name}\n" * 9)
    first = carry(tree, depot)

    keeping_times(tree / "etc/content", lambda path: path.write_text("the fine content\n" * 9))
    keeping_times(tree / "etc/exchanged", exchange)
    keeping_times(tree / "etc/mode", lambda path: path.chmod(0o600))
    keeping_times(tree / "etc/attribute", lambda path: os.setxattr(path, "user.note", b"new"))
    keeping_times(tree / "etc/flag", lambda path: set_flags(path, flags.NODUMP))
    keeping_times(tree / "etc/linked", lambda path: os.link(path, tree / "etc/linked-too"))
    with (tree / "usr/huge").open("r+b") as file:
        file.seek(PART_BYTES + 10)
        file.write(b"changed")
    for name in ("gone", "to-link", "to-folder"):
        (tree / "etc" / name).unlink()
    (tree / "etc/to-link").symlink_to("kept")
    (tree / "etc/to-folder").mkdir()
    (tree / "etc/to-folder/new").write_text("new\n")
    (tree / "bin").unlink()
    (tree / "bin").symlink_to("etc/alternatives")
    os.setxattr(tree / "usr", "user.note", b"new")

    second = carry(tree, depot, previous=first.loaded)
    assert restored(depot, second.loaded, tmp_path / "target") == described(tree)
    assert second.result.stored_bytes < 200_000
    known = second.result.unchanged
    assert {path.name for path in tree.rglob("*") if path.is_file()} >= {"kept", "huge-too"} and known >= 8
    whole = carry(tree, depot, previous=second.loaded, read_all=True)
    assert whole.result.unchanged == 0
    assert restored(depot, whole.loaded, tmp_path / "again") == described(tree)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
@pytest.mark.usefixtures("settled")
def test_stores_through_mapped_memory_are_seen(
    kind: str, depot: LocalDepot, file_system: MakeFileSystem, tmp_path: Path
) -> None:
    """The kernel sets the ctime at the first store to a page only, and again once the page was written back."""
    tree = file_system(kind, "source")
    plain_tree(tree)
    (tree / "mapped").write_bytes(b"NONE" * 4096)
    with (tree / "mapped").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[:4] = b"ONE!"
        first = carry(tree, depot, kind)
        mapped[:4] = b"TWO!"
        second = carry(tree, depot, kind, previous=first.loaded)
        mapped[:4] = b"SIX!"
    third = carry(tree, depot, kind, previous=second.loaded)
    for image, expected in ((first, b"ONE!"), (second, b"TWO!"), (third, b"SIX!")):
        found = restored(depot, image.loaded, tmp_path / expected.decode())[b"mapped"]
        assert isinstance(found, tuple) and found[-1][:4] == expected
    assert third.result.unchanged > 5


def test_a_file_that_changed_just_now_is_read_again(depot: LocalDepot, tmp_path: Path) -> None:
    tree = tmp_path / "source"
    plain_tree(tree)
    first = carry(tree, depot)
    assert carry(tree, depot, previous=first.loaded).result.unchanged == 0
    time.sleep(stamps.MARGIN_NS / 1e9 + 0.05)
    second = carry(tree, depot, previous=first.loaded)  # first was made too early after the files
    assert second.result.unchanged == 0
    assert carry(tree, depot, previous=second.loaded).result.unchanged > 5


@pytest.mark.usefixtures("settled")
def test_stamps_of_other_files_count_for_nothing(
    depot: LocalDepot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "source"
    plain_tree(tree)
    first = carry(tree, depot)
    assert carry(tree, depot, previous=first.loaded).result.unchanged > 5
    monkeypatch.setattr(capture, "identity", lambda *_: "another/file/system")
    assert carry(tree, depot, previous=first.loaded).result.unchanged == 0
    monkeypatch.setattr(capture, "identity", lambda *_: "")
    without = carry(tree, depot, previous=first.loaded)
    assert without.result.unchanged == 0 and without.loaded.manifest.volumes[0].stamps is None


def test_the_identity_is_that_of_one_directory_of_one_file_system(file_system: MakeFileSystem) -> None:
    one, other = file_system("ext4", "one"), file_system("xfs", "other")
    (one / "below").mkdir()
    assert mounted_kind(one / "below") == "ext4" and mounted_kind(other) == "xfs"
    found = [stamps.identity(place, "") for place in (one, one / "below", other)]
    assert len(set(found)) == 3 and all(found)
    assert stamps.identity(one, "") == found[0]
    assert stamps.identity(Path("/proc"), "") == ""


def test_on_tmpfs_nothing_is_believed(depot: LocalDepot, tmp_path: Path) -> None:
    """It never writes back: the ctime follows no store through mapped memory but the first."""
    tree = tmp_path / "memory"
    tree.mkdir()
    run(["mount", "-t", "tmpfs", "none", tree])
    try:
        assert mounted_kind(tree) == "tmpfs" and stamps.identity(tree, "") == ""
        plain_tree(tree)
        first = carry(tree, depot)
        assert first.loaded.manifest.volumes[0].stamps is None
        assert carry(tree, depot, previous=first.loaded).result.unchanged == 0
    finally:
        run(["umount", tree])


@pytest.mark.usefixtures("settled")
def test_a_disk_that_takes_nothing_back_is_told_and_read_whole(
    depot: LocalDepot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "source"
    plain_tree(tree)
    first = carry(tree, depot)

    def fail(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(capture, "write_back", fail)
    said: list[str] = []
    result = capture.capture_image(
        source(tree), depot, lambda event: said.append(event.text), jobs=1, previous=first.loaded
    )
    assert result.unchanged == 0 and result.warnings == ()
    assert [text for text in said if text.startswith(f"{tree} cannot be written back (Input/output error)")]


def test_only_what_is_in_use_is_written_back(
    depot: LocalDepot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "source"
    plain_tree(tree)
    seen: list[Path] = []
    monkeypatch.setattr(capture, "write_back", seen.append)
    for read in (LIVE, SNAPSHOT, AT_REST):
        volume = replace(source(tree).volumes[0], read=read)
        capture.capture_image(replace(source(tree), volumes=(volume,)), depot, no_events, jobs=1)
    assert seen == [tree]


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("how", ["absent", "damaged"])
def test_without_stamps_everything_is_read(how: str, depot: LocalDepot, tmp_path: Path) -> None:
    tree = tmp_path / "source"
    plain_tree(tree)
    first = carry(tree, depot)
    kept = first.loaded.manifest.volumes[0].stamps
    assert kept is not None
    path = depot.root / listing_path(kept.sha256)
    if how == "absent":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[::-1])
    second = carry(tree, depot, previous=first.loaded)
    assert second.result.unchanged == 0
    assert restored(depot, second.loaded, tmp_path / "target") == described(tree)


@pytest.mark.parametrize("how", ["absent", "shorter"])
@pytest.mark.usefixtures("settled")
def test_what_lay_in_a_lost_pack_is_read_again(how: str, depot: LocalDepot, tmp_path: Path) -> None:
    tree = tmp_path / "source"
    plain_tree(tree)
    first = carry(tree, depot)
    (tree / "usr/second").write_bytes(random_bytes(5 << 20))
    second = carry(tree, depot, previous=first.loaded)
    for lost in first.loaded.manifest.packs:
        path = depot.root / pack_path(lost.sha256)
        if how == "absent":
            path.unlink()
        else:
            os.truncate(path, lost.size_bytes - 1)
    third = carry(tree, depot, previous=second.loaded)
    assert 0 < third.result.unchanged < second.result.unchanged
    assert third.result.stored_bytes > 3 << 20
    assert restored(depot, third.loaded, tmp_path / "target") == described(tree)


@pytest.mark.usefixtures("settled")
def test_what_could_not_be_read_is_read_again(
    depot: LocalDepot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Size and stamp are in the image all the same: by them alone the hole would be taken over, and listed no more."""
    tree = tmp_path / "source"
    plain_tree(tree)
    names = [b"usr/huge", b"usr/huge-\xff"]
    for name in names:
        Path(os.fsdecode(os.fsencode(tree) + b"/" + name)).write_bytes(random_bytes(PART_BYTES + 5000))
    real = uncached.read

    def read(descriptor: int, size: int, at: int) -> bytes | bytearray:
        if at >= PART_BYTES:
            raise OSError(errno.EIO, "Input/output error")
        return real(descriptor, size, at)

    with monkeypatch.context() as patch:
        patch.setattr(uncached, "read", read)
        first = carry(tree, depot)
    assert [each.path for each in first.loaded.manifest.unreadable] == ["/usr/huge", "/usr/huge-\ufffd"]
    assert described(tree) != restored(depot, first.loaded, tmp_path / "holes")
    second = carry(tree, depot, previous=first.loaded)
    assert second.loaded.manifest.unreadable == () and second.result.unchanged > 5
    assert restored(depot, second.loaded, tmp_path / "target") == described(tree)
    third = carry(tree, depot, previous=second.loaded)
    assert third.result.unchanged == second.result.unchanged + len(names)


@pytest.mark.usefixtures("settled")
def test_frames_whose_numbers_cannot_stay_get_others(depot: LocalDepot, tmp_path: Path) -> None:
    tree = tmp_path / "source"
    plain_tree(tree)
    (tree / "usr/huge").write_bytes(random_bytes(PART_BYTES + 5000))
    first = renumbered(depot, carry(tree, depot).loaded, 3_000_000)
    second = carry(tree, depot, previous=first)
    assert second.result.unchanged > 5 and second.result.stored_bytes == 0
    with open_listing(depot, second.loaded.manifest, second.loaded.manifest.volumes[0]) as listing:
        assert max(number for number, _ in listing.frames) < 1000
    assert restored(depot, second.loaded, tmp_path / "target") == described(tree)


def renumbered(depot: LocalDepot, loaded: LoadedImage, by: int) -> LoadedImage:
    """The same image with other numbers of its frames."""

    def stored(lines: list[object]) -> ObjectRef:
        data = zstandard.ZstdCompressor().compress(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        ref = ObjectRef(hashlib.sha256(data).hexdigest(), len(data))
        (depot.root / listing_path(ref.sha256)).write_bytes(data)
        return ref

    def lines_of(ref: ObjectRef) -> list[object]:
        packed = (depot.root / listing_path(ref.sha256)).read_bytes()
        plain = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True).readall()
        return [msgspec.json.decode(line) for line in plain.splitlines()]

    volume = loaded.manifest.volumes[0]
    lines = lines_of(volume.listing)
    for line in lines[1:]:
        if isinstance(line, list):
            line[0] += by
        elif isinstance(line, dict):
            for chunk in line.get("chunks", ()):
                chunk[2] += by
    listing = stored(lines)
    assert volume.stamps is not None
    head, *rest = lines_of(volume.stamps)
    assert isinstance(head, dict)
    marks = stored([{**head, "listing": listing.sha256}, *rest])
    changed = replace(volume, listing=listing, stamps=marks)
    return replace(loaded, manifest=replace(loaded.manifest, volumes=(changed,)))
