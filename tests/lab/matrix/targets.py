"""The machines that the matrix restores onto, and which source goes where: data."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.lab.machine import Disk, Machine, Nic, Smbios
from tests.lab.matrix.systems import TWO_NICS

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    title: str
    machine: Machine


@dataclass(frozen=True, slots=True)
class Cell:
    """One source on one target. ``breaks``: the row of docs/adaptation.md for which the same restore without
    adaptation cannot come up; "" where it may."""

    source: str
    target: str
    breaks: str
    waits_for: str = ""  # what the product cannot do yet; the cell is listed, and not run
    arrays: str = ""  # keep: on all disks of the target, each of which must start it alone

    @property
    def name(self) -> str:
        return f"{self.source}--{self.target}"


def moved_cards() -> tuple[Nic, ...]:
    """The cards of the source with two, each in the other's slot."""
    return tuple(replace(nic, network=place) for place, nic in reversed(list(enumerate(TWO_NICS))))


def machine(firmware: str, disk: Disk, *nics: str, more: tuple[Disk, ...] = ()) -> Machine:
    return Machine(
        name="target",
        firmware=firmware,
        disks=(replace(disk, serial=disk.serial or "MATRIXTARGET"), *more),
        nics=tuple(Nic(model, f"52:54:00:99:10:{number:02x}") for number, model in enumerate(nics, 1)),
        memory_mib=1024,
        smbios=Smbios("New Hardware Inc.", "Replacement", "TGT-M001", "9d3c1f52-77aa-4e0b-8c1e-0a1b2c3da001"),
    )


TARGETS = {
    target.name: target
    for target in (
        Target("nvme-e1000e-uefi", "a current PC", machine("uefi", Disk("nvme", 6 * GIB), "e1000e")),
        Target("ahci-rtl8139-bios", "an old PC", machine("bios", Disk("ahci", 6 * GIB), "rtl8139")),
        # OVMF has a driver for pvscsi and none for megasas, which on real boards brings its own; SeaBIOS has.
        Target("megasas-vmxnet3-bios", "a RAID controller", machine("bios", Disk("megasas", 6 * GIB), "vmxnet3")),
        Target("pvscsi-vmxnet3-uefi", "a guest of VMware", machine("uefi", Disk("pvscsi", 6 * GIB), "vmxnet3")),
        Target("lsi53c895a-pcnet-bios", "parallel SCSI", machine("bios", Disk("lsi53c895a", 6 * GIB), "pcnet")),
        Target("virtio-virtio-uefi", "a cloud", machine("uefi", Disk("virtio", 6 * GIB), "virtio-net-pci")),
        Target(
            "virtio-virtio-secure",
            "a cloud with Secure Boot",
            machine("uefi-secure", Disk("virtio", 6 * GIB), "virtio-net-pci"),
        ),
        Target(
            "nvme4k-e1000e-uefi",
            "sectors of 4096 bytes",
            machine("uefi", Disk("nvme", 6 * GIB, sector_bytes=4096), "e1000e"),
        ),
        Target("usb-e1000-uefi", "a disk attached by USB", machine("uefi", Disk("usb", 6 * GIB), "e1000")),
        Target(
            "ahci-swapped-uefi",
            "the source's two cards, each in the other's slot",
            replace(machine("uefi", Disk("ahci", 6 * GIB)), nics=moved_cards()),
        ),
        Target("nvme-small-uefi", "a smaller disk", machine("uefi", Disk("nvme", 3 * GIB), "e1000e")),
        Target("ahci-large-bios", "a larger disk", machine("bios", Disk("ahci", 24 * GIB), "e1000")),
        Target(
            "two-disks-uefi",
            "two disks",
            machine("uefi", Disk("ahci", 6 * GIB), "e1000e", more=(Disk("ahci", 6 * GIB, serial="MATRIXTARGET2"),)),
        ),
    )
}

CELLS = (
    # The demo's own source: a cloud kernel that drives none of these, so that a kernel has to come from the depot.
    Cell("debian-12-cloud", "nvme-e1000e-uefi", "B3"),
    Cell("debian-12-cloud", "lsi53c895a-pcnet-bios", "B3"),
    Cell("debian-11-mbr", "ahci-rtl8139-bios", "B1"),
    Cell("debian-11-mbr", "nvme-e1000e-uefi", "B1"),
    Cell("debian-11-mbr", "usb-e1000-uefi", "B1"),
    Cell("debian-11-mbr", "nvme4k-e1000e-uefi", "B1"),
    Cell("debian-11-mbr", "nvme-small-uefi", "B1"),
    Cell("debian-12-uefi", "lsi53c895a-pcnet-bios", "N1"),
    # A card behind the same bridge keeps its name.
    Cell("debian-12-uefi", "megasas-vmxnet3-bios", ""),
    Cell("debian-12-uefi", "pvscsi-vmxnet3-uefi", ""),
    Cell("debian-12-uefi", "virtio-virtio-secure", "N1"),
    Cell("debian-12-uefi", "ahci-large-bios", "N1"),
    Cell("debian-12-lvm-luks", "nvme-e1000e-uefi", ""),  # behind the same bridge, too
    Cell("debian-12-lvm-luks", "virtio-virtio-uefi", "N1"),
    # Its first card keeps its slot, so that unadapted it comes up, too.
    Cell("debian-13-raid1", "two-disks-uefi", "", arrays="keep"),
    Cell("debian-13-raid1", "ahci-swapped-uefi", "N1"),
    # LVM on a mirror, and in the group a LUKS1 volume that a key file of the system opens.
    Cell("debian-12-stacked", "nvme-e1000e-uefi", ""),
    Cell("debian-12-stacked", "two-disks-uefi", "", arrays="keep"),
    Cell("debian-12-btrfs", "ahci-rtl8139-bios", "N1"),
    Cell("debian-12-btrfs", "virtio-virtio-uefi", ""),  # of its hardware only the firmware is another
)
