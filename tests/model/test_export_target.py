"""For which machine an exported disk is made."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from agent.errors import DiskSelectionError, UsageError
from agent.model.export_target import (
    firmware_of,
    for_a_file,
    like_a_target,
    like_the_source,
    needed_bytes,
    parse_size,
    with_file,
)
from agent.model.image import Manifest, ObjectRef, ProfileRef, Volume
from agent.model.partition_types import BIOS_BOOT, ESP, LINUX
from agent.model.plan import DiskIdentity, InstallBootloader, Plan
from agent.model.profile import Firmware, Platform, Profile
from agent.model.storage import ChainLink, Disk, FileSystem, Partition, TableKind

GIB = 1 << 30
CHAIN = (ChainLink("pci:v1", "nvme"),)
MEANT = Disk("nvme0n1", 20 * GIB, 4096, 4096, transport="nvme", model="QEMU NVMe", serial="S1", chain=CHAIN,
             in_use=("mounted on /",), boot_medium=True)  # fmt: skip
FILE = Disk("loop7", 20 * GIB, 4096, 4096)


def manifest(*volumes: Volume, disks: tuple[Disk, ...] = ()) -> Manifest:
    profile = ProfileRef("20261124T120000Z", "a" * 64, "b" * 64)
    return Manifest(1, "box", "20261124T120000Z", "test", "box", profile, disks, volumes, ())


def volume(disk: str = "", partition: int = 0, content_bytes: int = 100 << 20) -> Volume:
    held = FileSystem("ext4", mountpoint="/")
    return Volume("root", "tree", held, ObjectRef("c" * 64, 1), 1000, content_bytes, (), disk, partition)


def disk_with(*types: str, table: TableKind = TableKind.GPT) -> Disk:
    parts = tuple(Partition(n, n << 20, 1 << 20, kind) for n, kind in enumerate(types, 1))
    return Disk("sda", 8 * GIB, 512, 512, table=table, partitions=parts)


@pytest.mark.parametrize(
    ("disk", "firmware"),
    [
        (disk_with(ESP, LINUX), Firmware.UEFI),
        (disk_with(BIOS_BOOT, LINUX), Firmware.BIOS),
        (disk_with(BIOS_BOOT, ESP, LINUX), Firmware.BIOS),
        (disk_with("0x83", table=TableKind.MBR), Firmware.BIOS),
        (disk_with("0xef", "0x83", table=TableKind.MBR), Firmware.BIOS),
    ],
)
def test_firmware_by_the_layout(disk: Disk, firmware: Firmware) -> None:
    assert firmware_of(disk) is firmware
    found = like_the_source(manifest(volume("sda", 2), disks=(disk,)), Profile("box", ""))[0]
    assert found.platform.firmware is firmware


def test_what_the_profile_says_of_the_firmware_counts() -> None:
    source = Profile("box", "", platform=Platform(firmware=Firmware.UEFI))
    found, meant = like_the_source(manifest(volume("sda", 2), disks=(disk_with(BIOS_BOOT, LINUX),)), source)
    assert found.platform.firmware is Firmware.UEFI
    assert found.disks == (meant,) and meant.size_bytes == 8 * GIB


def test_volumes_of_other_disks_need_their_room_too() -> None:
    other = replace(disk_with(LINUX), name="sdb", size_bytes=3 * GIB)
    empty = replace(other, name="sdc")
    held = manifest(
        volume("sda", 2), replace(volume("sdb", 1), id="srv"), disks=(disk_with(LINUX, LINUX), other, empty)
    )
    assert like_the_source(held, Profile("box", ""))[1].size_bytes == 11 * GIB


def test_a_file_system_on_the_whole_disk_gets_a_table_around_it() -> None:
    whole = Disk("disk0", GIB, 512, 512, holds=FileSystem("ext4"))
    assert like_the_source(manifest(volume("disk0"), disks=(whole,)), Profile("box", ""))[1].size_bytes > GIB


def test_a_tree_without_a_disk() -> None:
    assert needed_bytes(manifest(volume(content_bytes=10 * GIB))) >= 16 * GIB
    assert like_the_source(manifest(volume()), Profile("box", ""))[1].size_bytes % GIB == 0


def test_the_file_stands_on_the_targets_controller_under_its_own_name() -> None:
    target, meant = like_a_target(Profile("t", "", disks=(MEANT,)), "only-eligible")
    (stands,) = with_file(target, meant, FILE).disks
    assert (stands.name, stands.serial, stands.model) == ("loop7", "", "")
    assert (stands.chain, stands.transport, stands.in_use, stands.boot_medium) == (CHAIN, "nvme", (), False)


def test_a_selector_that_names_no_disk() -> None:
    with pytest.raises(DiskSelectionError):
        like_a_target(Profile("t", "", disks=(MEANT,)), "serial=S2")


@pytest.mark.parametrize(
    ("disk", "name"),
    [
        (MEANT, "/dev/nvme0n1"), (replace(MEANT, name="disk0", transport="virtio"), "/dev/vda"),
        (replace(MEANT, name="disk0", transport=""), "/dev/sda"), (replace(MEANT, name=""), "/dev/nvme0n1"),
    ],
)  # fmt: skip
def test_the_plan_names_nothing_of_this_machine(disk: Disk, name: str) -> None:
    identity = DiskIdentity(name="loop7", model="", serial="", wwn="", size_bytes=GIB, logical_sector_bytes=512)
    step = InstallBootloader(firmware="uefi", disk=identity, label="debian")
    plan = Plan(format=1, mode="restore", image="box", manifest_sha256="", source_profile_sha256="",
                target_profile_sha256="", difference_sha256="", disk=identity, untouched=(), components=(),
                steps=(step,))  # fmt: skip
    (changed,) = for_a_file(plan, disk).steps
    assert changed == msgspec.structs.replace(step, label="", known_as=name)


def test_sizes() -> None:
    assert [parse_size(text) for text in ("20G", "512m", "1T", "1048576", "1")] == [
        20 * GIB, 512 << 20, 1 << 40, 1 << 20, 1 << 20,
    ]  # fmt: skip
    for wrong in ("", "G", "-1", "1.5G", "20GB", "x"):
        with pytest.raises(UsageError):
            parse_size(wrong)
