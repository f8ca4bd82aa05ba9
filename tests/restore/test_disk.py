"""Partition tables on real (loop) disks: written, proved, refused."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.errors import DiskSelectionError, RefusedError, TargetIOError
from agent.model import table_text
from agent.model.partition_types import BIOS_BOOT, ESP, LINUX
from agent.model.plan import DiskIdentity, PlannedPartition, WriteTable
from agent.restore import disk
from agent.restore.disk import DiskHandle
from tests.restore.loop_disk import MIB, loop_disk

TABLE = "7c0e2f7a-6f3d-4b3a-9c55-0a50c4b0a100"
PARTS = (
    PlannedPartition(number=1, start_bytes=MIB, size_bytes=MIB, type=BIOS_BOOT,
                     part_uuid="11111111-2222-4333-8444-000000000001", part_label="BIOS boot"),
    PlannedPartition(number=4, start_bytes=2 * MIB, size_bytes=40 * MIB, type=LINUX,
                     part_uuid="11111111-2222-4333-8444-000000000004", part_label='o"d\\d é',
                     flags=("RequiredPartition", "GUID:60")),
    PlannedPartition(number=2, start_bytes=42 * MIB, size_bytes=40 * MIB, type=ESP,
                     part_uuid="11111111-2222-4333-8444-000000000002"),
)  # fmt: skip
MBR_PARTS = (
    PlannedPartition(number=1, start_bytes=MIB, size_bytes=20 * MIB, type="0x83", part_uuid="deadbeef-01",
                     flags=("boot",)),
    PlannedPartition(number=3, start_bytes=21 * MIB, size_bytes=60 * MIB, type="0x5", part_uuid="deadbeef-03",
                     purpose="extended"),
    PlannedPartition(number=5, start_bytes=22 * MIB, size_bytes=10 * MIB, type="0x82", part_uuid="deadbeef-05"),
    PlannedPartition(number=6, start_bytes=33 * MIB, size_bytes=10 * MIB, type="0x83", part_uuid="deadbeef-06"),
    PlannedPartition(number=2, start_bytes=81 * MIB, size_bytes=10 * MIB, type="0xef", part_uuid="deadbeef-02"),
)  # fmt: skip


def gpt(identity: DiskIdentity, parts: tuple[PlannedPartition, ...] = PARTS) -> WriteTable:
    return WriteTable(disk=identity, table="gpt", table_id=TABLE, partitions=parts)


def mbr(identity: DiskIdentity) -> WriteTable:
    return WriteTable(disk=identity, table="mbr", table_id="0xdeadbeef", partitions=MBR_PARTS)


@contextmanager
def opened(folder: Path, sector: int = 512) -> Iterator[DiskHandle]:
    with loop_disk(folder, 100 * MIB, sector) as identity, disk.open_disk(identity) as handle:
        yield handle


def sfdisk(handle: DiskHandle) -> dict[str, Any]:
    printed = subprocess.run(["sfdisk", "--json", handle.node], capture_output=True, check=True).stdout
    return dict(json.loads(printed)["partitiontable"])


@pytest.mark.root
@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.adapts("B5", "T1")
def test_a_gpt_has_its_identities_back(tmp_path: Path, sector: int) -> None:
    with opened(tmp_path, sector) as handle:
        disk.clear_disk(handle)
        step = gpt(handle.identity)
        assert not disk.table_matches(handle, step)
        disk.write_table(handle, step)
        assert disk.table_matches(handle, step)
        table = sfdisk(handle)
        assert table["id"].lower() == TABLE
        assert [part["uuid"].lower()[-1] for part in table["partitions"]] == ["1", "2", "4"]
        assert table["partitions"][2]["name"] == 'o"d\\d é'
        assert handle.partition_numbers() == (1, 2, 4)
        for part in PARTS:
            node = disk.partition_node(handle, part.number)
            assert node.is_block_device()
            size = subprocess.run(["blockdev", "--getsize64", node], capture_output=True, check=True).stdout
            assert int(size) == part.size_bytes
        assert handle.nodes()[0] == handle.node
        assert len(handle.nodes()) == 4


@pytest.mark.root
@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.adapts("B5", "T1")
def test_an_mbr_with_logical_partitions(tmp_path: Path, sector: int) -> None:
    with opened(tmp_path, sector) as handle:
        disk.clear_disk(handle)
        disk.write_table(handle, mbr(handle.identity))
        assert disk.table_matches(handle, mbr(handle.identity))
        table = sfdisk(handle)
        assert (table["label"], table["id"]) == ("dos", "0xdeadbeef")
        assert table["partitions"][0]["bootable"] is True
        assert handle.partition_numbers() == (1, 2, 5, 6)


@pytest.mark.root
def test_a_table_replaces_another_and_the_kernel_follows(tmp_path: Path) -> None:
    with opened(tmp_path) as handle:
        disk.write_table(handle, mbr(handle.identity))
        disk.clear_disk(handle)
        assert handle.partition_numbers() == ()
        disk.write_table(handle, gpt(handle.identity))
        assert handle.partition_numbers() == (1, 2, 4)
        moved = tuple(msgspec.structs.replace(part, start_bytes=part.start_bytes + MIB) for part in PARTS)
        disk.write_table(handle, gpt(handle.identity, moved))
        start = int((handle.sysfs / handle.partition_name(4) / "start").read_text()) * 512
        assert start == 3 * MIB


@pytest.mark.root
def test_clearing_leaves_nothing_that_boots_or_is_recognised(tmp_path: Path) -> None:
    with loop_disk(tmp_path, 160 * MIB) as identity:
        subprocess.run(["mkfs.btrfs", "-q", "-f", f"/dev/{identity.name}"], capture_output=True, check=True)
        with disk.open_disk(identity) as handle:
            os.pwrite(handle.descriptor, b"\xeb\x63GRUB", 0)
            disk.clear_disk(handle)
            for offset in (0, identity.size_bytes - MIB):
                assert not any(os.pread(handle.descriptor, MIB, offset))
            assert subprocess.run(["blkid", "--probe", handle.node], capture_output=True, check=False).returncode == 2


@pytest.mark.root
def test_boot_code_goes_and_the_table_stays(tmp_path: Path) -> None:
    with opened(tmp_path) as handle:
        disk.write_table(handle, mbr(handle.identity))
        os.pwrite(handle.descriptor, b"\xeb\x63GRUB", 0)
        disk.clear_boot_code(handle)
        assert not any(os.pread(handle.descriptor, 440, 0))
        assert disk.table_matches(handle, mbr(handle.identity))


@pytest.mark.root
@pytest.mark.parametrize(
    ("field", "value"),
    [("serial", "OTHER"), ("wwn", "0x5000"), ("size_bytes", 99 * MIB), ("logical_sector_bytes", 4096),
     ("model", "Other")],
)  # fmt: skip
def test_another_disk_than_the_plans_is_not_touched(tmp_path: Path, field: str, value: object) -> None:
    with loop_disk(tmp_path, 100 * MIB) as identity:
        other = msgspec.structs.replace(identity, **{field: value})
        with pytest.raises(DiskSelectionError, match=f"{field} is"), disk.open_disk(other):
            pytest.fail("was opened")


@pytest.mark.root
def test_a_disk_that_is_gone(tmp_path: Path) -> None:
    with loop_disk(tmp_path, 100 * MIB) as identity:
        gone = msgspec.structs.replace(identity, name="loop-none")
        with pytest.raises(DiskSelectionError, match="cannot be opened"), disk.open_disk(gone):
            pytest.fail("was opened")


@pytest.mark.root
def test_a_disk_in_use_is_refused(tmp_path: Path) -> None:
    with loop_disk(tmp_path, 100 * MIB) as identity:
        with disk.open_disk(identity), pytest.raises(RefusedError, match="held by another"), disk.open_disk(identity):
            pytest.fail("was opened twice")
        subprocess.run(["mkfs.ext4", "-q", f"/dev/{identity.name}"], check=True)
        (tmp_path / "mnt").mkdir()
        subprocess.run(["mount", f"/dev/{identity.name}", tmp_path / "mnt"], check=True)
        try:
            with pytest.raises(RefusedError, match="is mounted"), disk.open_disk(identity):
                pytest.fail("was opened while mounted")
        finally:
            subprocess.run(["umount", tmp_path / "mnt"], check=True)


@pytest.mark.root
def test_while_the_disk_is_claimed_nobody_else_gets_it_and_afterwards_partitions_can_be_used(tmp_path: Path) -> None:
    with opened(tmp_path) as handle:
        disk.write_table(handle, gpt(handle.identity))
        with pytest.raises(OSError):
            os.open(handle.node, os.O_RDWR | os.O_EXCL)
        node = disk.partition_node(handle, 4)
        descriptor = os.open(node, os.O_RDWR | os.O_EXCL)
        os.close(descriptor)
        with pytest.raises(TargetIOError, match="no partition 9"):
            disk.partition_node(handle, 9)


@pytest.mark.root
def test_a_disk_that_forgets_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written must be what is read: here the script that is written is not the plan's."""
    with opened(tmp_path) as handle:
        right = table_text.script(gpt(handle.identity), 512)
        monkeypatch.setattr(table_text, "script", lambda *_: right.replace("000000000004", "00000000000f"))
        with pytest.raises(TargetIOError, match="partition 4: uuid"):
            disk.write_table(handle, gpt(handle.identity))


