"""regraft ls, regraft cat: look into an image."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable

import click
import msgspec

from agent.commands.options import (
    Access,
    depot_options,
    json_option,
    parse_image,
    print_json_list,
    reader_may_leave,
)
from agent.console.tree_text import ls_line, owner_text
from agent.depot.catalogue import find_image
from agent.errors import DamagedError
from agent.image.frame_cache import FrameCache
from agent.image.image_tree import ImageTree
from agent.image.tree_list import Listed, contents, entry_at, find_file, names_of_ids, with_all_below


class ListedEntry(msgspec.Struct, omit_defaults=True, kw_only=True):
    """An entry as ``ls --json`` prints it, in the words of a listing (docs/formats.md)."""

    path: str  # from the system's root
    type: str
    mode: int
    uid: int
    gid: int
    links: int
    size: int
    mtime: int
    user: str = ""
    group: str = ""
    target: str = ""
    device: tuple[int, int] | None = None
    xattrs: dict[str, str] | None = None
    raw: str = ""
    raw_target: str = ""


@click.command()
@click.argument("image")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("-R", "--recursive", is_flag=True, help="All that is below, too.")
@click.option("-n", "--numeric", is_flag=True, help="Owners as numbers; otherwise by the image's own /etc/passwd.")
@depot_options
@json_option
def ls(image: str, paths: tuple[str, ...], recursive: bool, numeric: bool, location: str, token: str,
       trust: tuple[str, ...], as_json: bool) -> None:  # fmt: skip
    """List files of an image, as ls -l has them: times are UTC. Without PATH: what is in the root directory."""
    tree = open_tree(image, Access(location, token, trust))
    found: Iterable[Listed] = contents(tree, paths or ("/",))
    if recursive:
        found = with_all_below(tree.index, list(found))
    users, groups = ({}, {}) if numeric else owners(tree)
    with reader_may_leave():
        if as_json:
            print_json_list(listed(tree, *each, users, groups) for each in found)
            return
        for path, node in found:
            sys.stdout.write(line(tree, path, node, users, groups) + "\n")


@click.command()
@click.argument("image")
@click.argument("path")
@depot_options
def cat(image: str, path: str, location: str, token: str, trust: tuple[str, ...]) -> None:
    """Print the bytes of a file of an image. Links are followed inside the image, never outside."""
    tree = open_tree(image, Access(location, token, trust))
    node = find_file(tree, path)
    with reader_may_leave():
        for block in tree.content.blocks(node):
            sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()


def open_tree(image: str, access: Access) -> ImageTree:
    depot = access.open()
    return ImageTree(depot, find_image(depot, access.keys(depot), parse_image(image)), FrameCache)


def owners(tree: ImageTree) -> tuple[dict[int, str], dict[int, str]]:
    """Names of users and groups; none when the packs that hold them are damaged: a listing needs no packs."""
    try:
        return names_of_ids(tree, "/etc/passwd"), names_of_ids(tree, "/etc/group")
    except DamagedError:
        return {}, {}


def line(tree: ImageTree, path: bytes, node: int, users: dict[int, str], groups: dict[int, str]) -> str:
    status = tree.index.status(node)
    size, target = f"{status.size:,}", None
    if status.kind in (stat.S_IFCHR, stat.S_IFBLK):
        size = f"{os.major(status.size)}, {os.minor(status.size)}"
    elif status.kind == stat.S_IFDIR:
        size = "-"
    elif status.kind == stat.S_IFLNK:
        target = tree.index.target(node)
    return ls_line(
        status.mode, status.links, owner_text(status.uid, users), owner_text(status.gid, groups), size,
        status.mtime_ns, path, target,
    )  # fmt: skip


def listed(tree: ImageTree, path: bytes, node: int, users: dict[int, str], groups: dict[int, str]) -> ListedEntry:
    entry = entry_at(tree.index, path, node)
    links, user, group = tree.index.status(node).links, users.get(entry.uid, ""), groups.get(entry.gid, "")
    return ListedEntry(
        path=entry.path, type=entry.type, mode=entry.mode, uid=entry.uid, gid=entry.gid, links=links, size=entry.size,
        mtime=entry.mtime, user=user, group=group, target=entry.target, device=entry.device, xattrs=entry.xattrs,
        raw=entry.raw, raw_target=entry.raw_target,
    )  # fmt: skip
