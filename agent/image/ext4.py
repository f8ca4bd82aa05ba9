"""What the bytes of an ext4 say: superblock, group descriptors, inodes, extents, directories, attributes.

Values and parsing alone, nothing is read here. Source of all offsets: the kernel's documentation of the disk layout,
https://docs.kernel.org/filesystems/ext4/ (super.html, group_descr.html, inodes.html, ifork.html, directory.html,
attributes.html). Whatever is not exactly as known there is a StrangeError, never a guess.
"""

from __future__ import annotations

import base64
import struct
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from struct import Struct

SUPERBLOCK_AT, SUPERBLOCK_BYTES = 1024, 1024
ROOT_INODE = 2

# s_feature_incompat, those that change nothing of what is read here, or that are heeded.
FILETYPE, RECOVER, EXTENTS, WIDE, FLEX_BG, CSUM_SEED, LARGEDIR, INLINE_DATA = (
    0x2, 0x4, 0x40, 0x80, 0x200, 0x2000, 0x4000, 0x8000,
)  # fmt: skip
_INCOMPAT = FILETYPE | RECOVER | EXTENTS | WIDE | FLEX_BG | CSUM_SEED | LARGEDIR | INLINE_DATA
# s_feature_ro_compat: sparse_super, large_file, btree_dir, huge_file, gdt_csum, dir_nlink, extra_isize, quota,
# metadata_csum, read-only, project, verity, orphan_present.
GDT_CSUM, METADATA_CSUM = 0x10, 0x400
_RO_COMPAT = 0x1 | 0x2 | 0x4 | 0x8 | GDT_CSUM | 0x20 | 0x40 | 0x100 | METADATA_CSUM | 0x1000 | 0x2000 | 0x18000

# i_flags
EXTENTS_FLAG, EA_INODE_FLAG, INLINE_FLAG = 0x80000, 0x200000, 0x10000000
_ENCRYPTED, _CASEFOLD = 0x800, 0x40000000

SMALL_INODE = 128
LARGEST_BLOCK = 32 << 10  # above, lengths in directories are written another way
LARGEST_DIRECTORY_BLOCKS = 16 << 10
MAX_DEPTH = 5
_NAMES = Struct("<IHBB")  # inode, length of the record, length of the name, type
_NAMES_OLD = Struct("<IHH")
_EXTENT_HEADER, _EXTENT, _INDEX = Struct("<HHHH4x"), Struct("<IHHI"), Struct("<IIHH")
_EXTENT_MAGIC = 0xF30A
_EXTENT_MAGIC_BYTES = b"\x0a\xf3"
_INIT_MAX = 32768  # a longer extent has no content yet
_POINTERS = Struct("<15I")
# Where the table of inodes is, flags, how much of it was never used; of larger ones the high bits of both.
_DESCRIPTOR, _DESCRIPTOR_OLD = Struct("<8xI6xH8xH10xI6xH12x"), Struct("<8xI6xH8xH2x")
_INODE_UNINIT = 1

# mode, uid, size, mtime, gid, links, blocks, flags, file_acl, size_high, blocks_high, file_acl_high, uid_high,
# gid_high, extra_isize, mtime_extra
_LARGE = Struct("<HHI8xi4xHHII4x60x4xII4xHHHH4xH2x4xI")
_SMALL = Struct("<HHI8xi4xHHII4x60x4xII4xHHHH4x")
FIELDS_BYTES = _LARGE.size
USUAL_EXTRA = 32
_MTIME_EXTRA_ENDS = 12  # bytes of i_extra_isize that it needs
BLOCK_AT, BLOCK_BYTES = 0x28, 60  # i_block: extents, or the text of a link

_XATTR_MAGIC = 0xEA020000
_XATTR = Struct("<BBHIII")  # length of the name, its prefix, where the value is, its inode, its size, hash
_XATTR_HEADER = 32  # of a block
_PREFIXES = {1: b"user.", 4: b"trusted.", 6: b"security."}  # others have another form outside

Fields = tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int]


