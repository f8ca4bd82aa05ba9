"""What the PE is made of, as data. Change this file to change the image."""

from __future__ import annotations

import fcntl
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SUITE = "bookworm"
COMPONENTS = "main non-free-firmware"
TREE = Path(__file__).resolve().parent.parent
OVERLAY = Path(__file__).resolve().parent / "overlay"
CACHE = Path("~/.cache/regraft/pe").expanduser()
KEPT = 4  # of each kind of thing in the cache
LABEL = "REGRAFT"
TIME_S = 1_700_000_000  # one time stamp for every file of the medium: the same inputs make the same bytes

# Debian's signed kernels by name; the newest among those that exist is taken.
KERNEL_PACKAGES = r"^linux-image-[0-9]+[.][0-9]+[.][0-9]+([+]deb12)?(-[0-9]+)?-amd64$"

PACKAGES = (
    *("libc6", "libc-bin", "libgcc-s1", "base-passwd", "netbase", "busybox-static", "udev", "kmod"),
    *("util-linux", "util-linux-extra", "fdisk", "mount", "e2fsprogs", "logsave", "xfsprogs", "btrfs-progs"),
    *("dosfstools", "efibootmgr", "parted", "gdisk", "cryptsetup-bin", "lvm2", "dmsetup", "mdadm"),
    *("partclone", "ntfs-3g"),  # which blocks of a file system are used; NTFS made larger
    *("grub-common", "grub2-common", "grub-pc-bin", "grub-efi-amd64-bin", "grub-efi-amd64-signed"),
    *("shim-signed", "shim-unsigned", "shim-helpers-amd64-signed"),
    *("smartmontools", "nvme-cli", "dmidecode", "pciutils", "usbutils", "iproute2", "ethtool", "curl"),
    *("apt", "libsolv-tools", "rpm", "rpm-common"),  # solvers of dependencies, Berkeley databases of rpm
    "ca-certificates",
    *("mtools", "xorriso"),  # tools of the build, not of the PE
)
FIRMWARE_PACKAGES = (
    *("firmware-linux-free", "firmware-misc-nonfree", "firmware-bnx2", "firmware-bnx2x", "firmware-cavium"),
    *("firmware-myricom", "firmware-netronome", "firmware-netxen", "firmware-qlogic", "firmware-realtek"),
)

# Programs that the PE carries, found in usr/bin and usr/sbin; their libraries come along.
PROGRAMS = (
    *(
        "sfdisk",
        "fdisk",
        "wipefs",
        "blkid",
        "lsblk",
        "blkdiscard",
        "blockdev",
        "findmnt",
        "mount",
        "umount",
        "mountpoint",
    ),
    *("unshare", "nsenter", "losetup", "partx", "mkswap", "swaplabel", "swapon", "swapoff", "fstrim", "fsfreeze"),
    *("flock", "dmesg", "hwclock", "setpriv", "lscpu", "zramctl"),
    *("mke2fs", "mkfs.ext2", "mkfs.ext3", "mkfs.ext4", "tune2fs", "e2label", "e2fsck", "fsck.ext4", "resize2fs"),
    *("dumpe2fs", "debugfs", "chattr", "lsattr"),
    *("mkfs.xfs", "xfs_db", "xfs_logprint", "xfs_repair", "xfs_growfs", "xfs_io", "xfs_info", "xfs_admin"),
    *("mkfs.btrfs", "btrfs", "btrfstune"),
    *("mkfs.fat", "mkfs.vfat", "fsck.fat", "fsck.vfat", "fatlabel"),
    *("partclone.ntfs", "partclone.exfat", "partclone.fat", "partclone.extfs", "ntfs-3g.probe", "ntfsresize"),
    *("parted", "partprobe", "sgdisk"),
    *("modprobe", "depmod", "insmod", "rmmod", "lsmod", "modinfo", "kmod"),
    *("efibootmgr", "efibootdump"),
    *("grub-install", "grub-mkimage", "grub-probe", "grub-editenv"),
    *("cryptsetup", "lvm", "pvs", "vgs", "lvs", "pvcreate", "vgcreate", "lvcreate", "vgchange", "vgcfgrestore"),
    "pvscan",
    *("dmsetup", "mdadm", "mdmon"),
    *("smartctl", "nvme", "dmidecode", "lspci", "lsusb", "ip", "ss", "ethtool", "curl"),
    *("udevadm", "ldconfig", "apt-get", "rpmmd2solv", "testsolv", "rpmdb"),
)

