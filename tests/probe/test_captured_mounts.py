"""Which mounted file systems are captured: what is mounted at each boot, whatever a kernel calls its disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.model.storage import Disk
from agent.probe.captured_mounts import captured_mounts, in_use, plugged_in
from agent.probe.disks import Surroundings
from agent.probe.mounts import FstabEntry, Mount
from agent.probe.stack import OpenStack
from tests.probe.machine_tree import MachineTree


def mount(device: str, mountpoint: str, kind: str = "ext4") -> Mount:
    return Mount(device, "/", mountpoint, kind, f"/dev/{device}")


def machine(tmp_path: Path, *parts: str) -> Surroundings:
    """Disks with these partitions: sda1, sda2, sdb1, …; the first is the root."""
    tree = MachineTree(tmp_path)
    for name in dict.fromkeys(part.rstrip("0123456789") for part in parts):
        tree.block(f"pci0/{name}")
    for part in parts:
        tree.block(f"pci0/{part.rstrip('0123456789')}/{part}", partition="1")
    places = ("/", "/boot/efi", "/srv", "/media/stick")
    mounts = tuple(
        mount(part, place, "vfat" if "efi" in place else "ext4") for part, place in zip(parts, places, strict=False)
    )
    return Surroundings(tmp_path, mounts, frozenset(), {}, [])


def entry(mountpoint: str, options: str = "defaults") -> FstabEntry:
    return FstabEntry("x", mountpoint, "ext4", options)


def disk(name: str, *, removable: bool = False, transport: str = "ata") -> Disk:
    return Disk(name, 1 << 30, 512, 512, removable=removable, transport=transport)


def split(around: Surroundings, disks: tuple[Disk, ...], *entries: FstabEntry) -> tuple[list[str], list[str]]:
    """(captured, plugged in for a while)"""
    found = in_use(disks, around, entries)
    taken = captured_mounts(found, around.root, OpenStack())
    return [mounts[0].mountpoint for mounts in taken], [each.path for each in plugged_in(found)]


def test_what_is_mounted_at_each_boot_belongs_to_the_system_on_a_port_that_is_hot_plugged(tmp_path: Path) -> None:
    around = machine(tmp_path, "sda1", "sda2", "sdb1", "sdc1")
    disks = (disk("sda"), disk("sdb", removable=True), disk("sdc", transport="usb"))
    assert split(around, disks, entry("/srv")) == (["/", "/boot/efi", "/srv"], ["/media/stick"])


@pytest.mark.parametrize("options", ["nofail", "defaults,noauto", "rw,nofail,x-systemd.automount"])
def test_what_the_boot_does_without_is_plugged_in_for_a_while(tmp_path: Path, options: str) -> None:
    around = machine(tmp_path, "sda1", "sda2", "sdb1")
    disks = (disk("sda"), disk("sdb", transport="usb"))
    assert split(around, disks, entry("/srv", options)) == (["/", "/boot/efi"], ["/srv"])


def test_a_system_that_runs_from_a_removable_disk_is_captured_with_its_boot_partitions(tmp_path: Path) -> None:
    around = machine(tmp_path, "sda1", "sda2", "sda3")
    assert split(around, (disk("sda", removable=True, transport="usb"),)) == (["/", "/boot/efi", "/srv"], [])
