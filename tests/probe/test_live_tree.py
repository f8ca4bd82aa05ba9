"""A directory as a tree: nothing outside of it can be seen through a link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.model.tree import read_text
from agent.probe.live_tree import LiveTree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").write_text("secret")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "usr/lib").mkdir(parents=True)
    (root / "usr/lib/os-release").write_text("ID=debian")
    for link, target in {
        "etc/os-release": "../usr/lib/os-release",
        "etc/absolute": "/usr/lib/os-release",
        "etc/escape": "../../outside",
        "etc/deep": "../../../../../../outside",
        "etc/loop": "loop",
        "etc/dangling": "/nowhere",
        "lib": "usr/lib",
        "outer": "/..",
    }.items():
        os.symlink(target, root / link)
    return root


@pytest.mark.parametrize("path", ["/etc/os-release", "/etc/absolute", "/lib/os-release", "/outer/etc/../etc/absolute"])
def test_links_are_followed_inside(root: Path, path: str) -> None:
    tree = LiveTree(root)
    assert tree.read_bytes(path) == b"ID=debian"
    assert tree.exists(path) and tree.is_file(path)


@pytest.mark.parametrize("path", ["/etc/escape", "/etc/deep", "/outer/outside", "/../outside"])
def test_links_do_not_lead_out(root: Path, path: str) -> None:
    tree = LiveTree(root)
    assert not tree.exists(path)
    with pytest.raises(FileNotFoundError):
        tree.read_bytes(path)


@pytest.mark.parametrize(
    "path", ["/etc/loop", "/etc/dangling", "/etc/none", "/etc/os-release/x", "/etc", "/" + "n" * 300, "/etc/\0"]
)
def test_what_is_no_file_is_not_found(root: Path, path: str) -> None:
    tree = LiveTree(root)
    assert not tree.is_file(path)
    with pytest.raises(FileNotFoundError):
        tree.read_bytes(path)
    assert read_text(tree, path) == ""


def test_folders_and_links(root: Path) -> None:
    tree = LiveTree(root)
    assert tree.list_dir("/lib") == ("os-release",)
    assert tree.list_dir("/etc/os-release") == () == tree.list_dir("/nowhere")
    assert tree.read_link("/etc/os-release") == "../usr/lib/os-release"
    assert tree.read_link("/lib/os-release") is None and tree.read_link("/") is None
    assert tree.host_path("/lib") == root / "usr/lib"


def test_names_that_are_not_utf8(root: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    (root / name).write_bytes(b"x")
    tree = LiveTree(root)
    assert name in tree.list_dir("/") and tree.read_bytes(f"/{name}") == b"x"


def test_sizes_are_those_of_regular_files_inside_the_tree(tmp_path: Path) -> None:
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "outside").write_bytes(b"more than is inside")
    (tmp_path / "root/outside").write_bytes(b"key")
    (tmp_path / "root/etc/link").symlink_to("../../outside")
    tree = LiveTree(tmp_path / "root")
    assert [tree.size(path) for path in ("/outside", "/etc/link", "/etc", "/absent")] == [3, 3, 0, 0]
