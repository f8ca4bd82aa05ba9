"""A mounted ext4 looked at through its block device: inodes and directories in bulk, without a system call for each.

ext4 keeps inodes, directories and attributes in the page cache of its block device, and changes them there: what is
read from the device is what the kernel would answer, once delayed sizes and times have been settled (syncfs), as long
as nobody writes. Only looked at, never written.
"""

from __future__ import annotations

import os
import stat
from array import array
from collections import OrderedDict
from collections.abc import Iterable

from agent.image import ext4
from agent.image.ext4 import Fields, Layout, StrangeError

PIECE_BYTES = 4 << 20  # of a table of inodes
KEPT_PIECES = 16
AHEAD_GAP_BYTES, AHEAD_BYTES, AHEAD_BLOCKS = 64 << 10, 256 << 20, 16


class Ext4Disk:
    """An open device that holds the file system of a directory. StrangeError for all that is not as known."""

    def __init__(self, device: int, layout: Layout) -> None:
        self.layout = layout
        self._device = device
        descriptors = self._read(layout.descriptors_at, layout.groups * layout.descriptor_bytes)
        self._tables, self._used = ext4.inode_tables(layout, descriptors)
        self.parse = ext4.small_fields if layout.inode_bytes == ext4.SMALL_INODE else ext4.large_fields
        self._each = PIECE_BYTES // layout.inode_bytes
        self._pieces: OrderedDict[tuple[int, int], bytes] = OrderedDict()

    def inode(self, number: int) -> tuple[bytes, Fields]:
        """All bytes of an inode, and its fields."""
        first, piece = self.piece(number)
        size = self.layout.inode_bytes
        at = (number - first) * size
        return piece[at : at + size], self.parse(piece, at)

    def piece(self, inode: int) -> tuple[int, bytes]:
        """The piece of a table in which an inode lies, behind the number of its first inode."""
        layout = self.layout
        if not layout.first_inode <= inode <= layout.inodes and inode != ext4.ROOT_INODE:
            raise StrangeError(f"inode {inode} is no file’s")
        group, index = divmod(inode - 1, layout.inodes_per_group)
        number, index = divmod(index, self._each)
        piece = self._pieces.get((group, number))
        if piece is None:
            piece = self._fetch(group, number)
        if index * layout.inode_bytes >= len(piece):
            raise StrangeError(f"inode {inode} was never used")
        return inode - index, piece

    def _fetch(self, group: int, number: int) -> bytes:
        first = number * self._each
        count = min(self._each, self._used[group] - first)
        size = self.layout.inode_bytes
        piece = self._read(self._tables[group] + first * size, count * size) if count > 0 else b""
        self._pieces[group, number] = piece
        if len(self._pieces) > KEPT_PIECES:
            self._pieces.popitem(last=False)
        return piece

    def forget(self) -> None:
        """Give back the memory of what was read."""
        self._pieces.clear()

    # --- directories ----------------------------------------------------------------------------------------------

    def names(self, inode: bytes, fields: Fields) -> dict[bytes, int]:
        """What a directory lists, each with its inode; of the directory all bytes and fields."""
        flags = fields[7]
        count, rest = divmod(fields[2] | fields[9] << 32, self.layout.block_bytes)
        if rest or not 0 < count <= ext4.LARGEST_DIRECTORY_BLOCKS or not ext4.is_plain(flags):
            raise StrangeError("no plain directory")
        root = inode[ext4.BLOCK_AT : ext4.BLOCK_AT + ext4.BLOCK_BYTES]
        names: dict[bytes, int] = {}
        if single := ext4.single_extent(root) if flags & ext4.EXTENTS_FLAG else ():
            runs = [single]
        else:
            runs = self._runs(root, flags, count)
        reached = 0
        for logical, physical, length in runs:
            if logical != reached or physical + length > self.layout.blocks:
                raise StrangeError("a directory with a hole, or outside of the device")
            reached += length
            if reached > count:
                raise StrangeError("a directory beyond its end")
            for block in range(physical, physical + length):
                ext4.names_in(self._block(block), names, self.layout.names_have_types)
        if reached != count:
            raise StrangeError("a directory that ends early")
        ext4.check_names(names)
        return names

    def _runs(self, root: bytes, flags: int, count: int) -> list[tuple[int, int, int]]:
        """Logical block, physical block and length of all extents."""
        open_nodes = list(ext4.extents(root, self.layout) if flags & ext4.EXTENTS_FLAG
                          else ext4.direct_blocks(root, count, self.layout))  # fmt: skip
        leaves: list[tuple[int, int, int]] = []
        blocks = 0
        open_nodes.reverse()
        while open_nodes:
            node = open_nodes.pop()
            blocks += node.count
            if blocks > 2 * ext4.LARGEST_DIRECTORY_BLOCKS:
                raise StrangeError("a directory of too many blocks")
            if not node.depth:
                leaves.append((node.logical, node.physical, node.count))
                continue
            block = self._block(node.physical)
            below = (ext4.extents(block, self.layout, node.depth - 1) if flags & ext4.EXTENTS_FLAG
                     else ext4.listed_blocks(block, node.logical, count, self.layout))  # fmt: skip
            open_nodes += reversed(list(below))
        return leaves

    def read_ahead(self) -> None:
        """Have the kernel read the directories' blocks in large steps, before they are asked for one by one."""
        block_bytes, blocks = self.layout.block_bytes, array("Q")
        for group, used in enumerate(self._used):
            for number in range(-(-used // self._each)):
                piece = self._pieces.get((group, number)) or self._fetch(group, number)
                for at in directories_in(piece, self.layout.inode_bytes):
                    root = piece[at + ext4.BLOCK_AT : at + ext4.BLOCK_AT + ext4.BLOCK_BYTES]
                    blocks.extend(first_blocks(root))
            if len(blocks) * block_bytes > AHEAD_BYTES:
                return
        begin = end = 0
        for block in sorted(blocks):
            at = block * block_bytes
            if at > end + AHEAD_GAP_BYTES:
                os.posix_fadvise(self._device, begin, end - begin, os.POSIX_FADV_WILLNEED)
                begin = at
            end = at + block_bytes
        os.posix_fadvise(self._device, begin, end - begin, os.POSIX_FADV_WILLNEED)

    # --- attributes -----------------------------------------------------------------------------------------------

    def attributes(self, inode: bytes, fields: Fields) -> dict[bytes, bytes]:
        """Extended attributes, in the inode and in its block."""
        found: dict[bytes, bytes] = {}
        if self.layout.inode_bytes > ext4.SMALL_INODE:
            found = ext4.inode_attributes(inode, fields[14])
        block = fields[8] | fields[11] << 32
        if block:
            if not block < self.layout.blocks:
                raise StrangeError("attributes outside of the device")
            more = ext4.block_attributes(self._block(block))
            if more.keys() & found:
                raise StrangeError("an attribute that is there twice")
            found |= more
        return found

    def _block(self, number: int) -> bytes:
        return self._read(number * self.layout.block_bytes, self.layout.block_bytes)

    def _read(self, at: int, size: int) -> bytes:
        data = os.pread(self._device, size, at)
        if len(data) != size:
            raise StrangeError(f"the device ends before byte {at + size:,}")
        return data


def directories_in(piece: bytes, inode_bytes: int) -> list[int]:
    """Where in a piece of a table the inodes of directories begin."""
    kinds = piece[1::inode_bytes]  # the upper half of i_mode
    return [number * inode_bytes for number, kind in enumerate(kinds) if kind >> 4 == stat.S_IFDIR >> 12]


def first_blocks(root: bytes) -> Iterable[int]:
    """Blocks of a small directory of extents; none where they are not said in the inode itself."""
    single = ext4.single_extent(root)
    return range(single[1], single[1] + min(single[2], AHEAD_BLOCKS)) if single else ()