def test_differences_name_every_fact() -> None:
    identity = DiskIdentity(name="sda", model="", serial="", wwn="", size_bytes=1, logical_sector_bytes=512)
    printed: dict[str, Any] = {
        "label": "gpt", "id": TABLE.upper(), "partitions": [
            {"node": "/dev/sda1", "start": 2048, "size": 2048, "type": BIOS_BOOT.upper(),
             "uuid": PARTS[0].part_uuid.upper(), "name": "BIOS boot"},
            {"node": "/dev/sda4", "start": 4096, "size": 40 * 2048, "type": LINUX, "uuid": PARTS[1].part_uuid,
             "name": PARTS[1].part_label, "attrs": "RequiredPartition GUID:60"},
            {"node": "/dev/sda2", "start": 42 * 2048, "size": 40 * 2048, "type": ESP, "uuid": PARTS[2].part_uuid},
        ],
    }  # fmt: skip

    def differences(**change: object) -> list[str]:
        table = {**printed, "partitions": [dict(part) for part in printed["partitions"]]}
        for key, value in change.items():
            (table if key in printed else table["partitions"][1])[key] = value
        text = json.dumps({"partitiontable": table})
        return table_text.differences(text, "/dev/sda", gpt(identity), 512)

    assert differences() == []
    for change in ({"start": 1}, {"size": 1}, {"type": ESP}, {"uuid": "0"}, {"name": "x"}, {"attrs": ""}):
        (wrong,) = differences(**change)
        assert wrong.startswith("partition 4: ")
    assert differences(label="dos", id="0x0")[0].startswith("table is dos")
    assert "expected [1, 2, 4]" in differences(partitions=[])[0]
    assert table_text.differences("", "/dev/sda", gpt(identity), 512) == ["there is no partition table"]
