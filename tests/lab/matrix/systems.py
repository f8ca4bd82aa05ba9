"""The systems that the matrix restores, as data: what an installer would have been told, and the machine they run on.

Each is installed by a virtual machine, once (``install``), and captured once (``captured``). All answer on the same
address, with the same page, so that one set of checks fits every cell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from agent.model.crypttab import CRYPTTAB, crypt_entries
from tests.lab.machine import HOST, Disk, Machine, Nic, Smbios
from tests.lab.source import ADDRESS

PASSPHRASE = "matrix-passphrase"  # of the encrypted one
SERIALS = ("MATRIXSOURCE0", "MATRIXSOURCE1")
COMMON = (
    "linux-image-amd64", "initramfs-tools", "systemd-sysv", "udev", "dbus", "iproute2", "openssh-server", "nginx",
    "e2fsprogs", "fdisk", "kmod", "procps", "netbase", "zstd", "dosfstools",
)  # fmt: skip
FOR_BIOS = ("grub-pc",)
FOR_UEFI = ("grub-efi-amd64", "grub-efi-amd64-signed", "shim-signed")


@dataclass(frozen=True, slots=True)
class System:
    """One source: ``disks`` is shell that partitions $D0 (and $D1) and mounts everything below /target."""

    name: str
    title: str
    release: str
    machine: Machine  # without its disks' files
    disks: str
    fstab: str
    packages: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()  # path, text; NIC and NIC2 become the cards' names
    tune: str = ""  # shell, in the installed system before its boot loader is installed
    finish: str = ""  # shell, in its first own boot
    passphrase: str = ""  # of encrypted devices
    host_reads: bool = True  # this host's kernel can mount what lies on the disks

    @property
    def firmware(self) -> str:
        return self.machine.firmware

    @property
    def typed(self) -> str:
        """What is typed at every boot: nothing where a key file opens what is encrypted."""
        entries = crypt_entries(dict(self.files).get(CRYPTTAB, ""))
        return self.passphrase if any(entry.key == "none" for entry in entries) else ""


def source_of(firmware: str, buses: tuple[str, ...], gibibytes: int, nic: str, product: str) -> Machine:
    return Machine(
        name=f"source-{product.lower()}",
        firmware=firmware,
        disks=tuple(Disk(bus, gibibytes << 30, serial=SERIALS[place]) for place, bus in enumerate(buses)),
        nics=(Nic(nic, "52:54:00:50:10:01"),),
        smbios=Smbios("Old Hardware Ltd.", product, "SRC-M001", "5f0c8a3e-0c5e-4c66-8a2d-6b3f1a50a001"),
    )


TWO_NICS = (Nic("e1000e", "52:54:00:50:10:01"), Nic("e1000e", "52:54:00:50:10:02"))

IFUPDOWN = (
    "/etc/network/interfaces",
    "auto lo\niface lo inet loopback\n\nauto NIC\niface NIC inet static\n"
    f"    address {ADDRESS}/24\n    gateway {HOST}\n",
)
NETWORKD = (
    "/etc/systemd/network/10-lan.network",
    f"[Match]\nName=NIC\n\n[Network]\nAddress={ADDRESS}/24\nGateway={HOST}\n",
)
NETPLAN = (
    "/etc/netplan/10-lan.yaml",
    "network:\n  version: 2\n  renderer: networkd\n  ethernets:\n    NIC:\n"
    f"      addresses: [{ADDRESS}/24]\n      routes:\n        - to: default\n          via: {HOST}\n",
)
KEYFILES = tuple(
    (
        f"/etc/NetworkManager/system-connections/{name}.nmconnection",
        f"[connection]\nid={name}\nuuid=7b1f6c1e-8c3a-4b59-9a55-1f2e3d4c5b0{number}\ntype=ethernet\n"
        f"interface-name={card}\n\n[ipv4]\nmethod=manual\naddress1={address}\n\n[ipv6]\nmethod=disabled\n",
    )
    for number, name, card, address in (
        (1, "lan", "NIC", f"{ADDRESS}/24,{HOST}"),
        (2, "storage", "NIC2", "10.77.1.50/24"),
    )
)

# --- disks: every identity is fixed, so that two builds of a source differ in nothing that matters --------------------

BOOT, ROOT, SWAP, LUKS_UUID = (f"6f1d3c52-2b70-4a52-9f0b-1a50c4b0b10{number}" for number in (1, 2, 3, 4))
ESP = "4D41-5452"
MAKE_ESP = f"mkfs.vfat -n ESP -i {ESP.replace('-', '')}"
EXT4_ROOT = f"mkfs.ext4 -q -L root -U {ROOT}"
MAKE_SWAP = f"mkswap -U {SWAP}"
DATA_KEY = "/target/etc/keys/data.key"

MBR_EXTENDED = f"""\
sfdisk --quiet $D0 <<END
label: dos
label-id: 0x5a1e0011
1 : start=2048, size=409600, type=83, bootable
2 : start=413696, type=5
5 : size=524288, type=82
6 : type=83
END
udevadm settle
mkfs.ext4 -q -L boot -U {BOOT} $(part $D0 1)
{MAKE_SWAP} $(part $D0 5)
{EXT4_ROOT} $(part $D0 6)
mount $(part $D0 6) /target
mkdir /target/boot
mount $(part $D0 1) /target/boot
"""
GPT_UEFI = f"""\
sfdisk --quiet $D0 <<END
label: gpt
label-id: 7C0E2F7A-6F3D-4B3A-9C55-0A50C4B0B200
1 : size=262144, type=uefi, uuid=7C0E2F7A-6F3D-4B3A-9C55-0A50C4B0B201
2 : size=524288, type=swap, uuid=7C0E2F7A-6F3D-4B3A-9C55-0A50C4B0B202
3 : type=linux, uuid=7C0E2F7A-6F3D-4B3A-9C55-0A50C4B0B203
END
udevadm settle
{MAKE_ESP} $(part $D0 1)
{MAKE_SWAP} $(part $D0 2)
{EXT4_ROOT} $(part $D0 3)
mount $(part $D0 3) /target
mkdir -p /target/boot/efi
mount $(part $D0 1) /target/boot/efi
"""
LVM_ON_LUKS = f"""\
sfdisk --quiet $D0 <<END
label: gpt
1 : size=262144, type=uefi
2 : size=819200, type=linux
3 : type=linux
END
udevadm settle
{MAKE_ESP} $(part $D0 1)
mkfs.ext4 -q -L boot -U {BOOT} $(part $D0 2)
printf %s {PASSPHRASE} | cryptsetup luksFormat --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 \\
    --uuid {LUKS_UUID} $(part $D0 3) -
