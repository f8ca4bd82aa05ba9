"""Stacks on other disks: LVM, LUKS and md RAID, and their nestings; what fits, what grows, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from agent.errors import DoesNotFitError, RefusedError
from agent.model.clashes import same_names
from agent.model.disk_layouts import layouts_of
from agent.model.image import FORMAT, STACK_FORMAT, Manifest, Subvolume, format_of
from agent.model.plan import FIRST_STACKED, MakeLuks
from agent.model.profile import Firmware
from agent.model.spread import NO_WISH, Wish, spread
from agent.model.stack import all_below, bases, device_names, disks_of, mapped_name, on_disks, place_named, unsound
from agent.model.stack_layout import KEEP, PLAIN, boot_modules
from agent.model.storage import Disk, FileSystem, PhysicalVolume, Stack
from tests.model.stacks_of_tests import (
    ARRAY_UUID,
    GIB,
    HOME,
    LUKS_UUID,
    MIB,
    ROOT,
    disk,
    group,
    guid,
    holds_together,
    image,
    laid,
    luks,
    lvm_uuid,
    on_luks,
    on_lvm,
    on_raid,
    profile,
    sizes,
    the_group,
)

# --- words of places ------------------------------------------------------------------------------------------------


def test_every_place_leads_down_to_its_partitions() -> None:
    stack = on_luks().stack
    assert all_below(stack, ROOT) == (ROOT, f"luks:{LUKS_UUID}", "vda:3")
    assert bases(on_raid(lvm=True).stack, ROOT) == ("vda:3", "vdb:3")
    assert disks_of(on_raid(lvm=True).stack, ROOT) == {"vda", "vdb"}
    assert on_disks(stack, ["vdb"]) == Stack()
    assert on_disks(stack, ["vda"]) == stack


def test_names_below_dev_are_those_that_udev_makes() -> None:
    stack = on_luks().stack
    assert mapped_name("debian-vg", "swap_1") == "debian--vg-swap_1"
    assert device_names(stack, ROOT) == ("/dev/mapper/debian--vg-root", "/dev/debian-vg/root")
    assert device_names(stack, f"luks:{LUKS_UUID}") == ("/dev/mapper/vda3_crypt",)
    assert "/dev/md/0" in device_names(on_raid(lvm=False).stack, f"array:{ARRAY_UUID}")
    assert place_named(stack, "/dev/mapper/debian--vg-home") == HOME
    assert place_named(stack, f"UUID={guid(0x6F).upper()}") == ROOT
    assert place_named(stack, "/dev/mapper/other") == ""


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [on_lvm, on_luks, lambda: on_raid(lvm=True), lambda: on_raid(lvm=False)])
@pytest.mark.parametrize("size", [9 * GIB, 20 * GIB, 20 * GIB + MIB, 100 * GIB])
@pytest.mark.parametrize("arrays", ["plain", "keep"])
def test_every_storey_lies_within_the_one_below(make: Callable[[], Manifest], size: int, arrays: str) -> None:
    holds_together(laid(make(), size, arrays=arrays))


def test_on_a_disk_of_the_same_size_nothing_changes() -> None:
    source = on_luks()
    layout = laid(source, 20 * GIB)
    (vg,) = source.stack.groups
    assert sizes(layout) == {volume.name: volume.size_bytes for volume in vg.logical}
    assert [(p.number, p.start_bytes, p.part_uuid) for p in layout.partitions] == [
        (p.number, p.start_bytes, p.part_uuid) for p in source.disks[0].partitions
    ]


def test_a_smaller_disk_shrinks_every_storey_down_to_what_is_held() -> None:
    layout = laid(on_luks(), 8 * GIB)
    assert sizes(layout)["root"] >= 2 * GIB + 512 * MIB
    assert sizes(layout)["home"] >= GIB
    with pytest.raises(DoesNotFitError, match=r"LUKS vda3_crypt: needs"):
        laid(on_luks(), 4 * GIB)


def test_identities_of_every_storey_are_kept() -> None:
    layout = laid(on_luks(), 9 * GIB)
    (made,) = (step for step in layout.stack if isinstance(step, MakeLuks))
    planned = the_group(layout)
    assert (made.luks.uuid, made.luks.name, made.luks.cipher, made.luks.key_bytes) == (
        LUKS_UUID, "vda3_crypt", "aes-xts-plain64", 64,
    )  # fmt: skip
    assert (made.on, planned.physical[0].on) == (3, made.place)
    assert [planned.uuid, planned.physical[0].uuid] == [lvm_uuid(1), lvm_uuid(2)]
    assert [volume.uuid for volume in planned.logical] == [lvm_uuid(3), lvm_uuid(4), lvm_uuid(5)]
    assert layout.filesystems[layout.volumes["root"]].uuid == guid(0x6F)
    assert min(layout.volumes["root"], layout.volumes["home"]) >= FIRST_STACKED
    assert [fs.uuid for fs in layout.filesystems.values() if fs.kind == "swap"] == [guid(12)]


# --- what files name ------------------------------------------------------------------------------------------------


def test_the_initramfs_must_hold_what_the_root_stands_on() -> None:
    def modules(source: Manifest, arrays: str = PLAIN) -> tuple[str, ...]:
        return boot_modules(source, laid(source, 20 * GIB, arrays).stack)

    assert modules(on_luks()) == ("dm_mod", "dm_crypt")
    assert modules(on_lvm()) == ("dm_mod",)
    assert modules(on_raid(lvm=False)) == ()
    assert modules(on_raid(lvm=True), arrays=KEEP) == ("md_mod", "raid1", "dm_mod")


# --- together with what else a layout knows --------------------------------------------------------------------------


def on_btrfs() -> Manifest:
    """LUKS, and on it one btrfs with two subvolumes, as Fedora and openSUSE install it."""
    size = disk().partitions[2].size_bytes
    held = FileSystem("btrfs", guid(77), size_bytes=size - 16 * MIB, block_bytes=4096, mountpoint="/")
    source = image(Stack((replace(luks(size), holds=held),), (), ()), ("/", f"luks:{LUKS_UUID}", 2 * GIB))
    root = replace(source.volumes[1], subvolume="/root", subvolumes=(Subvolume("/root"),))
    home = replace(
        root, id="home", filesystem=replace(root.filesystem, mountpoint="/home", options="subvol=home,compress=zstd:1"),
        subvolume="/home", subvolumes=(Subvolume("/home"),),
    )  # fmt: skip
    return replace(source, volumes=(source.volumes[0], home, root))


def test_subvolumes_of_a_btrfs_on_a_stack_lie_in_one_file_system() -> None:
    layout = laid(on_btrfs(), 30 * GIB)
    place = layout.volumes["root"]
    assert place == layout.volumes["home"] == FIRST_STACKED
    made = layout.filesystems[place]
    assert [(each.path, each.mountpoint, each.options) for each in made.subvolumes] == [
        ("/home", "/home", "compress=zstd:1"), ("/root", "/", ""),
    ]  # fmt: skip
    twice = replace(on_btrfs(), volumes=tuple(replace(each, subvolume="") for each in on_btrfs().volumes))
    with pytest.raises(RefusedError, match=f"home and root share luks:{LUKS_UUID}"):
        laid(twice, 30 * GIB)


def test_a_subvolume_needs_what_all_of_them_hold() -> None:
    source = on_btrfs()
    with pytest.raises(DoesNotFitError):
        laid(replace(source, volumes=tuple(replace(v, content_bytes=3 * GIB) for v in source.volumes)), 6 * GIB)
    laid(replace(source, volumes=tuple(replace(v, content_bytes=GIB) for v in source.volumes)), 6 * GIB)


def over_two_disks() -> Manifest:
    """A volume group with a physical volume on each of two disks."""
    first, second = disk(size=12 * GIB), disk("vdb", 12 * GIB, first=50)
    size = first.partitions[2].size_bytes
    vg = group("vda:3", size, PhysicalVolume(lvm_uuid(9), "vdb:3", size, MIB))
    return image(Stack(groups=(vg,)), ("/", ROOT, GIB), ("/home", HOME, GIB), disks=(first, second))


def test_a_stack_goes_to_one_disk() -> None:
    disks = (Disk("nvme0n1", 30 * GIB, 512, 512, serial="T1"), Disk("nvme1n1", 30 * GIB, 512, 512, serial="T2"))
    told = r"the image has LUKS vda3_crypt, volume group debian-vg, and 2 disks .*\(nvme0n1, nvme1n1\)"
    with pytest.raises(RefusedError, match=told):
        spread(on_luks(), disks, Wish(also=("serial=T2",)))
    with pytest.raises(RefusedError, match="carries LVM, LUKS or md RAID and would go to nvme1n1"):
        spread(over_two_disks(), disks, Wish(also=("serial=T2",), arrays=KEEP))
    ((_, layout),) = layouts_of(spread(on_luks(), disks[:1], NO_WISH), profile(), Firmware.UEFI, NO_WISH)
    assert layout.stack


def test_readers_that_know_no_stack_refuse_the_image() -> None:
    for source in (on_luks(), on_btrfs(), on_raid(lvm=False)):
        assert format_of(source.volumes, source.stack) == STACK_FORMAT
    assert format_of(on_luks().volumes[:1]) == FORMAT


def test_the_old_disk_beside_the_new_one_is_told_of() -> None:
    old = disk("sdb")
    member = FileSystem("crypto_LUKS", LUKS_UUID)
    old = replace(old, partitions=(*old.partitions[:2], replace(old.partitions[2], holds=member, part_uuid=guid(999))))
    (said,) = same_names([("", laid(on_luks(), 30 * GIB))], [old], {"nvme0n1"})
    assert f"LUKS {LUKS_UUID}" in said
    mirror = FileSystem("linux_raid_member", "a3ba06fe-5cfe-7bf4-e258-1febdf9a4a6a")
    old = replace(old, partitions=(replace(old.partitions[2], holds=mirror),))
    (said,) = same_names([("", laid(on_raid(lvm=True), 30 * GIB, KEEP))], [old], {"nvme0n1"})
    assert f"raid1 {mirror.uuid}" in said


def test_a_stack_that_no_disk_could_have_is_not_worked_with() -> None:
    stack = on_luks().stack
    (vg,), (one,) = stack.groups, stack.luks
    most = 1 << 60
    assert unsound(stack, most) == unsound(on_raid(lvm=True).stack, most) == unsound(Stack(), most) == ""
    assert "extents" in unsound(replace(stack, groups=(replace(vg, extent_bytes=0),)), most)
    assert "a size" in unsound(replace(stack, luks=(replace(one, size_bytes=-1),)), most)
    assert "two devices" in unsound(replace(stack, luks=(one, one)), most)
    assert "two devices" in unsound(replace(stack, groups=(vg, replace(vg, logical=()))), most)
    assert "on itself" in unsound(replace(stack, luks=(replace(one, on=ROOT),)), most)
