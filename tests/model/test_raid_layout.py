"""md RAID on other disks: what lies on an array, or an array with members missing; what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.errors import RefusedError
from agent.model.disk_layouts import layouts_of
from agent.model.image import Manifest
from agent.model.layout import esp_partition
from agent.model.partition_types import LINUX
from agent.model.plan import MakeArray, MakeVolumeGroup
from agent.model.profile import Firmware
from agent.model.spread import NO_WISH, Wish, spread
from agent.model.stack_layout import KEEP, LVM_TYPES, RAID_TYPES
from agent.model.storage import Disk, FileSystem
from tests.model.stacks_of_tests import ARRAY_UUID, GIB, MIB, array, laid, on_raid, profile


@pytest.mark.adapts("B9", "T1")
def test_a_mirror_becomes_what_lies_on_it_or_is_made_with_a_member_missing() -> None:
    plain, kept = laid(on_raid(lvm=False), 20 * GIB), laid(on_raid(lvm=False), 20 * GIB, arrays=KEEP)
    assert plain.stack == ()
    assert plain.volumes["root"] == 3
    assert plain.partitions[2].type == LINUX
    assert any("plainly on one partition" in note for note in plain.notes)
    (made,) = kept.stack
    assert isinstance(made, MakeArray)
    assert (made.on, made.array.uuid, made.array.name, made.array.devices) == ((3,), ARRAY_UUID, "debian:0", 2)
    assert kept.volumes["root"] == made.place
    assert kept.partitions[2].type == RAID_TYPES[0]
    assert laid(on_raid(lvm=True), 20 * GIB).partitions[2].type == LVM_TYPES["gpt"]


def test_striped_arrays_are_never_made_with_members_missing() -> None:
    source = on_raid(lvm=False)
    (made,) = source.stack.arrays
    source = replace(source, stack=replace(source.stack, arrays=(replace(made, level="raid0"),)))
    assert laid(source, 20 * GIB, arrays=KEEP).stack == ()


def test_an_array_that_cannot_be_read_back_is_refused() -> None:
    source = on_raid(lvm=False)
    (made,) = source.stack.arrays
    source = replace(source, stack=replace(source.stack, arrays=(replace(made, level="raid5"),)))
    with pytest.raises(RefusedError, match="md0 is raid5, expected"):
        laid(source, 20 * GIB)


def test_the_wish_says_what_becomes_of_arrays() -> None:
    disks = (Disk("nvme0n1", 30 * GIB, 512, 512, serial="T1"),)

    def kinds(wish: Wish) -> list[type]:
        source = on_raid(lvm=True)
        ((_, layout),) = layouts_of(spread(source, disks, wish), profile(), Firmware.UEFI, wish)
        return [type(step) for step in layout.stack]

    assert kinds(NO_WISH) == [MakeVolumeGroup]
    assert kinds(Wish(arrays=KEEP)) == [MakeArray, MakeVolumeGroup]


def on_esp_raid() -> Manifest:
    """As some installers make it: an EFI system partition on a mirror with its metadata at the end, / on another."""
    source = on_raid(lvm=False)
    held = FileSystem("vfat", "ABCD-1234", size_bytes=511 * MIB, mountpoint="/boot/efi", used_bytes=10 * MIB)
    esp = replace(array("vda:1", "vdb:1", size=511 * MIB, holds=held), uuid="0:0:0:1", node="md1", offset_bytes=0)
    volume = replace(source.volumes[0], id="boot-efi", filesystem=held, disk="", partition=0, device="array:0:0:0:1")
    stack = replace(source.stack, arrays=(*source.stack.arrays, replace(esp, metadata="1.0")))
    return replace(source, stack=stack, volumes=(*source.volumes, volume))


@pytest.mark.adapts("B9", "B12", "T1")
def test_an_esp_on_a_mirror_becomes_a_partition_or_is_refused_before_anything_is_written() -> None:
    plain = laid(on_esp_raid(), 20 * GIB)
    assert esp_partition(plain) == plain.volumes["boot-efi"] == 1
    assert plain.filesystems[1].uuid == "ABCD-1234"
    with pytest.raises(RefusedError, match="EFI system partition lies on an array") as refused:
        laid(on_esp_raid(), 20 * GIB, arrays=KEEP)
    assert "--arrays plain" in refused.value.hint