printf %s {PASSPHRASE} | cryptsetup open $(part $D0 3) secure -
pvcreate -q /dev/mapper/secure
vgcreate -q vg0 /dev/mapper/secure
lvcreate -q -W n -L 256M -n swap vg0
lvcreate -q -W n -l 90%FREE -n root vg0
{MAKE_SWAP} /dev/vg0/swap
{EXT4_ROOT} /dev/vg0/root
mount /dev/vg0/root /target
mkdir -p /target/boot
mount $(part $D0 2) /target/boot
mkdir -p /target/boot/efi
mount $(part $D0 1) /target/boot/efi
"""
MIRROR = f"""\
for disk in $D0 $D1; do
    sfdisk --quiet $disk <<END
label: gpt
1 : size=262144, type=uefi
2 : type=raid
END
    udevadm settle
done
{MAKE_ESP} $(part $D0 1)
mdadm --create /dev/md0 --run --level 1 --raid-devices 2 --metadata 1.2 --name 0 --homehost matrix \\
    --assume-clean $(part $D0 2) $(part $D1 2)
"""
RAID1 = f"""\
{MIRROR}{EXT4_ROOT} /dev/md0
mount /dev/md0 /target
mkdir -p /target/boot/efi
mount $(part $D0 1) /target/boot/efi
"""
STACKED = f"""\
{MIRROR}pvcreate -q /dev/md0
vgcreate -q vg0 /dev/md0
lvcreate -q -W n -L 256M -n swap vg0
lvcreate -q -W n -L 320M -n data vg0
lvcreate -q -W n -l 90%FREE -n root vg0
{MAKE_SWAP} /dev/vg0/swap
{EXT4_ROOT} /dev/vg0/root
mount /dev/vg0/root /target
mkdir -p /target/boot/efi /target/etc/keys /target/srv
mount $(part $D0 1) /target/boot/efi
chmod 700 /target/etc/keys
head -c 64 /dev/urandom > {DATA_KEY}
printf %s {PASSPHRASE} | cryptsetup luksFormat --type luks1 --pbkdf-force-iterations 1000 \\
    --uuid {LUKS_UUID} /dev/vg0/data -
