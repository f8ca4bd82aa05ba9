"""The index of a whole image: everything a listing says, by path and by number, in little memory."""

from __future__ import annotations

import os
import stat
from pathlib import PurePosixPath
from typing import Any

import pytest

from agent.errors import DamagedError
from agent.image.entry import PART_BYTES, Entry
from agent.image.image_tree import load_index
from agent.image.tree_index import TreeIndex
from tests.image.made_image import Content, MemoryDepot, entry, folder, made_image, made_tree


def index_of(*entries: Entry, content: Content | None = None) -> TreeIndex:
    return made_tree({"/": entries}, content).index


def at(index: TreeIndex, path: bytes | str) -> int:
    node = index.resolve(os.fsencode(path))
    assert node is not None, path
    return node


def names(index: TreeIndex, path: str) -> list[bytes]:
    return [index.name(node) for node in index.children(at(index, path))]


def test_it_keeps_what_the_listing_says() -> None:
    facts: dict[str, Any] = {"mode": 0o6755, "uid": 4_000_000_000, "gid": 7, "mtime": 1_234_567_890_123_456_789}
    index = index_of(
        entry("disk", "block", device=(259, 70000)),
        entry("fifo", "fifo", mtime=-1),
        entry("file", size=5, xattrs={"user.empty": "", "user.note": "AP8="}, **facts),
        entry(b"odd\xff", "link", target="x", raw_target="dG8t/Q=="),
        folder("sub", mtime=5_000_000_000_000_000_000_007),
    )
    file = index.status(at(index, "/file"))
    assert (file.mode, file.uid, file.gid) == (stat.S_IFREG | 0o6755, 4_000_000_000, 7)
    assert (file.mtime_ns, file.size, file.links) == (1_234_567_890_123_456_789, 5, 1)
    assert index.attribute(at(index, "/file"), "user.note") == b"\0\xff"
    assert index.attribute(at(index, "/file"), "user.empty") == b""
    assert index.attribute(at(index, "/file"), "user.other") is None
    assert index.status(at(index, "/fifo")).mtime_ns == -1
    assert index.status(at(index, "/sub")).mtime_ns == 5_000_000_000_000_000_000_007
    assert index.status(at(index, "/disk")).size == os.makedev(259, 70000)
    link = index.resolve(b"/odd\xff", follow=False)
    assert link is not None and index.target(link) == b"to-\xfd" and index.path(link) == b"/odd\xff"


def test_directories_are_in_order_of_names_files_and_directories_together() -> None:
    index = index_of(
        entry("b"),
        entry("zz"),
        entry("é"),
        folder("a"),
        entry("a/2"),
        folder("a/1"),
        folder("c"),
        entry("c/x"),
        entry("A"),
    )
    assert names(index, "/") == [b"A", b"a", b"b", b"c", b"zz", "é".encode()]
    assert names(index, "/a") == [b"1", b"2"]
    assert [index.status(at(index, path)).links for path in ("/", "/a", "/c", "/b")] == [4, 3, 2, 1]
    for path in ("/", "/a", "/a/1", "/c/x", "/é"):
        assert index.path(at(index, path)) == path.encode()


def test_links_are_followed_inside_the_tree_only() -> None:
    index = index_of(
        entry("abs", "link", target="/etc/name"), entry("loop", "link", target="loop"),
        entry("out", "link", target="../../etc"),
        entry("up", "link", target="etc/../../../etc/./name"), folder("etc"), entry("etc/name"),
        entry("etc/self", "link", target="."), entry("etc/through", "link", target="name/x"),
    )  # fmt: skip
    name = at(index, "/etc/name")
    assert {
        at(index, path) for path in ("/abs", "/up", "/out/name", "/etc/self/self/name", "//etc/.//name", "..//etc/name")
    } == {name}
    assert index.resolve(b"/abs", follow=False) != name
    for path in (b"/loop", b"/loop/x", b"/etc/through", b"/nothing", b"/etc/name/x"):
        assert index.resolve(path) is None
    assert index.resolve(b"/loop", follow=False) is not None


def test_hard_links_are_one_file_of_several_names() -> None:
    content = Content()
    index = index_of(
        folder("a"), content.file("a/one", b"text", mode=0o640, uid=3), folder("b"),
        entry("b/three", "hardlink", target="a/one"), entry("b/two", "hardlink", target="b/three"), content=content,
    )  # fmt: skip
    nodes = [at(index, path) for path in ("/a/one", "/b/two", "/b/three")]
    assert len({index.file(node) for node in nodes}) == 1 and len(set(nodes)) == 3
    assert {index.status(node) for node in nodes} == {index.status(nodes[0])}
    assert index.status(nodes[1]).links == 3 and index.status(nodes[1]).uid == 3
    assert [index.name(node) for node in nodes] == [b"one", b"two", b"three"]
    assert all(list(index.runs(node)) == list(index.runs(nodes[0])) for node in nodes)