class StrangeError(Exception):
    """Something that this reader does not know, or that cannot be: the kernel is asked instead."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Of a file system, what leads to its inodes. Sizes in bytes, blocks and inodes counted."""

    block_bytes: int
    blocks: int
    inode_bytes: int
    inodes: int
    inodes_per_group: int
    first_inode: int  # lower ones are the file system's own
    groups: int
    descriptors_at: int
    descriptor_bytes: int
    unused_is_told: bool  # whether a descriptor says how much of its table was never used
    names_have_types: bool
    uuid: bytes

    @property
    def fsid(self) -> int:
        """f_fsid of statfs(2): the halves of the UUID folded (uuid_to_fsid, linux/statfs.h)."""
        return int.from_bytes(self.uuid[:8], "little") ^ int.from_bytes(self.uuid[8:], "little")


def read_layout(superblock: bytes) -> Layout:
    """From the 1,024 bytes at offset 1,024."""
    if len(superblock) != SUPERBLOCK_BYTES or superblock[0x38:0x3A] != b"\x53\xef":
        raise StrangeError("no ext4")

    def number(at: int, size: int = 4) -> int:
        return int.from_bytes(superblock[at : at + size], "little")

    incompat, ro_compat = number(0x60), number(0x64)
    if incompat & ~_INCOMPAT or ro_compat & ~_RO_COMPAT:
        raise StrangeError(f"features {incompat & ~_INCOMPAT:#x}, {ro_compat & ~_RO_COMPAT:#x}")
    block_bytes = 1024 << min(number(0x18), 10)
    inode_bytes = number(0x58, 2) if number(0x4C) else 0
    descriptor_bytes = number(0xFE, 2) if incompat & WIDE else 32
    blocks = number(0x4) | (number(0x150) << 32 if incompat & WIDE else 0)
    first, per_group, inodes, each = number(0x14), number(0x20), number(0x0), number(0x28)
    sound = (
        block_bytes <= LARGEST_BLOCK
        and SMALL_INODE <= inode_bytes <= block_bytes
        and not inode_bytes & (inode_bytes - 1)
        and descriptor_bytes in (32, 64)
        and 0 < each <= 8 * block_bytes
        and first < blocks
        and per_group
        and not number(0x48)  # s_creator_os: Linux
    )
    groups = -(-(blocks - first) // per_group) if sound else 0
    if not sound or inodes != groups * each:
        raise StrangeError("a superblock that cannot be")
    return Layout(
        block_bytes, blocks, inode_bytes, inodes, each, number(0x54), groups, (first + 1) * block_bytes,
        descriptor_bytes, bool(ro_compat & (GDT_CSUM | METADATA_CSUM)), bool(incompat & FILETYPE),
        superblock[0x68:0x78],
    )  # fmt: skip


def inode_tables(layout: Layout, descriptors: bytes) -> tuple[array[int], array[int]]:
    """Of every group, the byte of the device at which its inodes begin, and how many of them were ever used."""
    begins, used = array("Q"), array("L")
    size = layout.groups * layout.descriptor_bytes
    form = _DESCRIPTOR if layout.descriptor_bytes > _DESCRIPTOR_OLD.size else _DESCRIPTOR_OLD
    for low, flags, unused_low, *high in form.iter_unpack(descriptors[:size]):
        table_high, unused_high = high or (0, 0)
        table, unused = low | table_high << 32, unused_low | unused_high << 16
        if not 0 < table < layout.blocks or unused > layout.inodes_per_group:
            raise StrangeError("a group descriptor that cannot be")
        never = flags & _INODE_UNINIT and layout.unused_is_told
        begins.append(table * layout.block_bytes)
        used.append(0 if never else layout.inodes_per_group - (unused if layout.unused_is_told else 0))
    if len(begins) != layout.groups:
        raise StrangeError("a device that ends in its group descriptors")
    return begins, used


# Fields of an inode of more than 128 bytes, at a place of a table.
large_fields: Callable[[bytes, int], Fields] = _LARGE.unpack_from


def small_fields(table: bytes, at: int) -> Fields:
    """Of an inode of 128 bytes: whole seconds only."""
    return (*_SMALL.unpack_from(table, at), USUAL_EXTRA, 0)


def is_known_extra(extra_bytes: int, inode_bytes: int) -> bool:
    """Whether an inode's additional fields go as far as its time's nanoseconds, and lie in it."""
    return _MTIME_EXTRA_ENDS <= extra_bytes <= max(inode_bytes - SMALL_INODE, USUAL_EXTRA) and not extra_bytes & 3


def mtime_ns(fields: Fields) -> int:
    """Nanoseconds since 1970: 34 bits of seconds, of which the lower 32 have a sign (inodes.html, "Timestamps")."""
    return (fields[3] + ((fields[15] & 3) << 32)) * 1_000_000_000 + (fields[15] >> 2)


def owner(fields: Fields) -> tuple[int, int]:
    """User and group."""
    return fields[1] | fields[12] << 16, fields[4] | fields[13] << 16


def link_text(inode: bytes, fields: Fields) -> bytes:
    """Where a symbolic link leads; StrangeError where its text is not in the inode."""
    size, blocks, flags = fields[2] | fields[9] << 32, fields[6] | fields[10] << 32, fields[7]
    text = inode[BLOCK_AT : BLOCK_AT + min(size, BLOCK_BYTES)]
    if not 0 < size < BLOCK_BYTES or blocks or flags & (EXTENTS_FLAG | INLINE_FLAG | _ENCRYPTED) or b"\0" in text:
        raise StrangeError("a link whose text lies elsewhere")
    return text


# --- directories ------------------------------------------------------------------------------------------------------


def names_in(block: bytes, names: dict[bytes, int], have_types: bool) -> None:
    """Add what a block of a directory lists; of htree directories, too: their index looks like empty records."""
    end, at = len(block), 0
    unpack = _NAMES.unpack_from if have_types else _with_no_type
    missing = len(names)
    try:
        while at < end:
            inode, record, length, _ = unpack(block, at)
            if record & 3 or record < length + _NAMES.size:
                raise StrangeError("a record of a directory that cannot be")
            if inode:
                names[block[at + 8 : at + 8 + length]] = inode
                missing += 1
            at += record
    except struct.error as error:
        raise StrangeError("a directory that cannot be") from error
    if at != end or len(names) != missing:
        raise StrangeError("a directory that cannot be")


def _with_no_type(block: bytes, at: int) -> tuple[int, int, int, int]:
    return (*_NAMES_OLD.unpack_from(block, at), 0)


def check_names(names: dict[bytes, int]) -> None:
    """Nothing in a directory that is no name; ``.`` and ``..`` are taken out."""
    if names.pop(b".", 0) == 0 or names.pop(b"..", 0) == 0 or b"" in names:
        raise StrangeError("a directory without itself")
    together = b"\n".join(names)
    if b"/" in together or b"\0" in together:
        raise StrangeError("a name that cannot be")


def is_plain(flags: int) -> bool:
    """Whether a directory's names lie in blocks of its own, as they are."""
    return not flags & (INLINE_FLAG | _ENCRYPTED | _CASEFOLD | EA_INODE_FLAG)


@dataclass(frozen=True, slots=True)
class Mapped:
    """Consecutive blocks: of a directory from ``logical`` on, or below them further entries (``depth`` above 0)."""

    logical: int
    physical: int
    count: int
    depth: int = 0


def single_extent(root: bytes) -> tuple[int, int, int] | None:
    """Logical block, physical block and length, where the root of a tree of extents has no more than that one."""
    if root[:2] != _EXTENT_MAGIC_BYTES or root[2:4] != b"\1\0" or root[6:8] != b"\0\0":
        return None
    logical, count, high, low = _EXTENT.unpack_from(root, _EXTENT_HEADER.size)
    return (logical, low | high << 32, count) if 0 < count <= _INIT_MAX else None


def extents(node: bytes, layout: Layout, depth: int = -1) -> Iterator[Mapped]:
    """What a node of an extent tree names, in order; ``depth`` -1: it is a root."""
    magic, entries, capacity, found = _EXTENT_HEADER.unpack_from(node)
    room = (len(node) - _EXTENT_HEADER.size) // _EXTENT.size
    if magic != _EXTENT_MAGIC or not entries <= capacity <= room or found > MAX_DEPTH or depth not in (-1, found):
        raise StrangeError("an extent tree that cannot be")
    for at in range(_EXTENT_HEADER.size, _EXTENT_HEADER.size + entries * _EXTENT.size, _EXTENT.size):
        if found:
            logical, low, high, _ = _INDEX.unpack_from(node, at)
            each = Mapped(logical, low | high << 32, 1, found)
        else:
            logical, count, high, low = _EXTENT.unpack_from(node, at)
            each = Mapped(logical, low | high << 32, count)
        if not 0 < each.count <= _INIT_MAX or not 0 < each.physical <= layout.blocks - each.count:
            raise StrangeError("an extent outside of the device")
        yield each


def direct_blocks(node: bytes, count: int, layout: Layout) -> Iterator[Mapped]:
    """The same without extents: the first twelve blocks, and one list of further ones (depth 1)."""
    pointers = _POINTERS.unpack(node)
    for logical, physical in enumerate(pointers[:12][:count]):
        yield Mapped(logical, _inside(physical, layout), 1)
    if count > 12:
        yield Mapped(12, _inside(pointers[12], layout), 1, 1)


def listed_blocks(block: bytes, logical: int, count: int, layout: Layout) -> Iterator[Mapped]:
    """What a block of pointers names, up to ``count`` blocks in all; more lists behind it are not followed."""
    if count - logical > len(block) // 4:
        raise StrangeError("a directory of several lists of blocks")
    for number in range(count - logical):
        physical = int.from_bytes(block[4 * number : 4 * number + 4], "little")
        yield Mapped(logical + number, _inside(physical, layout), 1)


def _inside(physical: int, layout: Layout) -> int:
    if not 0 < physical < layout.blocks:
        raise StrangeError("a block outside of the device, or a hole in a directory")
    return physical


# --- extended attributes ----------------------------------------------------------------------------------------------


def inode_attributes(inode: bytes, extra_bytes: int) -> dict[bytes, bytes]:
    """Those that lie in an inode, behind its additional fields."""
    first = SMALL_INODE + extra_bytes + 4
    if first >= len(inode) or int.from_bytes(inode[first - 4 : first], "little") != _XATTR_MAGIC:
        return {}
    return _attributes(inode[first:], 0)


def block_attributes(block: bytes) -> dict[bytes, bytes]:
    """Those of an inode's block of attributes."""
    if int.from_bytes(block[:4], "little") != _XATTR_MAGIC or int.from_bytes(block[8:12], "little") != 1:
        raise StrangeError("a block of attributes that cannot be")
    return _attributes(block, _XATTR_HEADER)


def _attributes(area: bytes, at: int) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    while area[at : at + 4] != bytes(4):
        if at + _XATTR.size > len(area):
            raise StrangeError("attributes without an end")
        length, prefix, value_at, inode, size, _ = _XATTR.unpack_from(area, at)
        name = area[at + _XATTR.size : at + _XATTR.size + length]
        value = area[value_at : value_at + size]
        if inode or prefix not in _PREFIXES or len(name) != length or len(value) != size or b"\0" in name:
            raise StrangeError("an attribute of another kind")
        found[_PREFIXES[prefix] + name] = value
        at += (_XATTR.size + length + 3) & ~3
    return found


def listed_form(attributes: dict[bytes, bytes]) -> dict[str, str] | None:
    """As a listing has them; StrangeError for names that are not plain ASCII."""
    if not attributes:
        return None
    try:
        return {name.decode("ascii"): base64.b64encode(value).decode() for name, value in sorted(attributes.items())}
    except UnicodeDecodeError:
        raise StrangeError("a name of an attribute that is not ASCII") from None
