"""Mirrors across several disks of the target: sizes, members, what starts, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.errors import DoesNotFitError, RefusedError
from agent.model.disk_layouts import all_filesystems, layouts_of
from agent.model.image import Manifest, ObjectRef, ProfileRef, Volume
from agent.model.layout import Layout
from agent.model.partition_types import BIOS_BOOT, ESP, LINUX, is_esp
from agent.model.plan import (
    ClearDisk,
    InstallBootloader,
    MakeArray,
    MakeFilesystem,
    MakeVolumeGroup,
    PlannedMember,
    VerifyBoot,
    WriteTable,
    describe,
)
from agent.model.planner import Decisions, make_plan
from agent.model.profile import Firmware, Kernel, OperatingSystem, Profile
from agent.model.spread import Wish, spread
from agent.model.stack_layout import KEEP, RAID_TYPES
from agent.model.storage import Disk, FileSystem, Partition, Stack, TableKind
from tests.model.stacks_of_tests import ARRAY_UUID, GIB, HOME, MIB, ROOT, array, ext4, group, guid

PLACE = f"array:{ARRAY_UUID}"
ESP_UUID = "4D41-5452"
TWO = Wish(also=("name=sdb",), arrays=KEEP)


def disk(name: str, size: int = 20 * GIB, *, esp: bool = True, first: int = 0, mounted: str = "") -> Disk:
    """An EFI system partition, or none, and a member of the array."""
    held = FileSystem("vfat", ESP_UUID, "ESP", size_bytes=128 * MIB, mountpoint=mounted) if mounted else None
    parts = [Partition(1, MIB, 128 * MIB, ESP, guid(first + 1), "", (), held)] if esp else []
    parts.append(Partition(2, 129 * MIB, size - 130 * MIB, RAID_TYPES[0], guid(first + 2)))
    return Disk(name, size, 512, 512, role="boot" if name == "vda" else "", table=TableKind.GPT, table_id=guid(first),
                partitions=tuple(parts))  # fmt: skip


def image(*disks: Disk, lvm: bool = False, esp_volume: bool = True) -> Manifest:
    size = 19 * GIB
    made = array(*(f"{each.name}:2" for each in disks), size=size, holds=None if lvm else ext4(11, size, "/"))
    stack = Stack((), (made,), (group(PLACE, size),) if lvm else ())
    used = 2 * GIB
    root = Volume("root", "tree", replace(ext4(11, size, "/"), used_bytes=used), ObjectRef("0", 0), 1000, used, (),
                  device=ROOT if lvm else PLACE)  # fmt: skip
    volumes = [root]
    if lvm:
        held = replace(ext4(13, size, "/home"), used_bytes=GIB)
        volumes.append(replace(root, id="home", filesystem=held, device=HOME))
    if esp_volume:
        held = FileSystem("vfat", ESP_UUID, "ESP", size_bytes=128 * MIB, mountpoint="/boot/efi", used_bytes=4 * MIB)
        volumes.append(Volume("boot-efi", "tree", held, ObjectRef("0", 0), 9, 4 * MIB, (), "vda", 1))
    profile = ProfileRef("", "ab", "")
    return Manifest(1, "m", "20260101T000000Z", "", "m", profile, disks, tuple(volumes), (), stack=stack)


def pair() -> Manifest:
    return image(disk("vda", mounted="/boot/efi"), disk("vdb", first=50))


def source(firmware: Firmware = Firmware.UEFI) -> Profile:
    made = Profile("m", "", os=OperatingSystem(id="debian", kernels=(Kernel("6.1", initrd="/boot/initrd.img-6.1"),)))
    return replace(made, platform=replace(made.platform, firmware=firmware))


def target(name: str, size: int) -> Disk:
    return Disk(name, size, 512, 512, serial=f"S-{name}")


def laid(
    manifest: Manifest, *sizes: int, firmware: Firmware = Firmware.UEFI, was: Firmware = Firmware.UEFI, wish: Wish = TWO
) -> tuple[tuple[Disk, Layout], ...]:
    disks = tuple(target(f"sd{chr(ord('a') + number)}", size) for number, size in enumerate(sizes))
    return layouts_of(spread(manifest, disks, wish), source(was), firmware, wish)


def the_array(layout: Layout) -> MakeArray:
    (made,) = (step for step in layout.stack if isinstance(step, MakeArray))
    return made


def size_of(layout: Layout, number: int) -> int:
    return next(part.size_bytes for part in layout.partitions if part.number == number)


@pytest.mark.adapts("B9", "T1")
def test_a_mirror_is_made_across_two_disks_with_the_identities_that_it_had() -> None:
    (_, first), (_, second) = laid(pair(), 20 * GIB, 20 * GIB)
    made = the_array(first)
    assert (made.on, made.also) == ((2,), (PlannedMember(disk="sdb", partition=2),))
    assert (made.array.uuid, made.array.name, made.array.devices) == (ARRAY_UUID, "debian:0", 2)
    assert second.stack == ()
    assert describe(made) == f"make raid1 {ARRAY_UUID} of partition 2, partition 2 of sdb as md0 (place 1001)"
    assert [(p.number, p.part_uuid, p.type) for p in second.partitions] == [
        (1, guid(51), ESP), (2, guid(52), RAID_TYPES[0]),
    ]  # fmt: skip
    assert second.table_id == guid(50)


@pytest.mark.parametrize("lvm", [False, True])
@pytest.mark.parametrize("sizes", [(20, 30), (30, 20), (12, 20), (20, 12), (50, 50)])
def test_a_mirror_is_as_large_as_its_smallest_member(sizes: tuple[int, int], lvm: bool) -> None:
    manifest = image(disk("vda", mounted="/boot/efi"), disk("vdb", first=50), lvm=lvm)
    (_, first), (_, second) = laid(manifest, *(size * GIB for size in sizes))
    least = min(size_of(first, 2), size_of(second, 2)) - 16 * MIB
    assert min(sizes) * GIB - 200 * MIB < least
    if not lvm:
        assert least - 2 * MIB <= first.stacked_bytes[the_array(first).place] <= least
        return
    (made,) = (step.group for step in first.stack if isinstance(step, MakeVolumeGroup))
    assert sum(each.extents for each in made.logical) * made.extent_bytes <= least


def test_a_member_that_cannot_hold_the_files_is_refused_with_its_disk() -> None:
    with pytest.raises(DoesNotFitError, match=r"disk sdb \(serial S-sdb, 2\.0 GiB\).*\n(.*\n)*.*raid1 md0: needs"):
        laid(pair(), 20 * GIB, 2 * GIB)


@pytest.mark.adapts("B9", "T1")
def test_each_disk_starts_where_each_did() -> None:
    """The copy of the EFI system partition has the UUID that fstab names, and is mounted nowhere."""
    (_, first), (_, second) = laid(pair(), 20 * GIB, 20 * GIB)
    assert (first.boots, second.boots) == (True, True)
    assert (first.filesystems[1].uuid, first.filesystems[1].mountpoint) == (ESP_UUID, "/boot/efi")
    assert (second.filesystems[1].uuid, second.filesystems[1].mountpoint) == (ESP_UUID, "")


def test_a_second_system_partition_of_its_own_stays_its_own() -> None:
    manifest = image(disk("vda", mounted="/boot/efi"), disk("vdb", first=50, mounted="/boot/efi2"))
    held = FileSystem("vfat", "5555-6666", "ESP2", size_bytes=128 * MIB, mountpoint="/boot/efi2", used_bytes=4 * MIB)
    own = Volume("boot-efi2", "tree", held, ObjectRef("0", 0), 9, 4 * MIB, (), "vdb", 1)
    (_, _), (_, second) = laid(replace(manifest, volumes=(*manifest.volumes, own)), 20 * GIB, 20 * GIB)
    assert (second.filesystems[1].uuid, second.filesystems[1].mountpoint) == ("5555-6666", "/boot/efi2")
    assert second.volumes == {"boot-efi2": 1}


def test_a_disk_without_a_system_partition_gets_none_on_uefi() -> None:
    manifest = image(disk("vda", mounted="/boot/efi"), disk("vdb", esp=False, first=50))
    (_, first), (_, second) = laid(manifest, 20 * GIB, 20 * GIB)
    assert (first.boots, second.boots) == (True, False)
    assert [part.number for part in second.partitions] == [2]


@pytest.mark.adapts("B13", "T1")
def test_on_the_other_firmware_both_disks_get_what_it_starts_from() -> None:
    mirrored = image(disk("vda", esp=False), disk("vdb", esp=False, first=50), esp_volume=False)
    (_, first), (_, second) = laid(mirrored, 20 * GIB, 20 * GIB, was=Firmware.BIOS)
    esps = [next(part for part in layout.partitions if is_esp(part.type)) for layout in (first, second)]
    assert esps[0].part_uuid != esps[1].part_uuid
    same = {layout.filesystems[part.number].uuid for layout, part in zip((first, second), esps, strict=True)}
    assert len(same) == 1 and second.filesystems[esps[1].number].mountpoint == ""
    back = laid(pair(), 20 * GIB, 20 * GIB, firmware=Firmware.BIOS)
    assert all(any(part.type == BIOS_BOOT for part in layout.partitions) for _, layout in back)
    identities = [part.part_uuid for _, layout in (*back,) for part in layout.partitions]
    assert len(set(identities)) == len(identities)


def test_a_disk_that_has_no_member_is_not_written() -> None:
    wish = Wish(also=("name=sdb", "name=sdc"), arrays=KEEP)
    with pytest.raises(RefusedError, match=r"disk sdc .* would be erased, and nothing of the image goes to it"):
        laid(pair(), 20 * GIB, 20 * GIB, 20 * GIB, wish=wish)


def test_without_the_wish_two_disks_are_refused_with_the_way_out() -> None:
    with pytest.raises(RefusedError, match="--arrays keep"):
        laid(pair(), 20 * GIB, 20 * GIB, wish=Wish(also=("name=sdb",)))


def test_a_striped_array_is_not_divided() -> None:
    manifest = pair()
    (made,) = manifest.stack.arrays
    striped = replace(manifest, stack=Stack((), (replace(made, level="raid0"),)))
    with pytest.raises(RefusedError, match="partition vdb:2 of the image carries"):
        laid(striped, 20 * GIB, 20 * GIB)


def test_data_beside_a_member_comes_along() -> None:
    second = disk("vdb", first=50)
    last = second.partitions[-1]
    data = Partition(3, last.start_bytes + last.size_bytes, 4 * GIB, LINUX, guid(53), "", (), ext4(20, 4 * GIB, "/srv"))
    second = replace(second, size_bytes=24 * GIB + MIB, partitions=(*second.partitions, data))
    manifest = image(disk("vda", mounted="/boot/efi"), second)
    held = replace(ext4(20, 4 * GIB, "/srv"), used_bytes=MIB)
    srv = Volume("srv", "tree", held, ObjectRef("0", 0), 9, MIB, (), "vdb", 3)
    layouts = laid(replace(manifest, volumes=(*manifest.volumes, srv)), 20 * GIB, 25 * GIB)
    (_, first), (_, other) = layouts
    assert other.volumes == {"srv": 3}
    made = all_filesystems(layouts)
    assert len(made) == len(first.filesystems) + len(other.filesystems), "no number means two places"


def test_the_plan_writes_every_table_before_the_array_and_makes_every_disk_boot() -> None:
    manifest = pair()
    disks = (target("sda", 20 * GIB), target("sdb", 20 * GIB))
    profile = source()
    (_, first), (_, second) = layouts_of(spread(manifest, disks, TWO), profile, Firmware.UEFI, TWO)
    machine = replace(profile, disks=disks)
    also = ((disks[1], second),)
    plan = make_plan(
        Decisions(manifest, "", profile, machine, "", "", disks[0], first, (), (), "restore", also=also),
    )
    kinds = [type(step) for step in plan.steps]
    assert kinds[:5] == [ClearDisk, WriteTable, ClearDisk, WriteTable, MakeArray]
    made = [(step.disk, step.partition) for step in plan.steps if isinstance(step, MakeFilesystem)]
    assert made == [("", 1), ("", the_array(first).place), ("sdb", 1)]
    (install,) = (step for step in plan.steps if isinstance(step, InstallBootloader))
    (proof,) = (step for step in plan.steps if isinstance(step, VerifyBoot))
    assert [(each.disk.name, each.esp_partition) for each in install.also] == [("sdb", 1)]
    assert proof.also == install.also
    assert describe(install) == "install boot loader for UEFI, on sdb too"
    assert {"md_mod", "raid1"} <= set(proof.modules)
    assert not plan.unsure
