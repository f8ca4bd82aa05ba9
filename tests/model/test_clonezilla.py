"""Names and texts of a Clonezilla image directory."""

from __future__ import annotations

import pytest

from agent.errors import RefusedError
from agent.model.clonezilla import (
    DiskSize,
    disk_of,
    disk_size,
    files_of,
    number_of,
    partition_images,
    platform,
    saved_partitions,
    swap_identity,
    without_devices,
)
from agent.model.profile import Firmware, Platform

OLD_DUMP = """\
# partition table of /dev/sda
unit: sectors

/dev/sda1 : start=     2048, size= 74838016, Id=83, bootable
/dev/sda2 : start= 74842110, size=  3297282, Id= 5
/dev/sda3 : start=        0, size=        0, Id= 0
/dev/sda5 : start= 74842112, size=  3297280, Id=82
"""
NEW_DUMP = """\
label: gpt
label-id: 7C0E2F7A-6F3D-4B3A-9C55-0A50C4B0A100
device: /dev/sda
unit: sectors
first-lba: 2048
last-lba: 20971486
sector-size: 512

/dev/sda1 : start=        2048, size=        2048, type=21686148-6449-6E6F-744E-656564454649
"""


def test_partition_images_are_told_by_their_names() -> None:
    names = [
        "Info-dmi.txt", "parts", "sda-pt.sf", "sda1.vfat-ptcl-img.zst", "sda2.ext4-ptcl-img.gz.aa",
        "sda2.ext4-ptcl-img.gz.ab", "sda3.dd-ptcl-img.aa", "nvme0n1p1.xfs-ptcl-img.uncomp", "sda4.dd-ptcl-img.xz.aa",
        "sda5.vfat-ptcl-img.aa", "sda-gpt.sgdisk",
    ]  # fmt: skip
    found = {image.partition: image for image in partition_images(names)}
    assert sorted(found) == ["nvme0n1p1", "sda1", "sda2", "sda3", "sda4", "sda5"]
    assert (found["sda1"].filesystem, found["sda1"].packing) == ("vfat", "zst")
    assert found["sda2"].pieces == ("sda2.ext4-ptcl-img.gz.aa", "sda2.ext4-ptcl-img.gz.ab")
    assert (found["sda3"].filesystem, found["sda3"].packing) == ("dd", "")
    assert (found["sda4"].filesystem, found["sda4"].packing) == ("dd", "xz")
    assert found["nvme0n1p1"].packing == "uncomp"


def test_what_was_saved_of_a_disk_and_how() -> None:
    assert saved_partitions("sda1 sda5 sdaa1 sdb1\n", "sda") == ("sda1", "sda5")
    assert saved_partitions("nvme0n1p1 nvme0n1p12\n", "nvme0n1") == ("nvme0n1p1", "nvme0n1p12")
    assert saved_partitions("", "sda") == ()
    names = ["sda1.info", "sda1.ntfs-img.ab", "sda1.ntfs-img.aa", "sda10.aa", "sda1.files-md5sum.info.gz", "sda-pt.sf"]
    assert files_of("sda1", names) == ("sda1.ntfs-img.aa", "sda1.ntfs-img.ab")
    assert files_of("sda2", names) == ()


def test_pieces_are_counted_as_split_counts() -> None:
    names = [f"sda1.ext4-ptcl-img.zst.{first}{second}" for first in "ab" for second in "abcdefghijklmnopqrstuvwxyz"]
    (image,) = partition_images(reversed(names))
    assert image.pieces == tuple(names)
    with pytest.raises(RefusedError, match="the pieces of partition sda1"):
        partition_images(names[:10] + names[11:])


@pytest.mark.parametrize(
    ("name", "disk", "number"),
    [
        ("sda1", "sda", 1), ("sdaa12", "sdaa", 12), ("nvme0n1p3", "nvme0n1", 3), ("mmcblk0p2", "mmcblk0", 2),
        ("vda", "vda", 0), ("vg0", "", 0), ("md127", "", 0),
    ],
)  # fmt: skip
def test_disks_and_numbers_of_partitions(name: str, disk: str, number: int) -> None:
    assert disk_of(name) == disk
    assert number_of(name) == number or not disk


def test_the_size_of_the_disk() -> None:
    parted = "Disk /dev/sda: 20971520s\nSector size (logical/physical): 4096B/4096B\n"
    assert disk_size(NEW_DUMP, parted) == DiskSize(20971520, 4096)
    assert disk_size(NEW_DUMP, "") == DiskSize(20971520, 512)
    assert disk_size(OLD_DUMP, "") == DiskSize(74842112 + 3297280 + 33, 512)


def test_a_dump_becomes_a_script_for_any_disk() -> None:
    script = without_devices(OLD_DUMP)
    assert "type=83, bootable" in script and "type=5" in script and "sda3" not in script
    script = without_devices(NEW_DUMP)
    assert "device:" not in script and "sector-size" not in script and "label-id: 7C0E2F7A" in script


def test_swap_and_platform() -> None:
    assert swap_identity('UUID="1bcb2760-6aff"\nLABEL=""\n') == ("1bcb2760-6aff", "")
    assert platform("", uefi=False) == Platform()
    dmi = "System Information\n\tManufacturer: Dell Inc.\n\tSerial Number: Not Specified\n\nBase Board Information\n"
    found = platform(dmi + "\tManufacturer: 0XYZ\n", uefi=True)
    assert (found.system_vendor, found.system_serial, found.board_vendor) == ("Dell Inc.", "", "0XYZ")
    assert found.firmware is Firmware.UEFI
