"""What is in an image's tree, path by path, as entries."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

from agent.errors import NoImageError, UsageError
from agent.image.entry import Entry, text_and_raw
from agent.image.image_tree import ImageTree
from agent.image.metadata import TYPE_OF
from agent.image.tree_index import TreeIndex
from agent.model.tree import Tree, read_text

Listed = tuple[bytes, int]  # path from the system's root, node


def find(tree: ImageTree, path: str, follow: bool = True) -> int:
    """The node at a path of the system. Raises NoImageError when there is none."""
    node = tree.index.resolve(os.fsencode(path), follow)
    if node is None:
        raise NoImageError(f"image {tree.loaded.manifest.ref} has no {path}", "paths begin at the system’s root")
    return node


def find_file(tree: ImageTree, path: str) -> int:
    """The node of a regular file, links followed. Raises NoImageError, and UsageError where something else is."""
    node = find(tree, path)
    kind = TYPE_OF[tree.index.status(node).kind]
    if kind != TYPE_OF[stat.S_IFREG]:
        raise UsageError(f"{path} of {tree.loaded.manifest.ref} is a {kind}, expected a file", "look with ‘regraft ls’")
    return node


def contents(tree: ImageTree, paths: Sequence[str]) -> list[Listed]:
    """What is at the paths, and in them where they are directories; a link at the end counts as itself, as ls has it.

    Raises NoImageError before anything is said.
    """
    found: list[Listed] = []
    for path in paths:
        node = find(tree, path, follow=path.endswith("/"))
        where = tree.index.path(node)
        if tree.index.status(node).kind == stat.S_IFDIR:
            found += children(tree.index, where, node)
        else:
            found.append((where, node))
    return found


def children(index: TreeIndex, path: bytes, node: int) -> list[Listed]:
    """What is in a directory, by name."""
    return [(path.rstrip(b"/") + b"/" + index.name(each), each) for each in index.children(node)]


def with_all_below(index: TreeIndex, start: Sequence[Listed]) -> Iterator[Listed]:
    """These, each directory followed by all that is in it."""
    pending = list(reversed(start))
    while pending:
        path, node = pending.pop()
        yield path, node
        pending += reversed(children(index, path, node))


def entry_at(index: TreeIndex, path: bytes, node: int) -> Entry:
    """A node in the words of a listing; of another name of a file what the file is."""
    status = index.status(node)
    text, raw = text_and_raw(path)
    entry = Entry(
        path=text, raw=raw, type=TYPE_OF[status.kind], mode=stat.S_IMODE(status.mode), uid=status.uid, gid=status.gid,
        mtime=status.mtime_ns, xattrs=index.attributes(node) or None,
    )  # fmt: skip
    if status.kind == stat.S_IFLNK:
        entry.target, entry.raw_target = text_and_raw(index.target(node))
    elif status.kind in (stat.S_IFCHR, stat.S_IFBLK):
        entry.device = (os.major(status.size), os.minor(status.size))
    elif status.kind == stat.S_IFREG:
        entry.size = status.size
    return entry


def names_of_ids(tree: Tree, path: str) -> dict[int, str]:
    """Names of users or groups by their number, as the system itself has them in /etc/passwd or /etc/group."""
    found: dict[int, str] = {}
    for line in read_text(tree, path).splitlines():
        words = line.split(":")
        if len(words) > 2 and words[2].isdecimal():
            found.setdefault(int(words[2]), words[0])
    return found
