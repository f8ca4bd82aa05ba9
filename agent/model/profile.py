"""What a machine is.

    probe ──► Profile ──► profile_xml ──► depot
                 │
                 └── compared with another Profile ──► Difference

A profile is known by (machine, time). Every section says how much of it was collected, so that "not
collected" is never read as "removed". Sizes are bytes. No secrets: identities are digests.
Stable keys: device ``bus:vendor:device:subvendor:subdevice:class#n``; NIC its permanent MAC; partition its
PARTUUID; package name and architecture.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from agent.model.storage import NO_STACK, ChainLink, Disk, Stack


class Status(StrEnum):
    COMPLETE = "complete"
    PARTIAL = "partial"
    UNAVAILABLE = "unavailable"


class Firmware(StrEnum):
    BIOS = "bios"
    UEFI = "uefi"
    UNKNOWN = "unknown"


class Role(StrEnum):
    """What a device is for."""

    STORAGE = "storage"
    NIC = "nic"
    DISPLAY = "display"
    INPUT = "input"
    SENSOR = "sensor"
    PLATFORM = "platform"
    OTHER = "other"


SECTIONS = ("platform", "devices", "storage", "network", "os", "software", "services", "hw-config", "identity")


@dataclass(frozen=True, slots=True)
class Section:
    """How much of one section (one of SECTIONS) was collected, and why not all of it."""

    name: str
    status: Status
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Platform:
    """Board, firmware, processor. Empty strings where the machine says nothing."""

    architecture: str = "x86_64"
    virtualization: str = "none"  # none, kvm, qemu, vmware, oracle, microsoft, xen, … as systemd-detect-virt names it
    firmware: Firmware = Firmware.UNKNOWN
    secure_boot: str = "unknown"  # on, off, unknown
    tpm: str = "none"  # none, 1.2, 2.0
    firmware_disks: int = -1  # that the firmware could read when the live system started; -1: it was not asked
    system_vendor: str = ""
    product_name: str = ""
    product_version: str = ""
    board_vendor: str = ""
    board_name: str = ""
    firmware_vendor: str = ""
    firmware_version: str = ""
    cpu_vendor: str = ""  # GenuineIntel, AuthenticAMD, …
    cpu_model: str = ""
    cpu_level: int = 1  # x86-64-v1 … v4, System V ABI AMD64 supplement, micro-architecture levels
    cpu_count: int = 1
    memory_bytes: int = 0
    # What tells one machine from another; placeholders as the firmware gives them, judged by machine_match.
    system_uuid: str = ""
    system_serial: str = ""
    board_serial: str = ""
    asset_tag: str = ""


@dataclass(frozen=True, slots=True)
class Device:
    """A device on a bus. ``address`` is its place (evidence, never part of a key)."""

    key: str
    bus: str  # pci, usb, virtio, vmbus, acpi, scsi, nvme, other
    address: str
    modalias: str
    class_code: str = ""
    role: Role = Role.OTHER
    driver: str = ""  # module name of the bound driver, dashes folded to underscores; "" when none
    label: str = ""  # human name: vendor and product


@dataclass(frozen=True, slots=True)
class Address:
    cidr: str
    origin: str = "static"  # static, dhcp, link


@dataclass(frozen=True, slots=True)
class Nic:
    mac: str  # permanent address, lower case
    name: str
    address: str = ""  # bus address: 0000:00:03.0
    driver: str = ""
    link: str = "unknown"  # up, down, unknown
    speed_mbps: int = 0
    addresses: tuple[Address, ...] = ()
    device_key: str = ""
    chain: tuple[ChainLink, ...] = ()


@dataclass(frozen=True, slots=True)
class Made:
    """An interface that software makes (bond, bridge, VLAN, …), and what it stands on."""

    name: str
    of: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Assigned:
    """A static address and the interface that a file gives it to."""

    interface: str
    cidr: str


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """One file that configures interfaces."""

    backend: str  # ifupdown, netplan, networkd, nm, ifcfg, wicked, cloud-init, udev
    path: str
    interfaces: tuple[str, ...] = ()  # names it configures
    macs: tuple[str, ...] = ()  # MAC addresses it binds to
    addresses: tuple[str, ...] = ()  # static addresses, cidr
    made: tuple[Made, ...] = ()  # interfaces that it makes of others
    sets_macs: tuple[str, ...] = ()  # MAC addresses that it gives to interfaces
    match_paths: tuple[str, ...] = ()  # slots it binds to, as udev's ID_PATH: pci-0000:00:03.0
    match_drivers: tuple[str, ...] = ()  # drivers it binds to
    assigned: tuple[Assigned, ...] = ()  # of a file about several interfaces: whose its addresses are


@dataclass(frozen=True, slots=True)
class Lease:
    """The last address that an interface was given, as a DHCP client keeps it."""

    interface: str
    cidr: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class Network:
    nics: tuple[Nic, ...] = ()
    configs: tuple[NetworkConfig, ...] = ()
    leases: tuple[Lease, ...] = ()


@dataclass(frozen=True, slots=True)
class Kernel:
    """An installed kernel of the system."""

    release: str  # 6.1.0-40-cloud-amd64: the name below /lib/modules
    flavour: str = ""  # cloud-amd64, amd64, generic, …
    package: str = ""
    image: str = ""  # /boot/vmlinuz-…
    initrd: str = ""  # "" when there is none
    default: bool = False


@dataclass(frozen=True, slots=True)
class OperatingSystem:
    id: str = ""  # os-release ID
    version: str = ""
    codename: str = ""
    name: str = ""  # PRETTY_NAME
    package_format: str = "other"  # deb, rpm, other
    loader: str = ""  # grub2, systemd-boot, other, ""
    loader_packages: tuple[str, ...] = ()
    fallback_efi: bool = False  # EFI/BOOT/BOOTX64.EFI is there
    cmdline: str = ""  # kernel command line as the loader gives it (live: /proc/cmdline)
    initrd_tool: str = ""  # initramfs-tools, dracut, mkinitcpio, ""
    kernels: tuple[Kernel, ...] = ()


@dataclass(frozen=True, slots=True)
class Package:
    name: str
    architecture: str
    version: str


@dataclass(frozen=True, slots=True)
class Unit:
    name: str
    state: str  # enabled, disabled, static, masked, generated


@dataclass(frozen=True, slots=True)
class Mention:
    """Something bound to hardware that a configuration file names."""

    kind: str  # interface, mac, uuid, partuuid, label, device-path, disk-id, pci, module
    text: str
    line: int = 0


@dataclass(frozen=True, slots=True)
class ConfigFile:
    path: str
    sha256: str
    mentions: tuple[Mention, ...] = ()


@dataclass(frozen=True, slots=True)
class IdentityItem:
    name: str  # machine-id, ssh-host-key:/etc/ssh/ssh_host_ed25519_key.pub, …
    digest: str


@dataclass(frozen=True, slots=True)
class Profile:
    machine: str  # name in the depot
    time: str  # 2026-11-23T20:41:40Z
    tool: str = ""  # program and version that made it
    sections: tuple[Section, ...] = ()
    platform: Platform = field(default_factory=Platform)
    devices: tuple[Device, ...] = ()
    disks: tuple[Disk, ...] = ()
    stack: Stack = NO_STACK
    network: Network = field(default_factory=Network)
    os: OperatingSystem = field(default_factory=OperatingSystem)
    packages: tuple[Package, ...] = ()
    units: tuple[Unit, ...] = ()
    config_files: tuple[ConfigFile, ...] = ()
    hostname: str = ""
    identity: tuple[IdentityItem, ...] = ()

    def status(self, section: str) -> Status:
        """How much of ``section`` was collected; a section that is not listed was not."""
        return next((s.status for s in self.sections if s.name == section), Status.UNAVAILABLE)
