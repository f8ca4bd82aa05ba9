"""How small a file system may be made and still hold what its volume holds.

Used bytes are what statvfs says (blocks less free blocks), so that a file system's own tables come on top of them.
Every estimate errs on the large side: the figures are compared with the real tools by test.
"""

from __future__ import annotations

from agent.model.storage import FileSystem

MIB = 1 << 20
EXT = ("ext2", "ext3", "ext4")
WRITABLE = (*EXT, "xfs", "btrfs", "vfat")  # kinds of volume that a restore can make
SWAP_FLOOR_BYTES = 256 * MIB
XFS_FLOOR_BYTES = 300 * MIB  # mkfs.xfs refuses less since xfsprogs 5.19
BTRFS_FLOOR_BYTES = 256 * MIB
VFAT_FLOOR_BYTES = 64 * MIB
EXT_FLOOR_BYTES = 8 * MIB
_EXT_BYTES_PER_INODE = 16384  # mke2fs.conf, default inode_ratio
_EXT_INODE_BYTES = 256
# e2fsprogs, lib/ext2fs/mkjournal.c: journal blocks by blocks of the file system.
_JOURNAL_BLOCKS = (
    (2048, 0), (32768, 1024), (262144, 4096), (524288, 8192), (4194304, 16384),
    (8388608, 32768), (16777216, 65536), (33554432, 131072),
)  # fmt: skip
_JOURNAL_MOST = 262144


def minimum_bytes(fs: FileSystem, entries: int, free_bytes: int = 0) -> int:
    """The smallest size for the content of ``fs`` in a new file system, with ``free_bytes`` still free in it."""
    if fs.kind == "swap":
        return min(fs.size_bytes or SWAP_FLOOR_BYTES, SWAP_FLOOR_BYTES)
    wanted = fs.used_bytes + fs.used_bytes // 20 + free_bytes  # 5 %: content lies differently in smaller groups
    if fs.kind in EXT:
        return max(EXT_FLOOR_BYTES, _ext_minimum(fs, entries, wanted + 16 * MIB))
    if fs.kind == "xfs":
        # A log of at least 64 MiB, the reserved pool, and about 2 % for the trees of each allocation group.
        return max(XFS_FLOOR_BYTES, wanted + wanted // 40 + 160 * MIB)
    if fs.kind == "btrfs":
        # Metadata is kept twice and allotted in chunks, so that some space is always set aside for it.
        return max(BTRFS_FLOOR_BYTES, wanted + wanted // 10 + 384 * MIB)
    if fs.kind == "vfat":
        # At worst a cluster of 4 KiB a file more than before, and two tables.
        return max(VFAT_FLOOR_BYTES, wanted + entries * 4096 + 8 * MIB)
    return fs.size_bytes


def floor_bytes(fs: FileSystem) -> int:
    """What the tool that makes such a file system refuses to make it smaller than; the source's may be older."""
    return XFS_FLOOR_BYTES if fs.kind == "xfs" else 0


def inodes_for(fs: FileSystem, entries: int, size_bytes: int) -> int:
    """Inodes to make in an ext file system of ``size_bytes``: the source's density, never fewer than are needed.

    A file system that does not shrink gets at least as many as it had. 0 for kinds that make inodes as they need them.
    """
    if fs.kind not in EXT:
        return 0
    needed = entries + entries // 20 + 1024
    if fs.inodes and fs.size_bytes:
        kept = fs.inodes if size_bytes >= fs.size_bytes else 0
        density = fs.inodes * size_bytes // fs.size_bytes
    else:
        kept, density = 0, size_bytes // _EXT_BYTES_PER_INODE
    # mke2fs refuses more than one inode a block, and numbers of 32 bits and more.
    return min(max(needed, kept, density), size_bytes // _block(fs), (1 << 32) - 1)


def ext_overhead_bytes(fs: FileSystem, size_bytes: int, inodes: int) -> int:
    """What mke2fs takes for itself: journal, inode tables, bitmaps, group descriptors and their copies."""
    block = _block(fs)
    blocks = size_bytes // block
    per_group = 8 * block
    groups = -(-blocks // per_group)
    per_block = block // _EXT_INODE_BYTES
    inodes_per_group = -(-inodes // groups) if groups else 0
    inode_blocks = groups * -(-inodes_per_group // per_block)
    descriptors = -(-groups * 64 // block)
    reserved = min(block // 4, 1024 * descriptors)  # resize_inode: room for 1024 times the size
    tables = _backup_groups(groups) * (1 + descriptors + reserved)
    return (journal_blocks(fs, blocks) + inode_blocks + 2 * groups + tables + 64) * block


def journal_blocks(fs: FileSystem, blocks: int) -> int:
    if fs.kind == "ext2" or (fs.features and "has_journal" not in fs.features):
        return 0
    return next((journal for limit, journal in _JOURNAL_BLOCKS if blocks < limit), _JOURNAL_MOST)


def _backup_groups(groups: int) -> int:
    """Groups with a copy of the superblock (sparse_super): 0, 1 and the powers of 3, 5 and 7."""
    with_copy = {0, 1}
    for base in (3, 5, 7):
        power = base
        while power < groups:
            with_copy.add(power)
            power *= base
    return len(with_copy)


def _block(fs: FileSystem) -> int:
    return fs.block_bytes or 4096


def _ext_minimum(fs: FileSystem, entries: int, wanted: int) -> int:
    """The fixed point of size = wanted + overhead(size); the overhead grows far slower than the size."""
    size = wanted
    for _ in range(64):
        grown = wanted + ext_overhead_bytes(fs, size, inodes_for(fs, entries, size))
        if grown <= size:
            break
        size = grown + MIB
    return max(size, (entries + entries // 20 + 1024) * _block(fs))  # mke2fs: at most one inode a block
