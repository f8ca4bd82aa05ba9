"""Small machines for tests of decisions: a virtual source with a thin kernel, real-looking targets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agent.model.image import Component, Manifest, ObjectRef, ProfileRef, Volume
from agent.model.plan import PlannedFilesystem, PlannedPartition
from agent.model.profile import (
    Address,
    Firmware,
    Kernel,
    Network,
    NetworkConfig,
    Nic,
    OperatingSystem,
    Package,
    Platform,
    Profile,
    Section,
    Status,
)
from agent.model.situation import Situation
from agent.model.storage import ChainLink, Disk, FileSystem, Partition
from agent.model.tree import MemoryTree

THIN, FULL = "6.1.0-9-cloud-amd64", "6.1.0-9-amd64"
ROOT_UUID, SRV_UUID, SWAP_UUID, ESP_UUID = "aaaa-1", "aaaa-2", "aaaa-3", "12AB-34CD"
NVME = "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02"
E1000E = "pci:v00008086d000010D3sv00008086sd0000A01Fbc02sc00i00"
OLD_MAC, NEW_MAC, THIRD_MAC = "52:54:00:aa:00:01", "52:54:00:bb:00:01", "52:54:00:bb:00:02"
SECTIONS = tuple(Section(name, Status.COMPLETE) for name in ("devices", "storage", "network", "os", "software"))
VIRTIO_ALIASES = "alias virtio:d00000001v* virtio_net\nalias virtio:d00000002v* virtio_blk\nalias fs-ext4 ext4\n"
FSTAB = (
    f"UUID={ROOT_UUID} / ext4 defaults 0 1\nUUID={SRV_UUID} /srv ext4 defaults 0 2\nUUID={SWAP_UUID} none swap sw 0 0\n"
)


def kernel_files(release: str, aliases: str, modules: str, builtin: str = "") -> dict[str, str]:
    below = f"/lib/modules/{release}"
    return {
        f"{below}/modules.alias": aliases,
        f"{below}/modules.dep": "".join(f"kernel/x/{name}.ko:\n" for name in modules.split()),
        f"{below}/modules.builtin": "".join(f"kernel/x/{name}.ko\n" for name in builtin.split()),
    }


THIN_FILES = kernel_files(THIN, VIRTIO_ALIASES, "virtio_net virtio_blk ext4", "nvme")
FULL_ALIASES = VIRTIO_ALIASES + (
    "alias pci:v*d*sv*sd*bc01sc08i02* nvme\nalias pci:v00008086d000010D3sv*sd*bc*sc*i* e1000e\n"
)


def source(**changes: Any) -> Profile:
    """A virtual machine: thin kernel, virtio, BIOS, one static address."""
    profile = Profile(
        machine="web1",
        time="2026-01-01T00:00:00Z",
        hostname="web1",
        sections=SECTIONS,
        platform=Platform(firmware=Firmware.BIOS, virtualization="kvm", system_vendor="QEMU"),
        network=Network(
            nics=(Nic(OLD_MAC, "ens3", driver="virtio_net", link="up", addresses=(Address("10.0.0.5/24"),)),),
            configs=(
                NetworkConfig("ifupdown", "/etc/network/interfaces", interfaces=("ens3",), addresses=("10.0.0.5/24",)),
            ),
        ),
        os=OperatingSystem(
            id="debian", version="12", name="Debian GNU/Linux 12", package_format="deb", loader="grub2",
            initrd_tool="initramfs-tools", cmdline="BOOT_IMAGE=/vmlinuz ro console=ttyS0",
            kernels=(
                Kernel(THIN, "cloud-amd64", f"linux-image-{THIN}", f"/boot/vmlinuz-{THIN}", f"/boot/i-{THIN}", True),
            ),
        ),
        packages=(
            Package("kmod", "amd64", "30"),
            Package("linux-base", "all", "4.9"),
            Package("initramfs-tools", "all", "0.142"),
            Package("linux-image-cloud-amd64", "amd64", "6.1.9-1"),
            Package(f"linux-image-{THIN}", "amd64", "6.1.9-1"),
        ),
    )  # fmt: skip
    return replace(profile, **changes)


def target(**changes: Any) -> Profile:
    """A machine of iron: UEFI, NVMe, e1000e."""
    profile = Profile(
        machine="iron",
        time="2026-01-02T00:00:00Z",
        sections=SECTIONS,
        platform=Platform(firmware=Firmware.UEFI, system_vendor="ACME"),
        network=Network(nics=(nic(NEW_MAC),)),
        disks=(DISK,),
    )
    return replace(profile, **changes)


def nic(mac: str, driver: str = "e1000e", link: str = "up", modalias: str = E1000E) -> Nic:
    return Nic(mac, "eth0", address="0000:00:02.0", driver=driver, link=link, chain=(ChainLink(modalias, driver),))


DISK = Disk("nvme0n1", 6 << 30, 512, 512, "nvme", "QEMU NVMe", "N1", chain=(ChainLink(NVME, "nvme"),))
SOURCE_DISK = Disk(
    "vda", 8 << 30, 512, 512, "virtio",
    partitions=(
        Partition(2, 1 << 20, 1 << 30, "x", "p2", holds=FileSystem("ext4", ROOT_UUID, mountpoint="/")),
        Partition(3, 2 << 30, 1 << 30, "x", "p3", holds=FileSystem("swap", SWAP_UUID)),
    ),
)  # fmt: skip
FILESYSTEMS = {
    1: PlannedFilesystem(kind="vfat", uuid=ESP_UUID, mountpoint="/boot/efi"),
    2: PlannedFilesystem(kind="ext4", uuid=ROOT_UUID, mountpoint="/"),
    3: PlannedFilesystem(kind="ext4", uuid=SRV_UUID, mountpoint="/srv"),
    4: PlannedFilesystem(kind="swap", uuid=SWAP_UUID),
}
PARTITIONS = (PlannedPartition(number=2, start_bytes=1 << 20, size_bytes=1 << 30, type="x", part_uuid="p2"),)


def component(name: str, **changes: Any) -> Component:
    made = Component(
        id=name, version="6.1.9-1", kind="kernel", architecture="amd64", for_os="debian", package_format="deb",
        payload=(), kernel_release=FULL, flavour="amd64",
        modaliases=tuple(line.removeprefix("alias ") for line in FULL_ALIASES.splitlines()),
        modules=("virtio_net", "virtio_blk", "ext4", "nvme", "e1000e"),
        depends=("kmod", "linux-base (>= 4.3~)", "initramfs-tools (>= 0.120) | linux-initramfs-tool"),
    )  # fmt: skip
    return replace(made, **changes)


def metapackage() -> Component:
    return component(
        "linux-image-amd64", kind="other", kernel_release="", flavour="", modaliases=(), modules=(),
        depends=(f"linux-image-{FULL} (= 6.1.9-1)",),
    )  # fmt: skip


def situation(files: dict[str, str] | None = None, **changes: Any) -> Situation:
    """The thin source on the iron target; ``files`` are added to the image's tree."""
    everything = {**THIN_FILES, "/etc/fstab": FSTAB, "/etc/default/grub": 'GRUB_CMDLINE_LINUX="console=ttyS0"\n'}
    tree = MemoryTree({path: text.encode() for path, text in {**everything, **(files or {})}.items()})
    volume = Volume(
        "root", "tree", FileSystem("ext4", ROOT_UUID, mountpoint="/"), ObjectRef("0" * 64, 1), 1, 1, (), "vda", 2
    )
    manifest = Manifest(
        1, "web1", "20260101T000000Z", "", "web1", ProfileRef("20260101T000000Z", "", ""), (SOURCE_DISK,), (volume,), ()
    )
    given: dict[str, Any] = {"source": source(), "target": target(), **changes}
    return Situation(
        manifest=manifest,
        tree=tree,
        disk=given.pop("disk", DISK),
        partitions=PARTITIONS,
        filesystems=FILESYSTEMS,
        **given,
    )
