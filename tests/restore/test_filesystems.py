"""File systems made by the real tools: identities, features, sizes; the smallest sizes really hold the content."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.errors import RefusedError, TargetIOError
from agent.model.filesystem_size import inodes_for, minimum_bytes
from agent.model.plan import PlannedFilesystem
from agent.model.storage import FileSystem
from agent.probe.filesystems import read_filesystem
from agent.restore import filesystems
from tests.restore.loop_disk import MIB, loop_disk

pytestmark = pytest.mark.root
UUID = str(uuid.uuid4())  # mkfs.btrfs refuses one that another run of the tests has attached
EXT4 = (
    "has_journal", "ext_attr", "resize_inode", "dir_index", "filetype", "extent", "64bit", "flex_bg", "sparse_super",
    "large_file", "huge_file", "dir_nlink", "extra_isize", "metadata_csum",
)  # fmt: skip
XFS = ("isize=512", "crc=1", "finobt=1", "sparse=1", "rmapbt=0", "reflink=1", "bigtime=0", "inobtcount=0", "nrext64=0")


@contextmanager
def device(folder: Path, size_bytes: int, sector: int = 512) -> Iterator[Path]:
    with loop_disk(folder, size_bytes, sector) as identity:
        yield Path("/dev") / identity.name


@contextmanager
def mounted(node: Path, folder: Path, options: str = "rw") -> Iterator[Path]:
    place = folder / "mnt"
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", options, node, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize(
    "planned",
    [
        PlannedFilesystem(kind="ext2", uuid=UUID, label="two", block_bytes=4096),
        PlannedFilesystem(kind="ext3", uuid=UUID, label="three", features=("has_journal", "filetype")),
        PlannedFilesystem(kind="ext4", uuid=UUID, label="four", features=EXT4, block_bytes=1024, inodes=50_000),
        PlannedFilesystem(kind="xfs", uuid=UUID, label="ex", features=XFS),
        PlannedFilesystem(kind="btrfs", uuid=UUID, label="bt", features=("extended_iref", "no_holes")),
        PlannedFilesystem(kind="vfat", uuid="ABCD-1234", label="EFI", features=("FAT32",)),
        PlannedFilesystem(kind="swap", uuid=UUID, label="sw"),
    ],
    ids=lambda value: value.kind if isinstance(value, PlannedFilesystem) else str(value),
)
@pytest.mark.adapts("B5", "B16", "T1")
def test_every_kind_on_every_sector_size(tmp_path: Path, planned: PlannedFilesystem, sector: int) -> None:
    with device(tmp_path, 400 * MIB, sector) as node:
        assert not filesystems.matches(node, planned)
        filesystems.make_filesystem(node, planned)
        assert filesystems.matches(node, planned)
        found = read_filesystem(node, 400 * MIB)
        assert found is not None
        assert (found.kind, found.uuid.lower(), found.label) == (planned.kind, planned.uuid.lower(), planned.label)
        if planned.inodes:
            assert found.inodes >= planned.inodes
        if planned.kind == "ext4":
            assert set(found.features) == set(EXT4)
            assert found.block_bytes == max(1024, sector)


def test_features_that_the_source_lacks_stay_off(tmp_path: Path) -> None:
    old = tuple(name for name in EXT4 if name not in ("64bit", "metadata_csum", "extent"))
    with device(tmp_path, 400 * MIB) as node:
        filesystems.make_filesystem(node, PlannedFilesystem(kind="ext4", uuid=UUID, features=(*old, "needs_recovery")))
        found = read_filesystem(node, 0)
        assert found is not None
        assert set(found.features) == set(old)
        filesystems.make_filesystem(node, PlannedFilesystem(kind="xfs", uuid=UUID, features=("crc=1", "ftype=1")))
        found = read_filesystem(node, 0)
        assert found is not None
        off = {"finobt=0", "reflink=0", "bigtime=0", "inobtcount=0", "rmapbt=0", "sparse=0"}
        assert off <= set(found.features)


def test_features_of_newer_tools_stay_off_where_the_source_is_unknown(tmp_path: Path) -> None:
    with device(tmp_path, 400 * MIB) as node:
        filesystems.make_filesystem(node, PlannedFilesystem(kind="ext4", uuid=UUID))
        found = read_filesystem(node, 0)
        assert found is not None
        assert not {"orphan_file", "metadata_csum_seed"} & set(found.features)
        filesystems.make_filesystem(node, PlannedFilesystem(kind="xfs", uuid=UUID))
        found = read_filesystem(node, 0)
        assert found is not None
        assert {"bigtime=0", "inobtcount=0"} <= set(found.features)


def test_what_was_there_before_is_gone(tmp_path: Path) -> None:
    with device(tmp_path, 400 * MIB) as node:
        for kind in ("xfs", "swap", "btrfs", "ext4", "vfat", "ext4"):
            uuid = "ABCD-1234" if kind == "vfat" else UUID
            filesystems.make_filesystem(node, PlannedFilesystem(kind=kind, uuid=uuid))
            assert filesystems.signature(node)["TYPE"] == kind


@pytest.mark.parametrize(("size", "sector"), [(100, 512), (512, 512), (260, 4096), (512, 4096), (2048, 4096)])
def test_an_efi_system_partition_is_fat32_for_every_reader(tmp_path: Path, size: int, sector: int) -> None:
    """The kind of FAT is decided by the number of clusters (fatgen103, 3.5), whatever the label in it says."""
    with device(tmp_path, size * MIB, sector) as node:
        filesystems.make_filesystem(node, PlannedFilesystem(kind="vfat", uuid="ABCD-1234", label="EFI"))
        boot = node.open("rb").read(512)
        per_cluster, reserved, tables = boot[13], int.from_bytes(boot[14:16], "little"), boot[16]
        sectors, fat = int.from_bytes(boot[32:36], "little"), int.from_bytes(boot[36:40], "little")
        assert (sectors - reserved - tables * fat) // per_cluster >= 65525
        assert int.from_bytes(boot[11:13], "little") == sector
        subprocess.run(["mmd", "-i", node, "::EFI"], check=True)
        subprocess.run(["mcopy", "-i", node, "-", "::EFI/x"], input=b"loader", check=True)
        read = subprocess.run(["mcopy", "-i", node, "::EFI/x", "-"], capture_output=True, check=True)
        assert read.stdout == b"loader"


def test_a_btrfs_root_lies_in_its_subvolume(tmp_path: Path) -> None:
    planned = PlannedFilesystem(kind="btrfs", uuid=UUID, mountpoint="/", options="noatime,subvol=/@rootfs,ssd")
    with device(tmp_path, 400 * MIB) as node:
        filesystems.make_filesystem(node, planned)
        with mounted(node, tmp_path, "subvol=@rootfs") as place:
            (place / "file").write_text("x")
        with mounted(node, tmp_path) as place:
            assert (place / "@rootfs/file").read_text() == "x"


def test_a_kind_that_nobody_can_make(tmp_path: Path) -> None:
    with device(tmp_path, 100 * MIB) as node, pytest.raises(RefusedError, match="reiserfs cannot be made"):
        filesystems.make_filesystem(node, PlannedFilesystem(kind="reiserfs", uuid=UUID))


def test_a_result_that_is_not_what_was_asked_for_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = PlannedFilesystem(kind="ext4", uuid=UUID)
    other = ["mke2fs", "-q", "-F", "-U", f"00000000{UUID[8:]}"]
    monkeypatch.setattr(filesystems, "_command", lambda node, _: [*other, str(node)])
    with device(tmp_path, 100 * MIB) as node, pytest.raises(TargetIOError, match="UUID is 0000"):
        filesystems.make_filesystem(node, planned)


# --- do the smallest sizes hold what they must? -----------------------------------------------------------------------


@pytest.mark.parametrize("used", [1, 200, 3000, 40_000])
@pytest.mark.parametrize(
    ("kind", "features"), [("ext4", EXT4), ("ext2", ("filetype", "sparse_super")), ("xfs", XFS), ("btrfs", ())]
)
def test_the_smallest_size_has_room_for_what_is_used(
    tmp_path: Path, kind: str, features: tuple[str, ...], used: int
) -> None:
    """As the mounted file system itself tells: blocks that root may still write, inodes that are free."""
    entries = used * 20
    held = FileSystem(kind, features=features, block_bytes=4096, used_bytes=used * MIB)
    size = -(-minimum_bytes(held, entries) // MIB) * MIB
    inodes = inodes_for(held, entries, size)
    planned = PlannedFilesystem(kind=kind, uuid=UUID, features=features, block_bytes=4096, inodes=inodes)
    with device(tmp_path, size) as node:
        filesystems.make_filesystem(node, planned)
        with mounted(node, tmp_path) as place:
            told = os.statvfs(place)
            assert told.f_bfree * told.f_frsize >= used * MIB
            if kind.startswith("ext"):
                assert told.f_ffree >= entries
    assert size <= used * MIB * 1.2 + entries * 300 + 620 * MIB, "a smallest size that is far too large"


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_the_smallest_size_is_filled_with_files(tmp_path: Path, kind: str) -> None:
    """Small and large files up to the bytes that were promised; nothing may run out of space."""
    count, small, large = 4000, 3000, 60 * MIB
    used = count * 4096 + large
    held = FileSystem(kind, block_bytes=4096, used_bytes=used)
    size = -(-minimum_bytes(held, count) // MIB) * MIB
    planned = PlannedFilesystem(kind=kind, uuid=UUID, inodes=inodes_for(held, count, size))
    with device(tmp_path, size) as node:
        filesystems.make_filesystem(node, planned)
        with mounted(node, tmp_path) as place:
            (place / "d").mkdir()
            for number in range(count):
                (place / f"d/{number}").write_bytes(bytes([number % 255 + 1]) * small)
            (place / "large").write_bytes(os.urandom(large))
            os.sync()
            assert len(os.listdir(place / "d")) == count


def test_a_million_files_need_inodes_not_bytes(tmp_path: Path) -> None:
    held = FileSystem("ext4", features=EXT4, block_bytes=4096, used_bytes=100 * MIB, inodes=2_000_000,
                      size_bytes=32 << 30)  # fmt: skip
    size = minimum_bytes(held, 1_000_000)
    inodes = inodes_for(held, 1_000_000, size)
    assert inodes >= 1_000_000
    assert inodes_for(held, 1_000_000, 64 << 30) == 4_000_000
    with device(tmp_path, size) as node:
        filesystems.make_filesystem(
            node, PlannedFilesystem(kind="ext4", uuid=UUID, features=EXT4, block_bytes=4096, inodes=inodes)
        )
        found = read_filesystem(node, size)
        assert found is not None
        assert found.inodes >= 1_000_000
