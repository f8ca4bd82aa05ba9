"""The lab's eyes: every kind of difference between two trees is seen, and only what is excused is not."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab.awkward import sparse_file
from tests.lab.inventory import Entry, Inventory, differences, dump, escaped, fstab_places, load, read_tree

FILE = Entry("file", 0o644, 0, 0, 1, size=4, sha256="aa", data_bytes=4)
DIRECTORY = Entry("directory", 0o755, 0, 0, 1)
SOURCE: Inventory = {"/": DIRECTORY, "/a": FILE, "/d": DIRECTORY, "/d/b": FILE}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "fifo"), ("mode", 0o600), ("owner", 1), ("group", 1), ("mtime_ns", 2), ("size", 5), ("sha256", "bb"),
        ("target", "x"), ("device", "1:3"), ("linked_with", "/a"), ("data_bytes", 8), ("flags", 16),
        ("xattrs", (("user.x", "00"),)),
    ],
)  # fmt: skip
def test_one_thing_that_differs_is_seen(field: str, value: object) -> None:
    restored = {**SOURCE, "/d/b": replace(FILE, **{field: value})}  # type: ignore[arg-type]
    assert [(one.path, one.what) for one in differences(SOURCE, restored)] == [("/d/b", field)]


def test_what_is_missing_and_what_is_too_much_is_seen() -> None:
    restored = {"/": DIRECTORY, "/a": FILE, "/d": DIRECTORY, "/new": FILE}
    assert [str(one) for one in differences(SOURCE, restored)] == [
        "/d/b: entry is absent, expected file",
        "/new: entry is file, expected absent",
    ]


def test_a_changed_path_excuses_itself_and_the_time_of_its_directory_only() -> None:
    restored = {**SOURCE, "/d/b": replace(FILE, sha256="bb"), "/d": replace(DIRECTORY, mtime_ns=9)}
    assert not differences(SOURCE, restored, changed=("/d/b",))
    restored["/d"] = replace(DIRECTORY, mtime_ns=9, mode=0o700)
    assert [one.what for one in differences(SOURCE, restored, changed=("/d/b",))] == ["mode"]


def test_a_directory_of_ignored_names_may_have_another_time() -> None:
    restored = {**SOURCE, "/d": replace(DIRECTORY, mtime_ns=9)}
    assert not differences(SOURCE, restored, ignored=lambda path: path.startswith("/d/"))
    assert differences(SOURCE, restored)


def test_more_holes_are_no_difference_but_fewer_are() -> None:
    assert not differences(SOURCE, {**SOURCE, "/a": replace(FILE, data_bytes=0)})
    assert differences(SOURCE, {**SOURCE, "/a": replace(FILE, data_bytes=4096)})


def test_an_inventory_is_read_back_as_it_was_written() -> None:
    odd = {"/\\xff\n": replace(FILE, xattrs=(("user.x", "00ff"),))}
    assert load(dump(odd)) == odd


def test_names_that_are_not_utf8() -> None:
    assert escaped(b"a\xff\n\xc3\xa9") == "a\\xff\né"


def test_fstab() -> None:
    assert fstab_places("# x\nUUID=1 / ext4\nUUID=2 /srv ext4\nUUID=3 none swap\n/dev/sr0 /media iso9660\n") == {
        ("1", ""): "", ("2", ""): "/srv",
    }  # fmt: skip
    assert fstab_places("UUID=1 / btrfs subvol=@,compress=zstd:1\nUUID=1 /home btrfs noatime,subvol=/@home\n") == {
        ("1", "@"): "", ("1", "@home"): "/home",
    }  # fmt: skip


TOUCHES: dict[str, Callable[[Path], object]] = {
    "sha256": lambda path: path.write_bytes(b"OTHER"),
    "mode": lambda path: path.chmod(0o4755),
    "mtime_ns": lambda path: os.utime(path, ns=(1, os.stat(path).st_mtime_ns + 1)),
    "linked_with": lambda path: os.link(path, path.with_name("z")),
}


@pytest.mark.parametrize("what", TOUCHES)
def test_a_tree_on_a_disk(what: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"other")
    (tmp_path / os.fsdecode(b"not-\xff")).symlink_to("x")
    before = read_tree(tmp_path)
    assert "/not-\\xff" in before
    moment = before["/file"].mtime_ns
    TOUCHES[what](tmp_path / "file")
    if what == "sha256":
        os.utime(tmp_path / "file", ns=(1, moment))
    found = {one.what for one in differences(before, read_tree(tmp_path)) if one.path == "/file"}
    assert found == {what}


def test_holes_are_seen(tmp_path: Path) -> None:
    sparse_file(tmp_path / "sparse", 1 << 20, {1 << 19: b"x"})
    entry = read_tree(tmp_path)["/sparse"]
    assert (entry.size, entry.data_bytes) == (1 << 20, 4096)
