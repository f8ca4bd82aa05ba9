"""Board, firmware, processor, and every device that a driver can be asked for."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.model.profile import Device, Firmware, Platform, Role
from agent.model.storage import ChainLink
from agent.probe.kernel_files import link_name, names_in, text_of, uevent_value
from agent.probe.pci_ids import PciNames
from agent.probe.udev import UdevDatabase

# System V ABI, AMD64 supplement: what each micro-architecture level adds, by the names of /proc/cpuinfo
# (pni is SSE3, abm stands for LZCNT).
LEVELS = (
    (2, frozenset({"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"})),
    (3, frozenset({"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"})),
    (4, frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})),
)
# What hypervisors write into SMBIOS, and the names that systemd-detect-virt has for them.
VIRTUAL_MACHINES = (
    ("KVM", "kvm"), ("OpenStack", "kvm"), ("KubeVirt", "kvm"), ("QEMU", "qemu"), ("Amazon EC2", "amazon"),
    ("Google Compute Engine", "google"), ("VMware", "vmware"), ("VMW", "vmware"), ("innotek GmbH", "oracle"),
    ("VirtualBox", "oracle"), ("Xen", "xen"), ("Bochs", "bochs"), ("Parallels", "parallels"), ("BHYVE", "bhyve"),
    ("Hyper-V", "microsoft"), ("Apple Virtualization", "apple"),
)  # fmt: skip
SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
BUSES = frozenset({"pci", "usb", "virtio", "vmbus", "acpi", "scsi", "nvme"})
# Drivers that are called otherwise than the module they are in, for when they are built in.
MODULE_OF_DRIVER = {"sd": "sd_mod", "sr": "sr_mod", "st": "st", "ses": "ses", "mmcblk": "mmc_block"}

PCI = re.compile(r"pci:v(\w{8})d(\w{8})sv(\w{8})sd(\w{8})bc(\w\w)sc(\w\w)i(\w\w)")
USB = re.compile(r"usb:v(\w{4})p(\w{4})d\w+dc\w\wdsc\w\wdp\w\wic(\w\w)isc(\w\w)ip(\w\w)")
PCI_ADDRESS = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
VIRTIO = re.compile(r"virtio:d(\w{8})v(\w{8})")

PCI_ROLES = {
    "01": Role.STORAGE, "02": Role.NIC, "03": Role.DISPLAY, "05": Role.PLATFORM, "06": Role.PLATFORM,
    "08": Role.PLATFORM, "09": Role.INPUT, "0b": Role.PLATFORM, "0d": Role.NIC, "0c04": Role.STORAGE,
    "0c05": Role.PLATFORM, "0c06": Role.NIC, "0d11": Role.OTHER,
}  # fmt: skip
USB_ROLES = {"03": Role.INPUT, "08": Role.STORAGE, "0206": Role.NIC, "020d": Role.NIC}
VIRTIO_ROLES = {
    1: Role.NIC, 2: Role.STORAGE, 5: Role.PLATFORM, 8: Role.STORAGE, 16: Role.DISPLAY, 18: Role.INPUT,
}  # fmt: skip
VMBUS_ROLES = {
    "hv_netvsc": Role.NIC, "hv_storvsc": Role.STORAGE, "hyperv_fb": Role.DISPLAY, "hyperv_drm": Role.DISPLAY,
    "hyperv_keyboard": Role.INPUT, "hid_hyperv": Role.INPUT,
}  # fmt: skip


# --- board, firmware, processor -------------------------------------------------------------------------------------


def read_platform(root: Path = Path("/")) -> Platform:
    dmi = root / "sys/class/dmi/id"
    cpu = text_of(root / "proc/cpuinfo")
    return Platform(
        architecture=os.uname().machine,
        virtualization=virtualization(root, cpu),
        firmware=firmware(root),
        secure_boot=secure_boot(root),
        tpm=tpm(root),
        firmware_disks=firmware_disks(text_of(root / "proc/cmdline")),
        system_vendor=text_of(dmi / "sys_vendor"),
        product_name=text_of(dmi / "product_name"),
        product_version=text_of(dmi / "product_version"),
        board_vendor=text_of(dmi / "board_vendor"),
        board_name=text_of(dmi / "board_name"),
        firmware_vendor=text_of(dmi / "bios_vendor"),
        firmware_version=text_of(dmi / "bios_version"),
        cpu_vendor=_cpu_value(cpu, "vendor_id"),
        cpu_model=_cpu_value(cpu, "model name"),
        cpu_level=cpu_level(_cpu_value(cpu, "flags").split()),
        cpu_count=max(1, len(re.findall(r"^processor\s*:", cpu, re.MULTILINE))),
        memory_bytes=memory_bytes(text_of(root / "proc/meminfo")),
        system_uuid=text_of(dmi / "product_uuid").lower(),
        system_serial=text_of(dmi / "product_serial"),
        board_serial=text_of(dmi / "board_serial"),
        asset_tag=text_of(dmi / "chassis_asset_tag"),
    )


def cpu_level(flags: list[str]) -> int:
    """x86-64 micro-architecture level: 1 … 4; 1 for other processors."""
    level = 1
    for number, needed in LEVELS:
        if not needed <= set(flags):
            break
        level = number
    return level


def memory_bytes(meminfo: str) -> int:
    found = re.search(r"^MemTotal:\s+(\d+) kB", meminfo, re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def firmware(root: Path) -> Firmware:
    """UEFI shows itself; everything else is only known to be a BIOS where there is no third."""
    if (root / "sys/firmware/efi").is_dir():
        return Firmware.UEFI
    return Firmware.BIOS if os.uname().machine in ("x86_64", "i686") else Firmware.UNKNOWN


def secure_boot(root: Path) -> str:
    if firmware(root) is Firmware.BIOS:
        return "off"
    try:
        variable = (root / SECURE_BOOT).read_bytes()
    except OSError:
        return "unknown"
    # Four bytes of attributes, then the value (UEFI 2.10, section 8.2; the kernel's efivarfs.rst)
    return {b"\1": "on", b"\0": "off"}.get(variable[4:5], "unknown")


def firmware_disks(cmdline: str) -> int:
    """How many disks the firmware could read, beside the medium, when that started; -1 where its loader did not say.

    ``firmware_disks=hd0:hd1`` or ``=none``, of the medium's boot menu (pe_build/overlay/grub.cfg).
    """
    word = next((word for word in cmdline.split() if word.startswith("firmware_disks=")), "")
    names = [name for name in word.partition("=")[2].split(":") if name]
    if not names:
        return -1
    return 0 if names == ["none"] else len(names)


def tpm(root: Path) -> str:
    chip = root / "sys/class/tpm/tpm0"
    if not chip.is_dir():
        return "none"
    return "2.0" if text_of(chip / "tpm_version_major") == "2" else "1.2"


def virtualization(root: Path, cpuinfo: str) -> str:
    """As systemd-detect-virt names it; "vm-other" when only the processor tells that there is a hypervisor."""
    dmi = root / "sys/class/dmi/id"
    for name in ("product_name", "sys_vendor", "board_vendor", "bios_vendor", "product_version"):
        said = text_of(dmi / name)
        for mark, hypervisor in VIRTUAL_MACHINES:
            if said.startswith(mark):
                return hypervisor
    if (text_of(dmi / "sys_vendor"), text_of(dmi / "product_name")) == ("Microsoft Corporation", "Virtual Machine"):
        return "microsoft"
    if (root / "sys/hypervisor/type").is_file():
        return "xen"
    # A machine that QEMU dresses up as another one still has its configuration device.
    if any(name.startswith("QEMU0002") for name in names_in(root / "sys/bus/acpi/devices")):
        return "qemu"
    return "vm-other" if "hypervisor" in _cpu_value(cpuinfo, "flags").split() else "none"


def _cpu_value(cpuinfo: str, key: str) -> str:
    found = re.search(rf"^{key}\s*:[ \t]*(.*)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else ""


# --- devices --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Inventory:
    """Devices, and which directory of sysfs each one is."""

    devices: tuple[Device, ...]
    keys: dict[Path, str]


def read_devices(root: Path = Path("/"), udev: UdevDatabase | None = None) -> Inventory:
    """Every device that has a module alias, in order of place; virtual functions of a card count as their card."""
    udev = udev or UdevDatabase(None)
    listed = PciNames(root)
    top = (root / "sys/devices").resolve()
    counted: Counter[str] = Counter()
    devices: list[Device] = []
    keys: dict[Path, str] = {}
    for path, modalias in sorted(_aliased(top), key=lambda found: bus_order(found[0])):
        # Input devices are what a driver made of a keyboard that is listed already.
        if (path / "physfn").exists() or link_name(path / "subsystem") == "input":
            continue
        bus = bus_of(path)
        driver = driver_of(path)
        kind, class_code, role = describe(bus, modalias, driver)
        counted[kind] += 1
        key = f"{kind}#{counted[kind]}"
        keys[path] = key
        devices.append(
            Device(key, bus, path.name, modalias, class_code, role, driver, label_of(path, modalias, udev, listed))
        )
    return Inventory(tuple(devices), keys)


def _aliased(top: Path) -> Iterator[tuple[Path, str]]:
    for folder, below, names in os.walk(top):
        path = Path(folder)
        if path == top:
            # Not on any bus: the board as a whole with its firmware's date, and the processor.
            below[:] = [name for name in below if name not in ("virtual", "system")]
        # Power, tracing and queues of devices are no devices, and there are thousands of them.
        below[:] = [name for name in below if name not in ("power", "trace", "queue", "mq", "msi_irqs", "statistics")]
        if "uevent" in names or "modalias" in names:
            modalias = modalias_of(path)
            if modalias:
                yield path, modalias


def modalias_of(device: Path) -> str:
    return text_of(device / "modalias") or uevent_value(device, "MODALIAS")


def bus_of(device: Path) -> str:
    subsystem = link_name(device / "subsystem")
    return subsystem if subsystem in BUSES else "other"


def driver_of(device: Path) -> str:
    """Module name of the bound driver; a built-in one is called by its own name."""
    driver = link_name(device / "driver")
    module = link_name(device / "driver/module")
    return (module or MODULE_OF_DRIVER.get(driver, driver)).replace("-", "_")


def describe(bus: str, modalias: str, driver: str = "") -> tuple[str, str, Role]:
    """Key without its number, class code and role of a device, from its alias."""
    if found := PCI.match(modalias):
        vendor, product, sub_vendor, sub_product = (found[n][-4:].lower() for n in range(1, 5))
        code = (found[5] + found[6] + found[7]).lower()
        role = PCI_ROLES.get(code[:4]) or PCI_ROLES.get(code[:2], Role.OTHER)
        return f"pci:{vendor}:{product}:{sub_vendor}:{sub_product}:{code}", code, role
    if found := USB.match(modalias):
        code = (found[3] + found[4] + found[5]).lower()
        role = USB_ROLES.get(code[:4]) or USB_ROLES.get(code[:2], Role.OTHER)
        return f"usb:{found[1].lower()}:{found[2].lower()}:::{code}", code, role
    if found := VIRTIO.match(modalias):
        role = VIRTIO_ROLES.get(int(found[1], 16), Role.OTHER)
        return f"virtio:{found[2][-4:].lower()}:{found[1][-4:].lower()}:::", "", role
    if modalias.startswith("vmbus:"):
        return f"{modalias}::::", "", VMBUS_ROLES.get(driver, Role.OTHER)
    if modalias.startswith("scsi:t-"):
        kind = modalias.removeprefix("scsi:t-")
        return f"scsi:::::{kind}", kind, Role.STORAGE if kind in ("0x00", "0x0e") else Role.OTHER
    if modalias.startswith("acpi:"):
        ids = modalias.removeprefix("acpi:").strip(":").split(":")
        is_input = ids[0].startswith(("PNP03", "PNP0F"))
        return f"acpi::{'+'.join(ids)}:::", "", Role.INPUT if is_input else Role.PLATFORM
    return f"{bus}:{modalias}", "", Role.INPUT if modalias.startswith("serio:") else Role.OTHER


def label_of(device: Path, modalias: str, udev: UdevDatabase, listed: PciNames) -> str:
    """Vendor and product for people."""
    known = udev.properties(device) if udev.present and bus_of(device) in ("pci", "usb") else {}
    words = [known.get("ID_VENDOR_FROM_DATABASE", ""), known.get("ID_MODEL_FROM_DATABASE", "")]
    if not any(words) and (pci := PCI.match(modalias)):
        words = list(listed.names(pci[1][-4:], pci[2][-4:]))
    if not any(words) and bus_of(device) == "usb":
        words = [text_of(device.parent / "manufacturer"), text_of(device.parent / "product")]
    if not any(words) and bus_of(device) == "scsi":
        words = [text_of(device / "vendor"), text_of(device / "model")]
    return " ".join(word for word in words if word)


def natural(text: str) -> tuple[tuple[int, str, int], ...]:
    """Sort key that puts 2 before 10."""
    return tuple(
        (1, "", int(part)) if part.isdigit() and part.isascii() else (0, part, 0)
        for part in re.split(r"(\d+)", text)
        if part
    )


def bus_order(path: Path | str) -> list[tuple[tuple[int, str, int], ...]]:
    """Sort key of places in the tree of devices. PCI addresses are hexadecimal, of even length."""
    return [((0, part, 0),) if PCI_ADDRESS.fullmatch(part) else natural(part) for part in Path(path).parts]


def chain_of(device: Path, root: Path = Path("/")) -> tuple[ChainLink, ...]:
    """The device and everything between it and the root bus that has an alias, outermost first.

    All of them need their drivers: the PCI alias of a virtio disk yields the transport only, its child the disk.
    """
    top = (root / "sys/devices").resolve()
    here = controller_behind(device.resolve())
    links: list[ChainLink] = []
    while here not in (top, here.parent):
        modalias = modalias_of(here)
        if modalias:
            links.append(ChainLink(modalias, driver_of(here)))
        here = here.parent
    return tuple(reversed(links))


def controller_behind(device: Path) -> Path:
    """The controller of an NVMe disk that several may reach, one that works before others; any other device itself.

    With multipath the kernel hangs such a disk below devices/virtual/nvme-subsystem/nvme-subsysN, beside links to its
    controllers (Linux, drivers/nvme/host/multipath.c).
    """
    subsystem = device.parent
    if subsystem.parent.name != "nvme-subsystem":
        return device
    links = [link for link in subsystem.glob("nvme*") if re.fullmatch(r"nvme\d+", link.name)]
    controllers = sorted(links, key=lambda link: (text_of(link / "state").strip() != "live", natural(link.name)))
    return controllers[0].resolve() if controllers else device


def pci_address(device: Path) -> str:
    """Address of the nearest PCI device at or above this one; else the device's own name."""
    here = device.resolve()
    for path in (here, *here.parents):
        if link_name(path / "subsystem") == "pci":
            return path.name
    return here.name
