"""What tells that a file is unchanged since the last image: its inode number and the time of its last change.

    head line      format, listing, file system
    one line an entry of the listing (those of type "more" left out): [inode, ctime in ns], or [] for: read it again

Whatever changes a file's content, attributes or flags changes its ctime, and no program can set that back. A ctime
that is not older than the capture's start says nothing: the file may change again within the same tick of the clock.
Stores through mapped memory (mmap(2)) change it at the first one to a page only, and again once the page was written
back, which is why a capture has that done after its start and before it looks at anything.
Format of record: docs/formats.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

import msgspec

from agent.depot.catalogue import LoadedImage
from agent.depot.store import Depot
from agent.errors import DamagedError
from agent.image.listing import line_blocks
from agent.image.mountinfo import mounted_kind
from agent.model.image import Volume
from agent.model.undecodable import UNDECODABLE

FORMAT = 1
# Coarse clocks of file systems lie behind by a tick, clocks of machines are set by fractions of a second.
MARGIN_NS = 2_000_000_000
# File systems whose inode numbers last, and whose ctime follows every change. tmpfs never writes back: there the ctime
# follows no store through mapped memory but the first.
KINDS = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs"})

Stamp = tuple[int, int]  # inode, ctime in ns
NONE: Stamp = (0, 0)


class StampsHead(msgspec.Struct, frozen=True, kw_only=True):
    """The first line."""

    format: int
    listing: str  # SHA-256
    filesystem: str  # as `identity` says


def stamp(found: os.stat_result, before_ns: int) -> Stamp:
    """What to remember of a file, nothing unless it last changed before that time."""
    return (found.st_ino, found.st_ctime_ns) if found.st_ctime_ns < before_ns else NONE


def encode(stamps: list[Stamp]) -> bytes:
    return b"".join(b"[%d,%d]\n" % each if each[1] else b"[]\n" for each in stamps)


def encode_head(listing: str, filesystem: str) -> bytes:
    return msgspec.json.encode(StampsHead(format=FORMAT, listing=listing, filesystem=filesystem)) + b"\n"


def identity(root: Path, uuid: str) -> str:
    """Which file system this is, and which directory of it; "" where stamps mean nothing."""
    if mounted_kind(root) not in KINDS:
        return ""
    return f"{uuid or '-'}/{os.statvfs(root).f_fsid:x}/{root.stat().st_ino}"


def read_stamps(depot: Depot, image: LoadedImage, volume: Volume, filesystem: str) -> Iterator[Stamp] | None:
    """The stamps of a volume, in the order of its listing; None where they are not there or of other files."""
    if volume.stamps is None or not filesystem:
        return None
    blocks = line_blocks(depot, volume.stamps)
    try:
        first = next(blocks)
        head = msgspec.json.decode(first[0], type=StampsHead)
    except (DamagedError, StopIteration, *UNDECODABLE):
        return None  # everything is read again, which is never wrong
    if (head.format, head.listing, head.filesystem) != (FORMAT, volume.listing.sha256, filesystem):
        return None
    return _stamps(chain([first[1:]], blocks))


def _stamps(blocks: Iterator[list[bytes]]) -> Iterator[Stamp]:
    """Up to the first line that is none: what is not known is read again."""
    decoder = msgspec.json.Decoder(tuple[int, ...])
    with suppress(DamagedError, *UNDECODABLE):
        for lines in blocks:
            for found in decoder.decode_lines(b"\n".join(lines)):
                yield (found[0], found[1]) if len(found) == 2 else NONE
