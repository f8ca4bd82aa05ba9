"""What a virtual machine of the lab consists of, and the QEMU words that make it. Values and pure functions only.

A disk is named ``BUS:SIZE`` (a blank one), or ``BUS:PATH``, then options: ``nvme:6G``, ``ahci:/tmp/a.img,serial=X``,
``virtio-scsi:4G,sector=4096``. A network card is a QEMU model: ``e1000e``, ``rtl8139,mac=52:54:00:00:00:01``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.lab.programs import LabError

NETWORK = "10.77.0.0/24"
HOST = "10.77.0.2"  # the lab's own 127.0.0.1 as machines see it
FIRST_LEASE = "10.77.0.100"
OVMF = Path("/usr/share/OVMF")

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

# bus → host adapter that carries SCSI disks
SCSI_ADAPTERS = {
    "virtio-scsi": "virtio-scsi-pci",
    "megasas": "megasas",
    "megasas-gen2": "megasas-gen2",
    "mptsas1068": "mptsas1068",
    "pvscsi": "pvscsi",
    "lsi53c895a": "lsi53c895a",
    "lsi53c810": "lsi53c810",
    "am53c974": "am53c974",
    "dc390": "dc390",
}
BUSES = ("nvme", "ahci", "ide", "virtio", "usb", "uas", "sdhci", *SCSI_ADAPTERS)
EXPRESS_NICS = ("e1000e", "vmxnet3")  # sit behind a root port, as they do on boards
CD_PORT = 5  # the last port of the chip set's AHCI


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk on a bus. ``path`` is made with ``size_bytes`` when it does not exist."""

    bus: str
    size_bytes: int = 0
    path: Path | None = None
    serial: str = ""
    sector_bytes: int = 512
    discard_writes: bool = False  # writes go to a temporary overlay


@dataclass(frozen=True, slots=True)
class Nic:
    model: str
    mac: str = ""
    network: int = -1  # 0 is the lab's; -1: by the card's place, so that the first is on it


@dataclass(frozen=True, slots=True)
class Smbios:
    vendor: str = "Regraft"
    product: str = "Lab"
    serial: str = ""
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class Forward:
    """A port of a machine, reachable on 127.0.0.1."""

    host_port: int
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class DirectBoot:
    kernel: Path
    initrd: Path
    append: str


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine's hardware."""

    name: str = "machine"
    firmware: str = "bios"  # bios, uefi, uefi-secure
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = (Nic("virtio-net-pci"),)
    memory_mib: int = 1024
    # With more, QEMU 7.2 may run a breakpoint that the kernel has taken out of its code again, as it does where it
    # switches a static key, and the kernel panics (“int3: 0000”): seen beside other load.
    # linux-kernel, July 2023: “qemu-x86_64 booting with 8.0.0 stil see int3”.
    processors: int = 1
    smbios: Smbios = field(default_factory=Smbios)
    medium: Path | None = None
    medium_kind: str = "cd"  # cd, usb
    forwards: tuple[Forward, ...] = ()
    direct: DirectBoot | None = None
    reboot_ends: bool = True  # a reboot ends the virtual machine, as a power-off does

    def without_medium(self) -> Machine:
        return replace(self, medium=None, direct=None)


# --- reading the words of a command line ----------------------------------------------------------------------------


def parse_size(text: str) -> int:
    """``6G`` → bytes."""
    match = re.fullmatch(r"(\d+)([KMGT]?)", text.upper())
    if not match:
        raise LabError(f"‘{text}’ is not a size; expected a number and K, M, G or T, such as 6G")
    return int(match[1]) * UNITS[match[2]]


