"""The target's file systems: mounted in order, always taken down, no link of an image followed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.errors import PatchError, TargetIOError
from agent.model.partition_types import LINUX
from agent.model.plan import MakeFilesystem, PlannedFilesystem, PlannedPartition, WriteTable
from agent.restore import disk, filesystems, mounts
from agent.restore.disk import DiskHandle
from tests.restore.loop_disk import MIB, loop_disk

TABLE = "7c0e2f7a-6f3d-4b3a-9c55-0a50c4b0a100"


def made(number: int, mountpoint: str, kind: str = "ext4", options: str = "") -> MakeFilesystem:
    uuid = f"6f1d3c52-2b70-4a52-9f0b-00000000000{number}"
    return MakeFilesystem(
        partition=number,
        filesystem=PlannedFilesystem(kind=kind, uuid=uuid, mountpoint=mountpoint, options=options),
    )


@contextmanager
def prepared(folder: Path, *steps: MakeFilesystem, size: int = 40 * MIB) -> Iterator[DiskHandle]:
    with loop_disk(folder, (len(steps) * size) + 4 * MIB) as identity, disk.open_disk(identity) as handle:
        parts = tuple(
            PlannedPartition(
                number=step.partition, start_bytes=MIB + index * size, size_bytes=size, type=LINUX,
                part_uuid=f"11111111-2222-4333-8444-00000000000{step.partition}",
            )
            for index, step in enumerate(steps)
        )  # fmt: skip
        disk.write_table(handle, WriteTable(disk=identity, table="gpt", table_id=TABLE, partitions=parts))
        for step in steps:
            filesystems.make_filesystem(disk.partition_node(handle, step.partition), step.filesystem)
        yield handle


def nodes_of(handle: DiskHandle) -> mounts.NodeOf:
    return lambda _, partition: disk.partition_node(handle, partition)


def mounted_below(root: Path) -> list[str]:
    return [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if str(root) in line]


def test_the_order_is_outermost_first_and_swap_is_left_out() -> None:
    steps = [made(1, "/srv/www/x"), made(2, "", "swap"), made(3, "/"), made(4, "/srv"), made(5, "/boot")]
    assert [each.mountpoint for each in mounts.in_mount_order(steps)] == ["/", "/boot", "/srv", "/srv/www/x"]


def test_options_never_let_devices_or_setuid_work() -> None:
    for kind in ("ext4", "xfs", "btrfs", "vfat"):
        planned = PlannedFilesystem(kind=kind, uuid="1", mountpoint="/", options="suid,dev,exec")
        ((_, options),) = mounts.mounts_of(planned)
        words = options.split(",")
        assert {"nodev", "nosuid"} <= set(words)
        assert not {"suid", "dev"} & set(words)
    old = PlannedFilesystem(kind="btrfs", uuid="1", mountpoint="/", options="defaults,subvol=@rootfs")
    ((_, options),) = mounts.mounts_of(old)
    assert options.endswith("subvol=/@rootfs")


@pytest.mark.parametrize("mountpoint", ["srv", "/srv/../../etc", ".."])
def test_mount_points_stay_below_the_root(tmp_path: Path, mountpoint: str) -> None:
    with pytest.raises(PatchError, match="is no mount point"):
        mounts.make_mountpoint(tmp_path, mountpoint)


def test_a_link_on_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root/srv").symlink_to(tmp_path / "outside")
    with pytest.raises(PatchError, match="srv in the restored system is no directory"):
        mounts.make_mountpoint(tmp_path / "root", "/srv/www")
    assert not any((tmp_path / "outside").iterdir())


@pytest.mark.root
def test_everything_is_mounted_and_taken_down(tmp_path: Path) -> None:
    steps = (made(3, "/srv/www"), made(1, "/"), made(2, "/srv"))
    with prepared(tmp_path, *steps) as handle:
        with mounts.mounted_target(nodes_of(handle), steps, tmp_path / "mnt") as root:
            (root / "srv/www/file").write_text("x")
            assert mounted_below(root) == [str(root), f"{root}/srv", f"{root}/srv/www"]
            for number, place in ((1, root), (2, root / "srv"), (3, root / "srv/www")):
                assert mounts.where_mounted(disk.partition_node(handle, number), root) == place
            with pytest.raises(OSError), (root / "null").open("wb"):
                os.mknod(root / "null", 0o20666, os.makedev(1, 3))
        assert mounted_below(tmp_path) == []
        with mounts.mounted_target(nodes_of(handle), steps, tmp_path / "mnt") as root:
            assert (root / "srv/www/file").read_text() == "x"


@pytest.mark.root
def test_a_failure_inside_takes_everything_down(tmp_path: Path) -> None:
    steps = (made(1, "/"), made(2, "/srv"))
    with prepared(tmp_path, *steps) as handle:
        with pytest.raises(KeyboardInterrupt), mounts.mounted_target(nodes_of(handle), steps, tmp_path / "mnt"):
            raise KeyboardInterrupt
        assert mounted_below(tmp_path) == []


@pytest.mark.root
def test_what_stays_busy_is_detached_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "UNMOUNT_TRIES", 2)
    step = made(1, "/")
    with prepared(tmp_path, step) as handle:
        child = None
        try:
            with (
                pytest.raises(TargetIOError, match="stayed busy"),
                mounts.mounted_target(nodes_of(handle), [step], tmp_path / "mnt") as root,
            ):
                child = subprocess.Popen(["sleep", "60"], cwd=root)
        finally:
            assert child is not None
            child.kill()
            child.wait()
        assert mounted_below(tmp_path) == []


@pytest.mark.root
def test_a_subvolume_is_where_the_root_is(tmp_path: Path) -> None:
    step = made(1, "/", "btrfs", "subvol=@rootfs")
    with (
        prepared(tmp_path, step, size=160 * MIB) as handle,
        mounts.mounted_target(nodes_of(handle), [step], tmp_path / "mnt") as root,
    ):
        assert mounts.top_inside_filesystem(root / "boot") == "/@rootfs"


@pytest.mark.root
def test_a_file_system_larger_than_its_device_is_recognised_and_not_there(tmp_path: Path) -> None:
    """As one is whose volume became smaller: its superblock lies where it did, and mounting fails every time."""
    step = made(1, "/")
    with prepared(tmp_path, step) as handle:
        node = disk.partition_node(handle, 1)
        assert mounts.is_there(node, step.filesystem)
        blocks = 2 * 40 * MIB // 4096
        subprocess.run(["debugfs", "-w", "-R", f"set_super_value blocks_count {blocks}", node], check=True)
        assert filesystems.matches(node, step.filesystem)
        assert not mounts.is_there(node, step.filesystem)
        filesystems.make_filesystem(node, step.filesystem)
        assert mounts.is_there(node, step.filesystem)
        assert not mounted_below(tmp_path)