# Files and folders (everything below them) that are not libraries of a program but needed by one.
FILES = (
    *(
        "usr/lib64/ld-linux-x86-64.so.2",
        "usr/lib/udev",
        "usr/lib/systemd/systemd-udevd",
        "usr/lib/systemd/network/99-default.link",
    ),
    *("usr/lib/modprobe.d", "etc/udev/udev.conf"),
    *("usr/lib/locale/C.utf8", "etc/mke2fs.conf", "etc/lvm/lvm.conf", "etc/protocols", "etc/services"),
    *("usr/share/misc/pci.ids", "usr/share/xfsprogs", "usr/lib/rpm/rpmrc", "usr/lib/rpm/macros"),
    # apt-get reads which architectures there are, and starts the reader of its repository even when it only simulates.
    *("usr/share/dpkg/cputable", "usr/share/dpkg/tupletable", "usr/lib/apt/methods/file"),
    *("usr/lib/grub/i386-pc", "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"),
    *("usr/lib/shim/shimx64.efi.signed", "usr/lib/shim/mmx64.efi.signed", "usr/lib/shim/fbx64.efi.signed"),
    *("usr/lib/shim/BOOTX64.CSV", "usr/lib/shim/mmx64.efi", "usr/lib/shim/fbx64.efi"),
)
NOT_FILES = (
    *("usr/lib/udev/hwdb.d", "usr/lib/udev/hwdb.bin", "usr/lib/grub/i386-pc/efiemu", "usr/lib/grub/i386-pc/gdb"),
    *("usr/lib/udev/rules.d/69-lvm.rules", "usr/lib/udev/rules.d/70-camera.rules"),
    *("usr/lib/udev/rules.d/64-md-raid-assembly.rules", "usr/lib/udev/rules.d/63-md-raid-arrays.rules"),
)
# Loaded by name at run time, so that no program's list shows them. All of glibc: wheels ask for its stubs.
LIBRARIES = (
    *("libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0", "libutil.so.1", "libresolv.so.2"),
    *("libanl.so.1", "libnss_dns.so.2", "libnss_files.so.2", "libgcc_s.so.1", "libudev.so.1", "libcrypt.so.1"),
    *("libstdc++.so.6", "gconv/gconv-modules", "gconv/gconv-modules.d", "gconv/IBM850.so", "gconv/IBM437.so"),
    "gconv/UTF-16.so",
)

# --- kernel modules: folders below kernel/, and names ---------------------------------------------------------------

MODULE_FOLDERS = (
    *("drivers/ata", "drivers/scsi", "drivers/nvme", "drivers/mmc", "drivers/block", "drivers/md", "drivers/message"),
    *("drivers/ufs", "drivers/memstick", "drivers/usb/host", "drivers/usb/storage", "drivers/usb/common"),
    *("drivers/usb/core", "drivers/usb/dwc3", "drivers/usb/typec", "drivers/thunderbolt", "drivers/pci"),
    *("drivers/net/ethernet", "drivers/net/usb", "drivers/net/phy", "drivers/net/mdio", "drivers/net/pcs"),
    *("drivers/net/hyperv", "drivers/net/bonding", "drivers/net/vmxnet3", "drivers/net/fjes", "net/8021q"),
    *("drivers/hv", "drivers/virtio", "drivers/xen", "drivers/nvdimm", "drivers/dca", "drivers/ptp"),
    *("drivers/input/serio", "drivers/input/keyboard", "drivers/char/tpm", "drivers/char/ipmi"),
    *("drivers/char/hw_random", "drivers/watchdog", "drivers/firmware"),
    *("fs/ext4", "fs/xfs", "fs/btrfs", "fs/fat", "fs/exfat", "fs/ntfs3", "fs/isofs", "fs/udf", "fs/squashfs"),
    *("fs/overlayfs", "fs/fuse", "fs/efivarfs", "fs/nls", "fs/f2fs", "lib", "crypto", "arch/x86/crypto"),
)
MODULES = (
    *("virtio_net", "net_failover", "vmxnet3", "xen-netfront", "virtio_console", "vmd", "loop", "nbd", "hid"),
    *("hid-generic", "usbhid", "hid-hyperv", "hid-apple", "hid-logitech", "hid-microsoft", "simpledrm", "bochs"),
    *("efi-pstore", "i2c-hid-acpi", "i2c-i801", "dax", "tun", "veth", "af_packet", "evdev", "efivarfs"),
)
NOT_MODULE_FOLDERS = (
    *("drivers/scsi/lpfc", "drivers/scsi/qla2xxx", "drivers/scsi/qla4xxx", "drivers/scsi/bfa", "drivers/scsi/bnx2fc"),
    *("drivers/scsi/fcoe", "drivers/scsi/qedf", "drivers/scsi/qedi", "drivers/scsi/csiostor", "drivers/scsi/cxgbi"),
    *(
        "drivers/scsi/elx",
        "drivers/scsi/pcmcia",
        "drivers/block/drbd",
        "drivers/block/rbd",
        "drivers/ata/pata_pcmcia",
    ),
    *("drivers/net/ethernet/mellanox/mlxsw", "drivers/net/ethernet/netronome", "drivers/usb/typec/altmodes"),
    *("drivers/nvme/target", "crypto/tcrypt", "drivers/net/ethernet/marvell/prestera"),
)


@contextmanager
def cache_in_use(cache: Path) -> Iterator[None]:
    """One build at a time in a cache; at its end the oldest of each kind of thing kept there go."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        for kind in ("root-*", "parts-*", "frozen-*.img", "frozen-*[!g]"):
            for old in sorted(cache.glob(kind), key=lambda place: place.stat().st_mtime)[:-KEPT]:
                shutil.rmtree(old) if old.is_dir() else old.unlink()


def log(text: str) -> None:
    """One line of progress."""
    print(f"pe_build: {text}", file=sys.stderr, flush=True)