def split_options(text: str, allowed: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """``word,key=value,…`` → the word and its options."""
    word, *rest = text.split(",")
    options = dict(part.partition("=")[::2] for part in rest)
    unknown = set(options) - set(allowed)
    if unknown:
        raise LabError(f"‘{text}’: unknown option {', '.join(sorted(unknown))}; known: {', '.join(allowed)}")
    return word, options


def parse_disk(text: str) -> Disk:
    word, options = split_options(text, ("serial", "sector", "snapshot"))
    bus, colon, what = word.partition(":")
    if not colon or bus not in BUSES:
        raise LabError(f"‘{text}’ is not a disk; expected BUS:SIZE or BUS:PATH with a bus of {', '.join(BUSES)}")
    is_path = "/" in what or Path(what).exists()
    return Disk(
        bus=bus,
        size_bytes=0 if is_path else parse_size(what),
        path=Path(what) if is_path else None,
        serial=options.get("serial", ""),
        sector_bytes=int(options.get("sector", "512")),
        discard_writes=options.get("snapshot", "off") == "on",
    )


def parse_nic(text: str) -> Nic:
    model, options = split_options(text, ("mac",))
    return Nic(model, options.get("mac", ""))


def parse_smbios(text: str) -> Smbios:
    _, options = split_options("," + text, ("vendor", "product", "serial", "uuid"))
    return Smbios(**options)


# --- QEMU's words ---------------------------------------------------------------------------------------------------


def disk_serial(machine: Machine, number: int) -> str:
    """Every disk has a serial: names move, serials do not. At most 20 characters (ATA, NVMe and virtio agree)."""
    return machine.disks[number].serial or f"LAB{machine.name[:8].upper().replace('-', '')}D{number}"


def nic_mac(machine: Machine, number: int) -> str:
    # The name spreads the addresses: two machines of the lab are two machines.
    return machine.nics[number].mac or f"52:54:00:{sum(machine.name.encode()) % 256:02x}:77:{number + 1:02x}"


def nic_network(machine: Machine, number: int) -> int:
    """Which network the card is on: 0 is the lab's."""
    network = machine.nics[number].network
    return number if network < 0 else network


def quoted(value: str | Path) -> str:
    """A value inside a QEMU option list: commas are doubled."""
    return str(value).replace(",", ",,")


# x86-64-v2. Emulated, programs start 1.5 times as fast on one of it as on two processors with every feature that QEMU
# knows: page tables have a level less, and nothing is flushed on another processor. update-initramfs starts 12,000.
PROCESSOR = "Nehalem"


def qemu_words(machine: Machine, disk_paths: tuple[Path, ...], nvram: Path, serial: Path, qmp: Path) -> list[str]:
    """The whole command line. ``nvram`` is used with UEFI only; ``serial`` and ``qmp`` are sockets that QEMU makes."""
    is_pc = any(disk.bus == "ide" for disk in machine.disks)
    words = [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-name", quoted(machine.name),
        "-accel", "tcg,thread=multi", "-cpu", PROCESSOR, "-smp", str(machine.processors), "-m", str(machine.memory_mib),
        "-display", "none", "-vga", "std", "-rtc", "base=utc",
        "-chardev", f"socket,id=serial,path={quoted(serial)},server=on,wait=on", "-serial", "chardev:serial",
        "-qmp", f"unix:{quoted(qmp)},server=on,wait=off",
        *firmware_words(machine.firmware, nvram, "pc" if is_pc else "q35"),
        *smbios_words(machine.smbios),
    ]  # fmt: skip
    if machine.reboot_ends:
        words.append("-no-reboot")
    if needs_usb(machine):
        words += ["-device", "qemu-xhci,id=xhci"]
    if machine.direct:
        direct = machine.direct
        words += ["-kernel", str(direct.kernel), "-initrd", str(direct.initrd), "-append", direct.append]
    words += medium_words(machine, is_pc)
    for number, path in enumerate(disk_paths):
        words += disk_words(machine, number, path)
    for number in range(len(machine.nics)):
        words += nic_words(machine, number)
    return words


def needs_usb(machine: Machine) -> bool:
    disks = any(disk.bus in ("usb", "uas") for disk in machine.disks)
    nics = any(nic.model.startswith("usb-") for nic in machine.nics)
    return disks or nics or (machine.medium is not None and machine.medium_kind == "usb")


def firmware_words(firmware: str, nvram: Path, board: str) -> list[str]:
    match firmware:
        case "bios":
            return ["-machine", board]
        case "uefi":
            code, options = OVMF / "OVMF_CODE_4M.fd", ""
        case "uefi-secure":
            code, options = OVMF / "OVMF_CODE_4M.secboot.fd", ",smm=on"
        case _:
            raise LabError(f"firmware ‘{firmware}’ is unknown; expected bios, uefi or uefi-secure")
    words = ["-machine", board + options]
    if firmware == "uefi-secure":
        words += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
    return [
        *words,
        "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}",
        "-drive", f"if=pflash,unit=1,format=raw,file={quoted(nvram)}",
    ]  # fmt: skip


def empty_nvram(firmware: str) -> Path:
    """The variable store of a machine that never ran; always copied before use."""
    return OVMF / ("OVMF_VARS_4M.ms.fd" if firmware == "uefi-secure" else "OVMF_VARS_4M.fd")


def smbios_words(smbios: Smbios) -> list[str]:
    system = {"manufacturer": smbios.vendor, "product": smbios.product, "serial": smbios.serial, "uuid": smbios.uuid}
    board = {"manufacturer": smbios.vendor, "product": smbios.product}
    words: list[str] = []
    for kind, values in ((1, system), (2, board), (3, {"manufacturer": smbios.vendor})):
        listed = ",".join(f"{key}={quoted(value)}" for key, value in values.items() if value)
        words += ["-smbios", f"type={kind},{listed}"]
    return words


def medium_words(machine: Machine, is_pc: bool) -> list[str]:
    if machine.medium is None:
        return []
    drive = ["-drive", f"id=medium,if=none,format=raw,readonly=on,file={quoted(machine.medium)}"]
    match machine.medium_kind:
        case "cd":
            port = "bus=ide.1,unit=1" if is_pc else f"bus=ide.{CD_PORT}"
            return [*drive, "-device", f"ide-cd,drive=medium,{port},bootindex=0"]
        case "usb":
            return [*drive, "-device", "usb-storage,bus=xhci.0,drive=medium,removable=on,bootindex=0"]
    raise LabError(f"medium ‘{machine.medium_kind}’ is unknown; expected cd or usb")


def disk_words(machine: Machine, number: int, path: Path) -> list[str]:
    disk = machine.disks[number]
    kind = "qcow2" if path.suffix == ".qcow2" else "raw"
    drive = f"id=disk{number},if=none,format={kind},cache=unsafe,discard=unmap,detect-zeroes=off,file={quoted(path)}"
    if disk.discard_writes:
        drive += ",snapshot=on"
    return ["-drive", drive, *disk_device_words(disk, number, disk_serial(machine, number))]


def disk_device_words(disk: Disk, number: int, serial: str) -> list[str]:
    """The disk, and the adapter it hangs on."""
    common = f"drive=disk{number},bootindex={number + 1},serial={quoted(serial)}"
    if disk.sector_bytes != 512:
        if disk.bus in ("ahci", "ide", "sdhci"):
            raise LabError(f"QEMU's {disk.bus} disks have 512 byte sectors only, not {disk.sector_bytes}")
        common += f",logical_block_size={disk.sector_bytes},physical_block_size={disk.sector_bytes}"
    match disk.bus:
        case "nvme":
            return ["-device", f"nvme,{common}"]
        case "virtio":
            return ["-device", f"virtio-blk-pci,{common}"]
        case "ahci":
            return ["-device", f"ide-hd,bus=ide.{number},{common}"]
        case "ide":
            return ["-device", f"ide-hd,bus=ide.{number // 2},unit={number % 2},{common}"]
        case "usb":
            return ["-device", f"usb-storage,bus=xhci.0,{common}"]
        case "uas":
            return ["-device", f"usb-uas,bus=xhci.0,id=adapter{number}",
                    "-device", f"scsi-hd,bus=adapter{number}.0,{common}"]  # fmt: skip
        case "sdhci":  # an SD card has no settable serial; its boot index belongs to the controller
            return ["-device", "sdhci-pci", "-device", f"sd-card,drive=disk{number}"]
    # mptsas1068 only finds disks that have a world wide name.
    name = f",wwn={0x5000C50077000000 + number}" if disk.bus == "mptsas1068" else ""
    return ["-device", f"{SCSI_ADAPTERS[disk.bus]},id=adapter{number}",
            "-device", f"scsi-hd,bus=adapter{number}.0,{common}{name}"]  # fmt: skip


def nic_words(machine: Machine, number: int) -> list[str]:
    """One card is on the lab's network; others on networks of their own, which lead nowhere."""
    nic = machine.nics[number]
    network = nic_network(machine, number)
    if network == 0:
        backend = f"user,id=net{number},net={NETWORK},host={HOST},dhcpstart={FIRST_LEASE}"
        for forward in machine.forwards:
            backend += f",hostfwd=tcp:127.0.0.1:{forward.host_port}-{forward.address}:{forward.port}"
    else:
        backend = f"user,id=net{number},net=10.77.{network}.0/24,restrict=on"
    device = f"{nic.model},netdev=net{number},mac={nic_mac(machine, number)}"
    if nic.model.startswith("usb-"):
        return ["-netdev", backend, "-device", f"{device},bus=xhci.0"]
    if nic.model in EXPRESS_NICS and not any(disk.bus == "ide" for disk in machine.disks):
        port = ["-device", f"pcie-root-port,id=port{number},chassis={number + 1}"]
        return ["-netdev", backend, *port, "-device", f"{device},bus=port{number}"]
    return ["-netdev", backend, "-device", device]
