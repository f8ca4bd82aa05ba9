"""Board, processor and devices, from the files that a kernel would show."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.model.profile import Firmware, Nic, Role
from agent.probe.hardware import (
    cpu_level,
    describe,
    firmware_disks,
    memory_bytes,
    natural,
    read_devices,
    read_platform,
)
from agent.probe.network import Links, origin, read_nics, system_name
from tests.probe.machine_tree import MachineTree

V2 = "fpu sse sse2 pni cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3"
V3 = f"{V2} abm avx avx2 bmi1 bmi2 f16c fma movbe xsave"


def test_levels_of_processors() -> None:
    assert cpu_level("fpu sse sse2".split()) == 1  # noqa: SIM905
    assert cpu_level(V2.split()) == 2
    assert cpu_level(V3.split()) == 3
    assert cpu_level(f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl".split()) == 4
    # AVX-512 without MOVBE, as a hypervisor may mask it, is level 2.
    assert cpu_level(f"{V3.replace('movbe ', '')} avx512f avx512bw avx512cd avx512dq avx512vl".split()) == 2


def test_a_platform(tmp_path: Path) -> None:
    machine = MachineTree(tmp_path)
    dmi = {"sys_vendor": "Dell Inc.", "product_name": "OptiPlex 7090", "product_serial": "8XK2R93\n",
           "product_uuid": "4C4C4544-0038-4B10-8032-B8C04F523933\n", "bios_vendor": "Dell Inc."}  # fmt: skip
    for name, text in dmi.items():
        machine.text(f"sys/class/dmi/id/{name}", text)
    machine.text("sys/firmware/efi/fw_platform_size", "64")
    name = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    machine.text(f"sys/firmware/efi/efivars/{name}", b"\6\0\0\0\1")
    machine.text("sys/class/tpm/tpm0/tpm_version_major", "2\n")
    machine.text("proc/meminfo", "MemTotal:        1028512 kB\nMemFree: 1 kB\n")
    cpu = f"processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Core\nflags\t\t: {V3}\n\n"
    machine.text("proc/cpuinfo", cpu + cpu.replace(": 0", ": 1"))
    found = read_platform(tmp_path)
    assert (found.firmware, found.secure_boot, found.tpm) == (Firmware.UEFI, "on", "2.0")
    assert (found.system_vendor, found.system_serial) == ("Dell Inc.", "8XK2R93")
    assert found.system_uuid == "4c4c4544-0038-4b10-8032-b8c04f523933"
    assert (found.cpu_vendor, found.cpu_level, found.cpu_count) == ("GenuineIntel", 3, 2)
    assert (found.memory_bytes, found.virtualization, found.board_name) == (1028512 << 10, "none", "")


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"sys/class/dmi/id/sys_vendor": "QEMU"}, "qemu"),
        ({"sys/class/dmi/id/product_name": "VMware Virtual Platform"}, "vmware"),
        ({"sys/class/dmi/id/sys_vendor": "innotek GmbH"}, "oracle"),
        ({"sys/class/dmi/id/sys_vendor": "Microsoft Corporation", "sys/class/dmi/id/product_name": "Virtual Machine"},
         "microsoft"),
        ({"sys/class/dmi/id/sys_vendor": "Microsoft Corporation", "sys/class/dmi/id/product_name": "Surface"}, "none"),
        ({"sys/class/dmi/id/sys_vendor": "Contoso", "sys/bus/acpi/devices/QEMU0002:00/hid": "x"}, "qemu"),
        ({"sys/hypervisor/type": "xen"}, "xen"),
        ({"proc/cpuinfo": "flags : fpu hypervisor"}, "vm-other"),
        ({}, "none"),
    ],
)  # fmt: skip
def test_hypervisors(tmp_path: Path, files: dict[str, str], name: str) -> None:
    machine = MachineTree(tmp_path)
    for path, text in files.items():
        machine.text(path, text)
    assert read_platform(tmp_path).virtualization == name


@pytest.mark.parametrize(
    ("cmdline", "count"),
    [
        ("quiet firmware_disks=none regraft.task=hold", 0),
        ("quiet firmware_disks=:hd0", 1),
        ("firmware_disks=:hd1:hd2 quiet", 2),
        ("quiet firmware_disks= x", -1),  # a GRUB that could not count
        ("root=UUID=1 quiet", -1),  # not the medium's menu: the network, or a system that runs
    ],
)
def test_disks_that_the_firmware_reads(cmdline: str, count: int) -> None:
    assert firmware_disks(cmdline) == count


def test_memory_that_is_not_told() -> None:
    assert memory_bytes("") == 0


@pytest.mark.parametrize(
    ("modalias", "key", "role"),
    [
        ("pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00", "pci:8086:10d3:8086:0000:020000", Role.NIC),
        ("pci:v00001000d0000005Dsv00001028sd00001F42bc01sc04i00", "pci:1000:005d:1028:1f42:010400", Role.STORAGE),
        ("pci:v00008086d0000A36Dsv00001462sd00007B17bc0Csc03i30", "pci:8086:a36d:1462:7b17:0c0330", Role.OTHER),
        ("pci:v00001077d00002261sv0sd0bc0Csc04i00", "x:pci:v00001077d00002261sv0sd0bc0Csc04i00", Role.OTHER),
        ("usb:v046DpC52Bd1201dc00dsc00dp00ic03isc01ip01in00", "usb:046d:c52b:::030101", Role.INPUT),
        ("usb:v0781p5581d0100dc00dsc00dp00ic08isc06ip50in00", "usb:0781:5581:::080650", Role.STORAGE),
        ("virtio:d00000001v00001AF4", "virtio:1af4:0001:::", Role.NIC),
        ("virtio:d00000002v00001AF4", "virtio:1af4:0002:::", Role.STORAGE),
        ("scsi:t-0x00", "scsi:::::0x00", Role.STORAGE),
        ("scsi:t-0x05", "scsi:::::0x05", Role.OTHER),
        ("acpi:PNP0303:", "acpi::PNP0303:::", Role.INPUT),
        ("acpi:PNP0A08:PNP0A03:", "acpi::PNP0A08+PNP0A03:::", Role.PLATFORM),
    ],
)
def test_keys_and_roles(modalias: str, key: str, role: Role) -> None:
    found, _, found_role = describe("x", modalias)
    assert (found, found_role) == (key, role)


def test_devices_are_counted_in_order_of_place(tmp_path: Path) -> None:
    machine = MachineTree(tmp_path)
    card = "pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00"
    for slot in ("0a", "02"):
        machine.device(f"pci0000:00/0000:00:{slot}.0", modalias=f"{card}\n", driver="e1000e", subsystem="bus/pci")
    # The second of a card with virtual functions is the same card; input devices are not on a bus of their own.
    machine.device("pci0000:00/0000:00:0b.0", modalias=card, physfn="", subsystem="bus/pci")
    machine.device("pci0000:00/input/input3", modalias="input:b0003", subsystem="class/input")
    machine.device("ssb0:0", uevent="DRIVER=b44\nMODALIAS=ssb:v4243id0806rev04\n", subsystem="bus/ssb")
    machine.device("virtual/dmi/id", modalias="dmi:bvnDell")
    found = read_devices(tmp_path)
    assert [(device.key, device.address, device.bus, device.driver) for device in found.devices] == [
        ("pci:8086:10d3:8086:0000:020000#1", "0000:00:02.0", "pci", "e1000e"),
        ("pci:8086:10d3:8086:0000:020000#2", "0000:00:0a.0", "pci", "e1000e"),
        ("other:ssb:v4243id0806rev04#1", "ssb0:0", "other", ""),
    ]


@pytest.mark.parametrize(
    ("driver", "module", "expected"),
    [("ahci", "ahci", "ahci"), ("sd", "", "sd_mod"), ("mmcblk", "", "mmc_block"), ("e1000-x", "e1000_x", "e1000_x")],
)
def test_a_driver_is_told_by_its_module(tmp_path: Path, driver: str, module: str, expected: str) -> None:
    """Some are called otherwise, and those that are built in name no module."""
    MachineTree(tmp_path).device("x/y", driver=driver, module=module, modalias="x:y", subsystem="bus/x")
    assert [device.driver for device in read_devices(tmp_path).devices] == [expected]


def test_order_of_names() -> None:
    assert sorted(["sdb", "sda10", "sda2", "sda"], key=natural) == ["sda", "sda2", "sda10", "sdb"]


# --- network cards --------------------------------------------------------------------------------------------------


def test_cards_in_the_order_of_the_buses(tmp_path: Path) -> None:
    machine = MachineTree(tmp_path)
    first = machine.device("pci0000:00/0000:00:02.0", modalias="pci:v1", driver="e1000e", subsystem="bus/pci")
    second = machine.device("pci0000:00/0000:00:1f.6", modalias="pci:v2", driver="igb", subsystem="bus/pci")
    for name, device, mac in (("eth1", first, "52:54:00:00:00:01"), ("eth0", second, "52:54:00:00:00:02")):
        machine.text(f"sys/class/net/{name}/type", "1")
        machine.text(f"sys/class/net/{name}/address", mac)
        machine.text(f"sys/class/net/{name}/carrier", "1")
        machine.text(f"sys/class/net/{name}/speed", "-1")
        machine.link(f"sys/class/net/{name}/device", str(device))
    machine.text("sys/class/net/br0/type", "1")
    links = Links({"eth1": "00:11:22:33:44:56", "eth0": "00:00:00:00:00:00"}, {})
    one, other = read_nics(read_devices(tmp_path), links, tmp_path)
    assert (one.name, one.mac, one.driver, one.address) == ("eth1", "00:11:22:33:44:56", "e1000e", "0000:00:02.0")
    assert (other.mac, other.link, other.speed_mbps) == ("52:54:00:00:00:02", "up", 0)
    assert (one.device_key, other.device_key) == ("pci:pci:v1#1", "pci:pci:v2#1")
    assert [link.modalias for link in one.chain] == ["pci:v1"]


@pytest.mark.parametrize(
    ("address", "lifetime", "said"),
    [("192.0.2.1", 0xFFFFFFFF, "static"), ("192.0.2.1", 3600, "dhcp"), ("fe80::1", 0xFFFFFFFF, "link"),
     ("169.254.3.4", 0xFFFFFFFF, "link"), ("2001:db8::1", 86400, "dhcp")],
)  # fmt: skip
def test_where_addresses_come_from(address: str, lifetime: int, said: str) -> None:
    assert origin(address, lifetime) == said


def test_names_that_another_system_gives() -> None:
    nic = Nic("52:54:00:00:00:01", "eth0")
    udev = {"ID_NET_NAME_PATH": "enp0s3", "ID_NET_NAME_SLOT": "ens3", "ID_NET_NAME_MAC": "enx525400000001"}
    assert system_name(nic, udev, {"enp0s3"}, {}, False) == "enp0s3"
    assert system_name(nic, udev, {"lan0"}, {}, False) == "ens3"
    assert system_name(nic, udev, {"lan0"}, {"52:54:00:00:00:01": "lan0"}, False) == "lan0"
    assert system_name(nic, udev, {"eth0"}, {}, True) == "eth0"
    assert system_name(nic, {}, {"ens3"}, {}, False) == "eth0"
