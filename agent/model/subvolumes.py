"""Which subvolumes of a btrfs travel, where each belongs in the system, and which stay behind. Pure.

    seen on the file system ─► mounted by the system            a volume each
                            ─► inside of a mounted one          a volume each, unless read-only or a snapshot's
                            ─► everything else                  left out, and said so

Paths of subvolumes begin with a slash and are those from the top of their file system.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.model.image import Excluded, Subvolume

TOP = "/"
# snapper's (openSUSE, SLES): its files beside a snapshot, info.xml, mean nothing without it.
_SNAPPER = re.compile(r"(?P<numbered>(?:/.*)?/\.snapshots/\d+)/snapshot")
_COMPRESSION = re.compile(r"compress(?:-force)?(?:=(?:zlib|lzo|zstd|no|none)(?::-?\d{1,2})?)?")


@dataclass(frozen=True, slots=True)
class Seen:
    """A subvolume as the file system tells of it."""

    path: str  # from the top, ``/@home``; ``/``: the top itself
    read_only: bool = False
    default: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What a system on a btrfs is made of."""

    places: Mapping[str, str]  # subvolume → mount point, or the path where it is seen inside of a mounted one
    left_out: tuple[Excluded, ...]  # with a path of the system where it has one
    globs: tuple[Excluded, ...]  # what of the captured trees stays behind with them, as patterns of system paths


def found_subvolumes(seen: Iterable[Seen], mounted: Mapping[str, str], device: str) -> Found:
    """Sort the subvolumes of ``device`` (``vda2``); ``mounted`` by the system: subvolume → mount point."""
    places = dict(mounted)
    left_out: list[Excluded] = []
    globs: list[Excluded] = []
    for each in sorted(seen, key=lambda one: one.path):
        if each.path in mounted or each.path == TOP:
            continue
        where = _seen_at(each.path, mounted)
        reason = _why_not(each, where)
        if not reason:
            places[each.path] = where
            continue
        left_out.append(Excluded(where or f"{device}:{each.path}", reason))
        if where:
            numbered = _SNAPPER.fullmatch(where)
            globs.append(Excluded(_plain(numbered["numbered"] if numbered else where), reason))
    return Found(places, tuple(left_out), tuple(globs))


def _plain(path: str) -> str:
    """A path as a pattern that fits it alone."""
    return re.sub(r"([*?[])", r"[\1]", path)


def _seen_at(path: str, mounted: Mapping[str, str]) -> str:
    """Where the system sees a subvolume inside of one that it mounts; "" where it does not."""
    around = [outer for outer in mounted if _is_below(path, outer)]
    if not around:
        return ""
    outer = max(around, key=len)
    where = mounted[outer].rstrip("/") + "/" + path.removeprefix(outer).lstrip("/")
    hidden = any(place != mounted[outer] and _is_below(where, place) for place in mounted.values()
                 if _is_below(place, mounted[outer]))  # fmt: skip
    return "" if hidden or where in mounted.values() else where


def _why_not(each: Seen, where: str) -> str:
    if not where:
        return "a subvolume that the system does not mount"
    if not is_subvolume_path(each.path):
        return "a subvolume whose name no mount option can hold"
    if _SNAPPER.fullmatch(each.path):
        return "a snapshot"
    return "a read-only subvolume, as snapshots are" if each.read_only else ""


def made_for(path: str, seen: Iterable[Seen], places: Iterable[str]) -> tuple[Subvolume, ...]:
    """What a restore makes for the volume in subvolume ``path``: it, and those around it that no volume is in."""
    own = set(places)
    wanted = (each for each in seen if each.path == path or (_is_below(path, each.path) and each.path not in own))
    return tuple(Subvolume(each.path, each.default) for each in sorted(wanted, key=lambda one: one.path)
                 if each.path != TOP)  # fmt: skip


def union(lists: Iterable[Iterable[Subvolume]]) -> tuple[Subvolume, ...]:
    """All subvolumes of one file system, those around others first."""
    found: dict[str, Subvolume] = {}
    for each in lists:
        for one in each:
            found[one.path] = Subvolume(one.path, one.default or (one.path in found and found[one.path].default))
    return tuple(found[path] for path in sorted(found, key=lambda path: (path.count("/"), path)))


def subvolume_option(options: str) -> str:
    """The subvolume that mount options name, ``/@home``; "" when they leave it to the file system."""
    words = [word.partition("=")[2] for word in options.split(",") if word.startswith("subvol=")]
    return "/" + words[-1].strip("/") if words else ""


def compression_option(options: str) -> str:
    """The compression that mount options ask for, and nothing else of them."""
    return next((word for word in reversed(options.split(",")) if _COMPRESSION.fullmatch(word)), "")


def is_subvolume_path(path: str) -> bool:
    """Whether it may become directories below a mounted file system, and a word of mount options."""
    parts = path.split("/")[1:] if path != TOP else []
    words = path.startswith("/") and "," not in path and path.isprintable()
    return words and not {"", ".", ".."} & set(parts)


def is_own_root(seen: Seen, root_options: str) -> bool:
    """Whether a subvolume that holds a system is one, and no copy of one: a copy's fstab, of which ``root_options`` are
    the options of ``/``, names the subvolume that it is a copy of."""
    named = subvolume_option(root_options)
    return seen.path == named or (seen.default and not named)


def _is_below(path: str, outer: str) -> bool:
    return path != outer and path.startswith(outer.rstrip("/") + "/")
