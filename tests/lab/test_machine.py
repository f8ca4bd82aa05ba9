"""The lab's words for hardware, and that QEMU understands every one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.__main__ import lab
from tests.lab.machine import (
    BUSES,
    Disk,
    Forward,
    Machine,
    Nic,
    Smbios,
    disk_serial,
    parse_disk,
    parse_nic,
    parse_size,
    parse_smbios,
    qemu_words,
)
from tests.lab.programs import LabError
from tests.lab.running import RunningMachine, plain_text
from tests.lab.serving import REPOSITORY

NICS = ("virtio-net-pci", "e1000", "e1000e", "rtl8139", "vmxnet3", "pcnet", "ne2k_pci", "i82559er", "tulip", "usb-net")


def words_of(machine: Machine) -> str:
    paths = tuple(disk.path or Path(f"/out/{number}.img") for number, disk in enumerate(machine.disks))
    return " ".join(qemu_words(machine, paths, Path("/out/nvram.fd"), Path("/s/serial"), Path("/s/qmp")))


@pytest.mark.parametrize(("text", "size"), [("6G", 6 << 30), ("512m", 512 << 20), ("4096", 4096), ("1T", 1 << 40)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["6GiB", "", "G", "-1G", "1.5G"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(LabError, match="is not a size"):
        parse_size(text)


def test_disks_are_blank_or_files() -> None:
    assert parse_disk("nvme:6G") == Disk("nvme", 6 << 30)
    assert parse_disk("virtio-scsi:4G,sector=4096,serial=X") == Disk("virtio-scsi", 4 << 30, None, "X", 4096)
    assert parse_disk("ahci:/tmp/a.img,snapshot=on") == Disk("ahci", 0, Path("/tmp/a.img"), discard_writes=True)


@pytest.mark.parametrize("text", ["floppy:1G", "nvme", "nvme:6G,colour=red"])
def test_what_is_not_a_disk_is_refused(text: str) -> None:
    with pytest.raises(LabError, match=r"is not a disk|unknown option"):
        parse_disk(text)


def test_cards_and_smbios() -> None:
    assert parse_nic("rtl8139,mac=52:54:00:00:00:07") == Nic("rtl8139", "52:54:00:00:00:07")
    assert parse_smbios("vendor=Dell Inc.,product=R640") == Smbios("Dell Inc.", "R640")


def test_every_disk_has_a_serial_of_its_own() -> None:
    machine = Machine(disks=(Disk("nvme", 1 << 30), Disk("nvme", 1 << 30), Disk("nvme", 1 << 30, serial="MINE")))
    serials = [disk_serial(machine, number) for number in range(3)]
    assert len(set(serials)) == 3
    assert serials[2] == "MINE"
    assert all(len(serial) <= 20 for serial in serials)


def test_the_command_line_of_a_uefi_machine() -> None:
    machine = Machine(
        firmware="uefi",
        disks=(Disk("nvme", 6 << 30, serial="N1"),),
        nics=(Nic("e1000e"), Nic("rtl8139")),
        smbios=Smbios("A, B and C", "X"),
        medium=Path("/out/pe.iso"),
        forwards=(Forward(2222, "10.77.0.50", 22),),
    )
    words = words_of(machine)
    assert "if=pflash,unit=1,format=raw,file=/out/nvram.fd" in words
    assert "-device nvme,drive=disk0,bootindex=1,serial=N1" in words
    assert "manufacturer=A,, B and C" in words
    assert "hostfwd=tcp:127.0.0.1:2222-10.77.0.50:22" in words
    assert "ide-cd,drive=medium,bus=ide.5,bootindex=0" in words
    assert "-netdev user,id=net1,net=10.77.1.0/24,restrict=on" in words


def test_the_same_machine_without_its_medium() -> None:
    machine = Machine(disks=(Disk("nvme", 6 << 30),), medium=Path("/out/pe.iso"))
    assert "pe.iso" not in words_of(machine.without_medium())


def test_sector_sizes_that_do_not_exist_are_refused() -> None:
    with pytest.raises(LabError, match="512 byte sectors only"):
        words_of(Machine(disks=(Disk("ahci", 1 << 30, sector_bytes=4096),)))


def test_terminal_controls_are_taken_out() -> None:
    assert plain_text("\x1b[1;31mred\x1b[0m\r\n\x1b(Bplain") == "red\nplain"


@pytest.mark.machine
@pytest.mark.parametrize("bus", BUSES)
def test_qemu_knows_every_bus(bus: str, tmp_path: Path) -> None:
    machine = Machine(disks=(Disk(bus, 64 << 20),), nics=(Nic("e1000e"),), memory_mib=64)
    with RunningMachine(machine, tmp_path) as vm:
        devices = vm.qmp("query-block")
    assert any(device["device"] == "disk0" for device in devices)


@pytest.mark.machine
@pytest.mark.parametrize("model", NICS)
def test_qemu_knows_every_card(model: str, tmp_path: Path) -> None:
    with RunningMachine(Machine(nics=(Nic(model), Nic(model)), memory_mib=64), tmp_path) as vm:
        assert vm.qmp("query-status")["running"]


@pytest.mark.machine
def test_the_lab_ends_what_it_started(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="was not seen"), RunningMachine(Machine(memory_mib=64), tmp_path) as vm:
        vm.console.expect("never said", timeout_s=2)
    assert vm.process.poll() is not None


@pytest.mark.machine
def test_qemu_says_why_it_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no-such-card"), RunningMachine(Machine(nics=(Nic("no-such-card"),)), tmp_path):
        pass


def test_what_make_demo_calls_is_there() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    assert "-m tests.lab demo" in makefile
    assert "demo" in lab.commands
