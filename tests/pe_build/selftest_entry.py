"""A program to freeze in the agent's place: uses each part that freezing or the PE could break, says what it found.

Not a test by itself; test_boot.py boots it. Ends with ``SELFTEST ok`` or a traceback, then turns the machine off.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
import ssl
import sys
import time
import tomllib
from pathlib import Path

import _ped
import blake3
import lxml.etree
import parted
import pyudev
import requests
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pyroute2 import IPRoute

import agent.process
from agent.process import run
from agent.version import TOOL

PROGRAMS = (
    "sfdisk wipefs blkid lsblk blkdiscard mount umount unshare chroot losetup partx mkswap swapon "
    "mke2fs tune2fs e2fsck resize2fs dumpe2fs chattr mkfs.xfs xfs_info xfs_db xfs_repair xfs_admin "
    "mkfs.btrfs btrfs mkfs.vfat fsck.vfat modprobe depmod efibootmgr grub-install grub-mkimage "
    "grub-bios-setup grub-probe grub-editenv cryptsetup lvm mdadm smartctl dmidecode ip ethtool curl less vi "
    "reboot poweroff udevadm partclone.ntfs partclone.exfat partclone.fat partclone.extfs ntfs-3g.probe ntfsresize"
)
FILES = (
    "/usr/lib/grub/i386-pc/boot.img",
    "/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
    "/usr/lib/shim/shimx64.efi.signed",
    "/usr/lib/shim/mmx64.efi.signed",
    "/etc/ssl/certs/ca-certificates.crt",
)


def double(number: int) -> int:
    return 2 * number


def processes() -> str:
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(double, [1, 2, 3]) == [2, 4, 6], method
    return "fork and spawn"


def hardware() -> str:
    while not Path("/run/pe/settled").exists():
        time.sleep(0.2)
    disks = [device.sys_name for device in pyudev.Context().list_devices(subsystem="block", DEVTYPE="disk")]
    with IPRoute() as route:
        links = [dict(link["attrs"])["IFLA_IFNAME"] for link in route.get_links()]
    return f"disks {','.join(sorted(disks))} links {','.join(sorted(links))}"


def partitions() -> str:
    place = Path("/tmp/disk")
    with place.open("wb") as disk:
        disk.truncate(64 << 20)
    device = parted.getDevice(str(place))
    table = parted.freshDisk(device, "gpt")
    return f"parted {parted.version()['libparted']} {table.type} {_ped.__name__}"


def digests() -> str:
    frame = zstandard.ZstdCompressor().compress(b"x" * 1000)
    assert zstandard.ZstdDecompressor().decompress(frame) == b"x" * 1000
    key = Ed25519PrivateKey.generate()
    key.public_key().verify(key.sign(b"x"), b"x")
    return blake3.blake3(b"x").hexdigest()[:8]


def tools() -> str:
    missing = [name for name in PROGRAMS.split() if shutil.which(name) is None]
    missing += [path for path in FILES if not Path(path).exists()]
    assert not missing, missing
    for argv in (["mke2fs", "-V"], ["mkfs.xfs", "-V"], ["mkfs.btrfs", "-V"], ["grub-probe", "-V"], ["lvm", "version"]):
        run(argv)
    if Path("/sys/firmware/efi").exists():
        run(["efibootmgr"])
    return "all there"


def file_systems() -> str:
    wanted = {"ext4", "xfs", "btrfs", "vfat", "overlay", "squashfs"}
    for name in sorted(wanted):
        run(["modprobe", name])
    known = {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines()}
    assert wanted <= known, wanted - known
    run(["mke2fs", "-q", "-t", "ext4", "/tmp/disk"])
    Path("/mnt/test").mkdir()
    run(["mount", "-o", "loop", "/tmp/disk", "/mnt/test"])
    run(["umount", "/mnt/test"])
    return ",".join(sorted(wanted))


def network() -> str:
    deadline = time.monotonic() + 60
    with IPRoute() as route:
        while not route.get_default_routes() and time.monotonic() < deadline:
            time.sleep(0.5)
        found = route.get_default_routes()
    assert found, "no default route"
    return socket.gethostbyname("localhost") + " " + Path("/etc/resolv.conf").read_text().strip().replace("\n", " ")


def environment() -> str:
    assert "/" in ssl.get_default_verify_paths().openssl_cafile
    assert len(ssl.create_default_context().get_ca_certs()) > 50
    wanted = {"HOME": "/root", "LANG": "C.UTF-8", "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt"}
    assert {key: os.environ[key] for key in wanted} == wanted
    assert sys.stdout.encoding == "utf-8", sys.stdout.encoding
    return f"umlaut ä, requests {requests.__version__}, lxml {lxml.etree.LXML_VERSION}"


def configuration() -> str:
    recipes = list((Path(agent.process.__file__).parent.parent / "recipes").glob("*.toml"))
    assert recipes, "no recipes beside the package"
    place = Path("/etc/regraft/agent.toml")
    assert place.stat().st_mode & 0o777 == 0o600
    return f"depot={tomllib.loads(place.read_text()).get('depot', '')!r} recipes={len(recipes)}"


def main() -> None:
    multiprocessing.freeze_support()
    print(f"SELFTEST {TOOL} at {time.clock_gettime(time.CLOCK_BOOTTIME):.1f} s")
    memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    print(f"SELFTEST memory {memory['MemTotal'].strip()} available {memory['MemAvailable'].strip()}")
    for part in (environment, configuration, processes, digests, hardware, partitions, file_systems, tools, network):
        print(f"SELFTEST {part.__name__}: {part()}")
    secure = Path("/sys/kernel/security/lockdown")
    print(f"SELFTEST firmware {'uefi' if Path('/sys/firmware/efi').exists() else 'bios'}", end=" ")
    print(f"lockdown {secure.read_text().strip() if secure.exists() else '-'}")
    print("SELFTEST ok")
    run(["poweroff", "-f"])


if __name__ == "__main__":
    main()
