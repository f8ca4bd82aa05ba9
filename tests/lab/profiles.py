"""Profiles of virtual machines, as the live system takes them: fixtures for tests that decide without a machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import NAMESPACE_DNS, uuid5

import requests

from agent.depot.local import LocalDepot
from tests.lab.machine import Disk, Machine, Nic, Smbios
from tests.lab.medium import configured
from tests.lab.running import RunningMachine
from tests.lab.serving import REPOSITORY, Served, serving

FOLDER = REPOSITORY / "tests/machines/virtual"
SIZE_BYTES = 1 << 30
PATIENCE_S = 400.0


def machine(name: str, firmware: str, disks: tuple[str, ...], nics: tuple[str, ...]) -> Machine:
    """Disks as BUS or BUS:SECTOR; the first card is the one that reaches the depot."""
    number = sum(name.encode()) % 256
    return Machine(
        name=name,
        firmware=firmware,
        disks=tuple(
            Disk(bus, SIZE_BYTES, serial=f"{bus.upper()[:10]}-{place}", sector_bytes=int(sector or 512))
            for place, (bus, _, sector) in enumerate(disk.partition(":") for disk in disks)
        ),
        nics=tuple(Nic(model, f"52:54:00:fa:{number:02x}:{place:02x}") for place, model in enumerate(nics)),
        memory_mib=768,
        smbios=Smbios("Virtual Hardware Inc.", name, f"VM-{number:03d}", str(uuid5(NAMESPACE_DNS, name))),
    )


# Together every bus and every card that QEMU emulates and Linux still drives.
MACHINES = tuple(
    machine(*words)
    for words in (
        ("bios-ahci-rtl8139", "bios", ("ahci", "ahci"), ("rtl8139",)),
        ("bios-ide-i82559er", "bios", ("ide",), ("i82559er",)),
        ("bios-lsi53c895a-pcnet", "bios", ("lsi53c895a",), ("pcnet",)),
        ("bios-scsi-tulip", "bios", ("am53c974", "lsi53c810"), ("e1000", "tulip", "ne2k_pci")),
        ("bios-mptsas-e1000", "bios", ("mptsas1068",), ("e1000", "e1000")),
        ("bios-usb", "bios", ("usb", "uas"), ("e1000", "usb-net")),
        ("uefi-nvme-e1000e", "uefi", ("nvme",), ("e1000e",)),
        ("uefi-nvme4k-two-cards", "uefi", ("nvme:4096", "ahci"), ("e1000e", "rtl8139")),
        ("uefi-megasas-vmxnet3", "uefi", ("megasas",), ("vmxnet3",)),
        ("uefi-megasas-gen2", "uefi", ("megasas-gen2",), ("e1000e",)),
        ("uefi-pvscsi-vmxnet3", "uefi", ("pvscsi",), ("vmxnet3",)),
        ("uefi-virtio", "uefi", ("virtio", "virtio-scsi:4096"), ("virtio-net-pci",)),
        ("uefi-secure-virtio", "uefi-secure", ("virtio",), ("virtio-net-pci",)),
        ("uefi-sdhci", "uefi", ("sdhci",), ("e1000e",)),
    )
)  # fmt: skip


def take_profiles(iso: Path, keep: Path, words: tuple[str, ...], say: Callable[[str], None]) -> list[Path]:
    """Boot the live system on each machine whose name holds one of the words (none: on all), and keep what it says."""
    chosen = [each for each in MACHINES if not words or any(word in each.name for word in words)]
    depot = keep / "depot"
    LocalDepot.init(depot)
    with serving(depot, keep) as served:
        return [take_profile(each, number, iso, keep, served, say) for number, each in enumerate(chosen, 1)]


def take_profile(
    hardware: Machine, number: int, iso: Path, keep: Path, served: Served, say: Callable[[str], None]
) -> Path:
    """``number``: of the target, which the server counts."""
    out = keep / hardware.name
    out.mkdir(parents=True, exist_ok=True)
    values = {"depot": served.url_for_machines, "token": served.agent_token, "trust": [served.trust], "task": "restore"}
    medium = configured(iso, out / "medium.iso", {**values, "on_failure": "hold"})
    with RunningMachine(replace(hardware, medium=medium), out, "profile") as vm:
        vm.console.expect("waiting for a job", timeout_s=PATIENCE_S)
        say(f"{hardware.name}: {vm.seconds():.0f} s")
    medium.unlink()
    answer = requests.get(
        f"{served.url}/api/v1/targets/{number}/profile.xml",
        headers={"Authorization": f"Bearer {served.write_token}"},
        timeout=60,
    )
    answer.raise_for_status()
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{hardware.name}.xml"
    path.write_bytes(answer.content)
    return path
