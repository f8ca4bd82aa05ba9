"""What changed between two images, path by path."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence

import pytest

from agent.errors import DamagedError
from agent.image import compare, listing
from agent.image.compare import file_changes
from agent.image.entry import PART_BYTES, Entry
from agent.model.image_changes import Counts, FileChange
from tests.image.made_image import Content, MemoryDepot, entry, folder, made_image, made_tree

Volumes = dict[str, Sequence[Entry]]


def changes(old: Volumes, new: Volumes, content: Content | None = None) -> dict[str, tuple[str, ...]]:
    """Path → operation and what differs."""
    return {change.path: (change.op, *change.differences) for change in all_changes(old, new, content)[0]}


def all_changes(old: Volumes, new: Volumes, content: Content | None = None) -> tuple[list[FileChange], Counts, Counts]:
    depot = MemoryDepot()
    before, after = made_image(depot, old, content), made_image(depot, new, content)
    with file_changes(depot, before, after) as found:
        assert list(found) == list(found)
        return list(found), found.configuration, found.files


def test_the_same_is_no_change() -> None:
    content = Content()
    entries = [content.file("a", b"a"), entry("b", "hardlink", target="a"), folder("d"), entry("d/x")]
    assert changes({"/": entries}, {"/": entries}, content) == {}
    moved = [content.file("a", b"a"), *entries[1:]]  # the same bytes in another frame
    assert changes({"/": entries}, {"/": moved}, content) == {}


def test_every_kind_of_change_has_its_name() -> None:
    content = Content()
    same = content.file("same", b"same")
    old = [
        content.file("content", b"one"), entry("device", "char", device=(1, 3)), entry("flags", flags=0x10),
        content.file("grown", b"1234"), entry("link", "link", target="a"), entry("mode", mode=0o644),
        entry("owner", uid=1), entry("removed"), same, entry("time", mtime=1), entry("type"),
        entry("xattr", xattrs={"user.a": ""}),
    ]  # fmt: skip
    new = [
        entry("added"), content.file("content", b"two"), entry("device", "char", device=(1, 5)), entry("flags"),
        content.file("grown", b"12345"), entry("link", "link", target="b"), entry("mode", mode=0o600),
        entry("owner", gid=1), same, entry("time", mtime=2), entry("type", "link", target="x", mode=0),
        entry("xattr", xattrs={"user.a": "AA=="}),
    ]  # fmt: skip
    assert changes({"/": old}, {"/": new}, content) == {
        "/added": ("added",), "/content": ("changed", "content"), "/device": ("changed", "device"),
        "/flags": ("changed", "flags"), "/grown": ("changed", "content"), "/link": ("changed", "target"),
        "/mode": ("changed", "mode"), "/owner": ("changed", "owner"), "/removed": ("removed",),
        "/time": ("changed", "time"), "/type": ("changed", "type"), "/xattr": ("changed", "attributes"),
    }  # fmt: skip
    found, _, counts = all_changes({"/": old}, {"/": new}, content)
    assert counts == Counts(added=1, removed=1, changed=10, content=5, metadata=4, time=1)
    grown = next(change for change in found if change.path == "/grown")
    assert (grown.old_size, grown.size) == (4, 5)


def test_a_directory_in_the_place_of_a_file_is_one_change() -> None:
    old = [entry("bin", "link", target="usr/bin"), entry("etc", "file"), entry("z"), folder("lib"), entry("lib/a")]
    new = [
        entry("lib", "link", target="usr/lib"),
        entry("z"),
        folder("bin"),
        entry("bin/sh"),
        folder("bin/sub"),
        folder("etc"),
    ]
    found, configuration, counts = all_changes({"/": old}, {"/": new})
    by_path = {change.path: change for change in found}
    assert len(by_path) == len(found)
    assert {path: (change.op, change.old_type, change.type) for path, change in by_path.items()} == {
        "/bin": ("changed", "link", "dir"), "/bin/sh": ("added", "", "file"), "/bin/sub": ("added", "", "dir"),
        "/etc": ("changed", "file", "dir"), "/lib": ("changed", "dir", "link"), "/lib/a": ("removed", "", "file"),
    }  # fmt: skip
    assert counts == Counts(added=2, removed=1, changed=3, content=3) and configuration == Counts()


def test_whole_directories_come_and_go() -> None:
    old = [folder("a"), entry("a/x"), folder("a/deep"), entry("a/deep/y"), folder("a-b"), entry("a-b/z")]
    new = [folder("a-b"), entry("a-b/z"), folder("b"), entry("b/x")]
    assert changes({"/": old}, {"/": new}) == {
        "/a": ("removed",), "/a/x": ("removed",), "/a/deep": ("removed",), "/a/deep/y": ("removed",),
        "/b": ("added",), "/b/x": ("added",),
    }  # fmt: skip


def test_names_are_compared_as_bytes() -> None:
    names = [b"a\x01", b"a\x7f", b"a\xff", "aé".encode()]
    old = [entry(name) for name in sorted(names)]
    found, _, _ = all_changes({"/": old}, {"/": old[1:3]})
    assert [change.op for change in found] == ["removed", "removed"]
    assert {change.raw for change in found} == {"", "L2H/"}


def test_hard_links_are_compared_by_what_they_are() -> None:
    content = Content()
    one, two = content.file("a", b"one"), content.file("a", b"two")
    linked = entry("b", "hardlink", target="a")
    assert changes({"/": [one, linked]}, {"/": [two, linked]}, content) == {
        "/a": ("changed", "content"), "/b": ("changed", "content"),
    }  # fmt: skip
    own = content.file("b", b"one")
    assert changes({"/": [one, linked]}, {"/": [one, own]}, content) == {"/b": ("changed", "hard-links")}
    assert changes({"/": [one, linked]}, {"/": [own]}, content) == {
        "/a": ("removed",), "/b": ("changed", "hard-links"),
    }  # fmt: skip


def test_large_files_are_compared_in_all_their_parts() -> None:
    content = Content()
    size = PART_BYTES + 1000
    head = content.sparse("large", size, {0: b"head"})
    parts = [content.more("large", PART_BYTES, {PART_BYTES + 7: tail}) for tail in (b"tail", b"tale", b"tail")]
    assert changes({"/": [head, parts[0]]}, {"/": [head, parts[1]]}, content) == {"/large": ("changed", "content")}
    assert changes({"/": [head, parts[0]]}, {"/": [head, parts[2]]}, content) == {}


def test_holes_and_written_zeros_are_the_same_content() -> None:
    content = Content()
    written = content.sparse("f", 3 << 20, {0: b"x" + bytes(99_999), 1 << 20: bytes(500_000), (3 << 20) - 5: b"tail\n"})
    holes = content.sparse("f", 3 << 20, {0: b"x", (3 << 20) - 5: b"tail\n"})
    other = content.sparse("f", 3 << 20, {0: b"x", 2_000_000: b"y", (3 << 20) - 5: b"tail\n"})
    assert changes({"/": [written]}, {"/": [holes]}, content) == {}
    assert changes({"/": [written]}, {"/": [other]}, content) == {"/f": ("changed", "content")}


def test_volumes_are_compared_where_they_are_mounted() -> None:
    content = Content()
    page = content.file("page", b"page")
    inside = content.file("srv/page", b"page")
    split: Volumes = {"/": [entry("a"), folder("srv"), entry("srv/shadow"), folder("z")], "/srv": [page, folder("sub")]}
    whole: Volumes = {"/": [entry("a"), folder("srv"), inside, folder("srv/sub"), folder("z")]}
    assert changes(split, whole, content) == {} == changes(whole, split, content)
    grown: Volumes = {"/srv": [page, entry("q"), folder("sub")], "/": split["/"]}
    assert changes(split, grown, content) == {"/srv/q": ("added",)}


def test_configuration_is_counted_on_its_own() -> None:
    old = [folder("etc"), entry("etc/fstab"), folder("etcetera"), entry("etcetera/x")]
    found, configuration, files = all_changes({"/": old}, {"/": old[:1]})
    assert configuration == Counts(removed=1) and files == Counts(removed=2)
    assert [change.path for change in found if change.is_configuration] == ["/etc/fstab"]


def test_a_listing_out_of_order_is_refused() -> None:
    with pytest.raises(DamagedError, match="‘a’: is out of order"):
        made_tree({"/": [entry("b"), entry("a")]}, as_given=True).exists("/a")
    with pytest.raises(DamagedError, match="does not come before it"):
        changes({"/": [entry("a", "hardlink", target="b"), entry("b")]}, {"/": []})


def test_memory_does_not_grow_with_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times the entries, all of them changed: about the same memory."""
    monkeypatch.setattr(compare, "SPOOL_BYTES", 1000)
    monkeypatch.setattr(listing, "BLOCK_BYTES", 16 << 10)  # small images shall not fit into one block
    monkeypatch.setattr(listing, "SPOOL_BYTES", 1000)

    def side(folders: int, mtime: int) -> Iterator[Entry]:
        for top in range(folders):
            yield folder(f"{top:04}")
            for below in range(20):
                yield folder(f"{top:04}/{below:02}")
                yield from (entry(f"{top:04}/{below:02}/{name}", mtime=mtime) for name in range(9))

    def peak(folders: int) -> int:
        depot = MemoryDepot()
        images = [made_image(depot, {"/": list(side(folders, mtime))}) for mtime in (1, 2)]
        tracemalloc.start()
        try:
            with file_changes(depot, *images) as found:
                assert found.files.changed == folders * 20 * 9
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(100) < peak(10) * 1.5
