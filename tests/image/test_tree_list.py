"""Which entries ls shows, and what it says of them."""

from __future__ import annotations

import os

import pytest

from agent.errors import NoImageError, UsageError
from agent.image.image_tree import ImageTree
from agent.image.tree_list import contents, entry_at, find_file, names_of_ids, with_all_below
from tests.image.made_image import Content, entry, folder, made_tree


@pytest.fixture
def tree() -> ImageTree:
    content = Content()
    return made_tree(
        {
            "/": [
                entry("bin", "link", target="usr/bin"), folder("etc"),
                content.file("etc/passwd", b"root:x:0:0::/:\nann:x:1000:1000\nodd\nroot2:x:0:0\nbad:x:-1:\n"),
                folder("srv"), folder("usr"), folder("usr/bin"), entry("usr/bin/sh", xattrs={"user.a": "AA=="}, size=0),
                entry("usr/bin/null", "char", device=(1, 3)), entry("usr/bin/x", "hardlink", target="usr/bin/sh"),
            ],
            "/srv": [entry(b"odd\xff")],
        },
        content,
    )  # fmt: skip


def paths(tree: ImageTree, *asked: str) -> list[bytes]:
    return [path for path, _ in contents(tree, asked)]


def test_directories_show_what_is_in_them_and_links_themselves(tree: ImageTree) -> None:
    assert paths(tree, "/") == paths(tree, ".") == [b"/bin", b"/etc", b"/srv", b"/usr"]
    assert paths(tree, "etc/") == paths(tree, "/etc") == [b"/etc/passwd"]
    assert paths(tree, "/bin") == [b"/bin"]
    assert paths(tree, "/bin/") == [b"/usr/bin/null", b"/usr/bin/sh", b"/usr/bin/x"]
    assert paths(tree, "/srv", "/bin/sh") == [b"/srv/odd\xff", b"/usr/bin/sh"]
    with pytest.raises(NoImageError, match="web-1@20261123T204140Z has no /etc/none"):
        paths(tree, "/etc", "/etc/none")


def test_all_below_comes_behind_its_directory(tree: ImageTree) -> None:
    found = [path for path, _ in with_all_below(tree.index, contents(tree, ["/"]))]
    assert found == [
        b"/bin", b"/etc", b"/etc/passwd", b"/srv", b"/srv/odd\xff", b"/usr", b"/usr/bin", b"/usr/bin/null",
        b"/usr/bin/sh", b"/usr/bin/x",
    ]  # fmt: skip


def test_entries_are_in_the_words_of_a_listing(tree: ImageTree) -> None:
    by_path = {
        path: entry_at(tree.index, path, node) for path, node in with_all_below(tree.index, contents(tree, ["/"]))
    }
    assert by_path[b"/bin"].target == "usr/bin" and by_path[b"/usr/bin/null"].device == (1, 3)
    assert by_path[b"/srv/odd\xff"].name == b"/srv/odd\xff" and by_path[b"/srv/odd\xff"].path == "/srv/odd\ufffd"
    assert by_path[b"/usr/bin/x"].type == "file" and by_path[b"/usr/bin/x"].xattrs == {"user.a": "AA=="}


def test_only_files_have_bytes(tree: ImageTree) -> None:
    assert tree.index.path(find_file(tree, "/bin/../../bin/sh")) == b"/usr/bin/sh"
    for path, kind in (("/bin/null", "char"), ("/etc", "dir")):
        with pytest.raises(UsageError, match=f"{path} of .* is a {kind}, expected a file"):
            find_file(tree, path)
    with pytest.raises(NoImageError):
        find_file(tree, os.devnull)


def test_owners_have_the_names_that_the_system_gives_them(tree: ImageTree) -> None:
    assert names_of_ids(tree, "/etc/passwd") == {0: "root", 1000: "ann"}
    assert names_of_ids(tree, "/etc/group") == {}
