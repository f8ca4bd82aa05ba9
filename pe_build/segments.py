"""Segments: the pieces of the PE's initramfs, each a newc cpio archive that the kernel unpacks over the one before.

Pure: members in, bytes out. Every archive is reproducible (numbered inodes, one time stamp, owner root) and padded
to 4 bytes, because the kernel recognises an uncompressed archive only at such a boundary.

The config segment has a fixed size and begins with a member of a known name, so that a medium can be given another
configuration in place (customize.py): archive, then zeros, which the kernel skips.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import zstandard

from agent.errors import DamagedError, DoesNotFitError

CONFIG_SIZE_BYTES = 256 * 1024
CONFIG_MAGIC_PATH = "etc/regraft/.config-segment-v1"
CONFIG_FOLDER = "etc/regraft"
CONFIG_PATH = f"{CONFIG_FOLDER}/agent.toml"
END_PATH = ".pe-complete"
USRMERGED = ("bin", "sbin", "lib", "lib64")

ZSTD_LEVEL = 19  # 8 MiB window: --ultra levels would need 128 MiB of RAM in the kernel

_MAGIC = b"070701"
_HEADER_BYTES = 110
_TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Member:
    """One file, directory, link or device node of a segment. ``mode`` holds type and permissions."""

    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(path: str, mode: int = 0o755) -> Member:
    return Member(path, stat.S_IFDIR | mode)


def file(path: str, content: bytes, mode: int = 0o644) -> Member:
    return Member(path, stat.S_IFREG | mode, content)


def link(path: str, target: str) -> Member:
    return Member(path, stat.S_IFLNK | 0o777, target.encode())


def pack(members: Iterable[Member], time_s: int = 0) -> bytes:
    """The archive of the members in their order; directories above a member are added when none is named."""
    archive = bytearray()
    for number, member in enumerate(_with_parents(members), start=1):
        archive += _record(member, number, time_s)
    archive += _record(Member(_TRAILER, 0), 0, 0)
    return bytes(archive)


def unpack(archive: bytes) -> Iterator[Member]:
    """The members of one uncompressed archive; bytes behind its trailer are not looked at."""
    at = 0
    while True:
        header = archive[at : at + _HEADER_BYTES]
        if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
            raise DamagedError(f"no cpio header at byte {at}: found {header[:6]!r}, expected {_MAGIC!r}")
        fields = [int(header[place : place + 8], 16) for place in range(6, _HEADER_BYTES, 8)]
        name_at = at + _HEADER_BYTES
        name = archive[name_at : name_at + fields[11] - 1].decode()
        content_at = _aligned(name_at + fields[11])
        if name == _TRAILER:
            return
        yield Member(name, fields[1], archive[content_at : content_at + fields[6]], (fields[9], fields[10]))
        at = _aligned(content_at + fields[6])


def compressed(archive: bytes, level: int = ZSTD_LEVEL, threads: int = 2) -> bytes:
    """zstd, padded to 4 bytes: the next segment may be uncompressed."""
    frame = zstandard.ZstdCompressor(level=level, threads=threads, write_checksum=True).compress(archive)
    return frame + bytes(-len(frame) % 4)


def check_usrmerge(members: Iterable[Member]) -> None:
    """A real directory named like a usr-merge link would replace the link, and every program with it."""
    for member in members:
        top, _, rest = member.path.partition("/")
        if top in USRMERGED and (rest or not stat.S_ISLNK(member.mode)):
            raise DamagedError(f"segment member ‘{member.path}’ lies in /{top}, expected usr/{member.path}")


# --- the config segment ---------------------------------------------------------------------------------------------


def config_magic() -> bytes:
    """The first bytes of every config segment: the record of its marker file, which never changes."""
    return b"".join(_record(member, number, 0) for number, member in enumerate(_with_parents([_marker()]), start=1))


def config_segment(agent_toml: bytes, beside: Mapping[str, bytes] = MappingProxyType({})) -> bytes:
    """The segment that carries /etc/regraft/agent.toml and the files beside it, readable by root only: they may hold
    a token and keys. ``beside``: path below /etc/regraft → content."""
    named = [file(f"{CONFIG_FOLDER}/{name}", content, 0o600) for name, content in beside.items()]
    archive = pack([_marker(), file(CONFIG_PATH, agent_toml, 0o600), *named])
    if len(archive) > CONFIG_SIZE_BYTES:
        content_bytes = len(agent_toml) + sum(map(len, beside.values()))
        what = f"agent.toml and the {len(beside)} files that it names have" if beside else "agent.toml has"
        raise DoesNotFitError(
            f"{what} {content_bytes} bytes, the config segment holds {CONFIG_SIZE_BYTES} bytes"
            f" with {len(archive) - content_bytes} bytes of its own",
            "shorten the configuration, or its files",
        )
    return archive.ljust(CONFIG_SIZE_BYTES, b"\0")


def read_config_segment(segment: bytes) -> bytes:
    """agent.toml of a config segment."""
    for member in unpack(segment):
        if member.path == CONFIG_PATH:
            return member.content
    raise DamagedError(f"the config segment holds no ‘{CONFIG_PATH}’")


def end_segment(digests: str) -> bytes:
    """The last segment: without its file the initramfs is not complete, and the PE refuses to go on."""
    return pack([file(END_PATH, digests.encode())])


def _marker() -> Member:
    return file(CONFIG_MAGIC_PATH, b"regraft config segment, 256 KiB, rewritten in place\n")


# --- the newc format ------------------------------------------------------------------------------------------------


def _aligned(position: int) -> int:
    return position + -position % 4


def _record(member: Member, inode: int, time_s: int) -> bytes:
    name = member.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(member.mode) else 1
    major, minor = member.device
    fields = (inode, member.mode, 0, 0, links, time_s, len(member.content), 0, 0, major, minor, len(name), 0)
    record = bytearray(_MAGIC + b"".join(b"%08x" % field for field in fields) + name)
    record += bytes(-len(record) % 4)
    record += member.content
    record += bytes(-len(record) % 4)
    return bytes(record)


def _with_parents(members: Iterable[Member]) -> Iterator[Member]:
    seen: set[str] = set()
    for member in members:
        parts = member.path.split("/")
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            if parent not in seen:
                seen.add(parent)
                yield directory(parent)
        if member.path not in seen:
            seen.add(member.path)
            yield member