printf %s {PASSPHRASE} | cryptsetup luksAddKey --pbkdf-force-iterations 1000 --key-file - /dev/vg0/data {DATA_KEY}
cryptsetup open --key-file {DATA_KEY} /dev/vg0/data data
mkfs.xfs -q -L data -m uuid={BOOT} /dev/mapper/data
mount /dev/mapper/data /target/srv
"""
BTRFS = f"""\
sfdisk --quiet $D0 <<END
label: gpt
1 : size=2048, type=21686148-6449-6E6F-744E-656564454649
2 : type=linux
END
udevadm settle
mkfs.btrfs -q -L system -U {ROOT} $(part $D0 2)
mount $(part $D0 2) /target
btrfs subvolume create /target/@
btrfs subvolume create /target/@home
btrfs subvolume create /target/@srv
umount /target
mount -o subvol=@,compress=zstd:1 $(part $D0 2) /target
mkdir /target/home /target/srv
mount -o subvol=@home $(part $D0 2) /target/home
mount -o subvol=@srv $(part $D0 2) /target/srv
"""

FSTAB_ESP = f"UUID={ESP} /boot/efi vfat umask=0077 0 1\n"
FSTAB_ROOT = f"UUID={ROOT} / ext4 errors=remount-ro 0 1\n"
FSTAB_SWAP = f"UUID={SWAP} none swap sw 0 0\n"
FSTAB_BTRFS = "".join(
    f"UUID={ROOT} {place} btrfs subvol={subvolume}{more} 0 0\n"
    for place, subvolume, more in (("/", "@", ",compress=zstd:1"), ("/home", "@home", ""), ("/srv", "@srv", ""))
)

SYSTEMS = {
    system.name: system
    for system in (
        System(
            name="debian-11-mbr",
            title="Debian 11, BIOS, MBR with logical partitions, separate /boot, initramfs for its own machine only",
            release="bullseye",
            machine=source_of("bios", ("megasas",), 6, "e1000", "Server-11"),
            disks=MBR_EXTENDED,
            fstab=FSTAB_ROOT + f"UUID={BOOT} /boot ext4 defaults 0 2\n" + FSTAB_SWAP,
            packages=(*FOR_BIOS, "ifupdown"),
            files=(IFUPDOWN,),
            finish="echo MODULES=dep > /etc/initramfs-tools/conf.d/driver-policy && update-initramfs -u",
        ),
        System(
            name="debian-12-uefi",
            title="Debian 12, UEFI with shim, GPT, networkd",
            release="bookworm",
            machine=source_of("uefi", ("nvme",), 6, "e1000e", "Server-12"),
            disks=GPT_UEFI,
            fstab=FSTAB_ROOT + FSTAB_ESP + FSTAB_SWAP,
            packages=FOR_UEFI,
            files=(NETWORKD,),
            tune="systemctl enable systemd-networkd",
        ),
        System(
            name="debian-12-lvm-luks",
            title="Debian 12, UEFI, LVM on LUKS2, netplan and networkd",
            release="bookworm",
            machine=source_of("uefi", ("ahci",), 6, "e1000e", "Laptop-12"),
            disks=LVM_ON_LUKS,
            fstab="/dev/mapper/vg0-root / ext4 errors=remount-ro 0 1\n"
            f"UUID={BOOT} /boot ext4 defaults 0 2\n{FSTAB_ESP}/dev/mapper/vg0-swap none swap sw 0 0\n",
            packages=(*FOR_UEFI, "netplan.io", "lvm2", "cryptsetup", "cryptsetup-initramfs"),
            files=(NETPLAN, ("/etc/crypttab", f"secure UUID={LUKS_UUID} none luks\n")),
            tune="systemctl enable systemd-networkd\nupdate-initramfs -u -k all",
            passphrase=PASSPHRASE,
            host_reads=False,
        ),
        System(
            name="debian-13-raid1",
            title="Debian 13, UEFI, md RAID1, NetworkManager, two cards",
            release="trixie",
            machine=replace(source_of("uefi", ("ahci", "ahci"), 6, "e1000e", "Server-13"), nics=TWO_NICS),
            disks=RAID1,
            fstab=FSTAB_ROOT + FSTAB_ESP,
            packages=(*FOR_UEFI, "network-manager", "mdadm"),
            files=KEYFILES,
            tune="/usr/share/mdadm/mkconf force-generate /etc/mdadm/mdadm.conf\nupdate-initramfs -u -k all",
            host_reads=False,
        ),
        System(
            # What it serves lies in the encrypted volume: without its key file no page answers.
            name="debian-12-stacked",
            title="Debian 12, UEFI, LVM on md RAID1, a LUKS1 volume opened by a key file, resume from swap",
            release="bookworm",
            machine=source_of("uefi", ("ahci", "ahci"), 6, "e1000e", "Server-12S"),
            disks=STACKED,
            fstab="/dev/mapper/vg0-root / ext4 errors=remount-ro 0 1\n"
            f"/dev/mapper/data /srv xfs defaults 0 2\n{FSTAB_ESP}/dev/mapper/vg0-swap none swap sw 0 0\n",
            packages=(*FOR_UEFI, "lvm2", "mdadm", "cryptsetup", "xfsprogs"),
            files=(NETWORKD, ("/etc/crypttab", f"data UUID={LUKS_UUID} /etc/keys/data.key luks\n")),
            tune="systemctl enable systemd-networkd\n"
            "/usr/share/mdadm/mkconf force-generate /etc/mdadm/mdadm.conf\n"
            "echo RESUME=/dev/mapper/vg0-swap > /etc/initramfs-tools/conf.d/resume\n"
            "sed -i 's|\"console=tty0|\"resume=/dev/mapper/vg0-swap console=tty0|' /etc/default/grub\n"
            "update-initramfs -u -k all",
            passphrase=PASSPHRASE,
            host_reads=False,
        ),
        System(
            name="debian-12-btrfs",
            title="Debian 12, BIOS, GPT, btrfs with subvolumes, ifupdown",
            release="bookworm",
            machine=source_of("bios", ("virtio",), 6, "virtio-net-pci", "Cloud-12"),
            disks=BTRFS,
            fstab=FSTAB_BTRFS,
            packages=(*FOR_BIOS, "btrfs-progs", "ifupdown"),
            files=(IFUPDOWN,),
        ),
    )
}