@pytest.mark.parametrize("target", ["nothing", "dir", "file/x", "self", "other"])
def test_hard_links_to_what_is_no_file_are_refused(target: str) -> None:
    entries = (
        entry("file"), entry("other", "hardlink", target="self"), entry("self", "hardlink", target=target),
        folder("dir"),
    )  # fmt: skip
    with pytest.raises(DamagedError, match="hard link"):
        index_of(*entries)


def test_content_lies_in_runs() -> None:
    content = Content()
    size = 2 * PART_BYTES + 5
    index = index_of(
        content.file("empty", b""),
        content.sparse("huge", size, {10: b"abc", PART_BYTES - 2: b"xy"}),
        content.more("huge", PART_BYTES, {PART_BYTES: b"z", 2 * PART_BYTES + 1: b"end."}),
        content.file("whole", b"12345"),
        content=content,
    )
    huge, whole = at(index, "/huge"), at(index, "/whole")
    runs = list(index.runs(huge))
    assert [(run.at, run.size) for run in runs] == [(10, 3), (PART_BYTES - 2, 2), (PART_BYTES, 1), (size - 4, 4)]
    assert list(index.runs(huge, 12)) == runs and list(index.runs(huge, 13)) == runs[1:]
    assert list(index.runs(huge, PART_BYTES)) == runs[2:] and not list(index.runs(huge, size))
    assert index.data_bytes(huge) == 10 and index.data_bytes(at(index, "/empty")) == 0
    assert [(run.at, run.size, run.frame) for run in index.runs(whole)] == [(0, 5, 4)]


def test_volumes_are_where_they_are_mounted() -> None:
    tree = made_tree(
        {
            "/srv/www": [entry("page")],
            "/": [
                entry("hidden", "link", target="srv"), folder("srv", mode=0o700), entry("srv/own"), folder("srv/www"),
                entry("srv/www/shadow"),
            ],
            "/boot/efi": [folder("EFI")],
            "/hidden/data": [entry("through-a-link")],
        }
    )  # fmt: skip
    index = tree.index
    assert names(index, "/") == [b"boot", b"hidden", b"srv"]
    assert names(index, "/srv") == [b"data", b"own", b"www"]
    assert names(index, "/srv/www") == [b"page"] and index.resolve(b"/srv/www/shadow") is None
    assert names(index, "/hidden/data") == [b"through-a-link"] == names(index, "/srv/data")
    for path in ("/boot/efi/EFI", "/srv/www/page", "/srv/www", "/srv/data/through-a-link"):
        assert index.path(at(index, path)) == path.encode()
    assert at(index, "/srv/www/../../boot/efi/..") == at(index, "/boot")
    assert index.status(at(index, "/boot")).mode == stat.S_IFDIR | 0o755
    assert {index.roots[index.volume_of(at(index, path))].mountpoint for path in ("/srv/www/page", "/srv/own")} == {
        b"srv/www",
        b"",
    }


def test_an_image_without_a_root_has_one_all_the_same() -> None:
    index = made_tree({"/data/a": [entry("x")]}).index
    assert names(index, "/") == [b"data"] and names(index, "/data/a") == [b"x"]


@pytest.mark.parametrize("places", [("/", ""), ("/", "/srv", "/srv/"), ("/", "/file/x")])
def test_volumes_that_have_no_place_of_their_own_are_refused(places: tuple[str, ...]) -> None:
    with pytest.raises(DamagedError, match="no place of its own"):
        _ = made_tree({place: [entry("file")] for place in places}).index


def test_volumes_of_blocks_are_not_read() -> None:
    depot = MemoryDepot()
    loaded = made_image(depot, {"/": [entry("x")], "/win": [entry("y")]}, kinds={"/win": "blocks"})
    assert load_index(depot, loaded).resolve(b"/win") is None


def test_a_name_that_the_format_cannot_carry_is_refused() -> None:
    with pytest.raises(DamagedError, match="far"):
        index_of(entry("far", mtime=10**30))


def test_it_takes_less_than_a_hundred_bytes_an_entry() -> None:
    content = Content()
    entries: list[Entry] = []
    for number in range(200):
        entries.append(folder(f"directory-{number:03}"))
        for other in range(50):
            each = (
                content.file(f"directory-{number:03}/some-file-name-{other:04}.txt", b"x")
                if other == 0
                else entries[-1]
            )
            path = f"directory-{number:03}/some-file-name-{other:04}.txt"
            label = {"security.selinux": "c3lzdGVtX3U6b2JqZWN0X3I6ZXRjX3Q6czA="}
            entries.append(entry(path, size=1, chunks=each.chunks, mtime=other * 10**9, xattrs=label))
    index = index_of(*entries, content=content)
    assert len(index) == 200 * 51 + 1
    assert index.bytes_held / len(index) < 100
    assert PurePosixPath(os.fsdecode(index.path(len(index) - 1))) == PurePosixPath(
        "/directory-199/some-file-name-0049.txt"
    )
