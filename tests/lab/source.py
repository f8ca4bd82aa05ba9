"""The demo's source machine: Debian 12 with the cloud kernel on a virtual disk, built once and cached.

GPT with BIOS boot, ext4 root, a separate ext4 /srv full of awkward files, swap, a static address by ifupdown, sshd,
nginx. The boot loader is installed by the machine itself, in its first boot: on the host there is no disk of its kind.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.lab.awkward import make_awkward_files
from tests.lab.machine import HOST, DirectBoot, Disk, Forward, Machine, Nic, Smbios
from tests.lab.programs import LabError, remove_built, run
from tests.lab.running import RunningMachine

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "regraft" / "lab"
HOSTNAME = "demo-source"
ADDRESS = "10.77.0.50"
PASSWORD = "lab"
PAGE = "<!doctype html><title>demo-source</title><p>This page was captured.</p>\n"
DISK_BYTES = 10 << 30
PACKAGES = (
    "linux-image-cloud-amd64", "systemd-sysv", "udev", "dbus", "ifupdown", "iproute2", "openssh-server", "nginx-light",
    "grub-pc", "initramfs-tools", "acl", "attr", "libcap2-bin", "e2fsprogs", "kmod", "procps", "netbase",
    "iputils-ping", "zstd", "logrotate", "cron", "less", "fdisk",
)  # fmt: skip

# number → (start, size in MiB, sfdisk type); the rest is left free, as installers do.
PARTITIONS = {
    1: (1, 1, "21686148-6449-6E6F-744E-656564454649"),  # BIOS boot
    2: (2, 6144, "0FC63DAF-8483-4772-8E79-3D69D8477DE4"),  # root
    3: (6146, 3072, "0FC63DAF-8483-4772-8E79-3D69D8477DE4"),  # /srv
    4: (9218, 1000, "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"),  # swap
}
UUIDS = {
    2: "6f1d3c52-2b70-4a52-9f0b-1a50c4b0a102",
    3: "6f1d3c52-2b70-4a52-9f0b-1a50c4b0a103",
    4: "6f1d3c52-2b70-4a52-9f0b-1a50c4b0a104",
}

FSTAB = f"""\
# <file system> <mount point> <type> <options> <dump> <pass>
UUID={UUIDS[2]} / ext4 errors=remount-ro 0 1
UUID={UUIDS[3]} /srv ext4 defaults,nodev,user_xattr 0 2
UUID={UUIDS[4]} none swap sw 0 0
"""
INTERFACES = f"""\
source /etc/network/interfaces.d/*

auto lo
iface lo inet loopback

auto NIC
iface NIC inet static
    address {ADDRESS}/24
    gateway {HOST}
"""
GRUB_DEFAULT = """\
GRUB_DEFAULT=0
GRUB_TIMEOUT=1
GRUB_DISTRIBUTOR=`lsb_release -i -s 2> /dev/null || echo Debian`
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200n8"
GRUB_TERMINAL="console serial"
GRUB_SERIAL_COMMAND="serial --speed=115200"
"""
# Timers that would change files or the network's state while a test looks.
MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer", "man-db.timer", "e2scrub_all.timer", "fstrim.timer")


@dataclass(frozen=True, slots=True)
class Source:
    """A built source: the pristine disk (copy it before it runs) and the key that opens it."""

    disk: Path
    key: Path
    nic_name: str


def source_machine(disk: Path, forwards: tuple[Forward, ...] = ()) -> Machine:
    """The hardware of the source: a cloud's virtual machine."""
    return Machine(
        name="source",
        disks=(Disk("virtio", path=disk, serial="SOURCEDISK0"),),
        nics=(Nic("virtio-net-pci", "52:54:00:50:00:01"),),
        smbios=Smbios("Example Cloud", "virtual-2", "SRC-0001", "5f0c8a3e-0c5e-4c66-8a2d-6b3f1a500001"),
        forwards=forwards,
    )


def cached_source() -> Source:
    """The built source; made when absent (a few minutes)."""
    home = CACHE / f"source-{cache_key()}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "source.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two that build at once would build into each other
        if not (home / "nic-name").exists():
            remove_built(home)
            build(home)
    return Source(home / "disk.img", home / "key", (home / "nic-name").read_text().strip())


def cache_key() -> str:
    """Of everything the disk depends on that is ours; Debian's packages are those of the day it is built."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for name in ("source.py", "awkward.py"):
        digest.update((here / name).read_bytes())
    return digest.hexdigest()[:16]


def build(home: Path) -> None:
    home.mkdir(parents=True)
    if os.geteuid() != 0:
        raise LabError(f"building the source disk needs root (loop devices, mmdebstrap), found uid {os.geteuid()}")
    disk, key = home / "disk.img", home / "key"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "regraft-lab", "-f", key])
    make_partitions(disk)
    with loop_device(disk, 2) as root_device, loop_device(disk, 3) as srv_device, loop_device(disk, 4) as swap_device:
        run(["mkfs.ext4", "-q", "-L", "root", "-U", UUIDS[2], root_device])
        run(["mkfs.ext4", "-q", "-L", "srv", "-U", UUIDS[3], srv_device])
        run(["mkswap", "-L", "swap", "-U", UUIDS[4], swap_device])
        with mounted(root_device, home / "mnt") as root:
            install_packages(root, home / "mmdebstrap.log")
            configure(root, (home / "key.pub").read_text())
            copy_kernel(root, home)
            with mounted(srv_device, root / "srv") as srv:
                make_awkward_files(srv / "awkward")
                (srv / "www").mkdir()
                (srv / "www" / "index.html").write_text(PAGE)
    nic_name = first_boot(disk, home)
    for name in ("vmlinuz", "initrd.img"):
        (home / name).unlink()
    (home / "nic-name").write_text(nic_name)


def make_partitions(disk: Path) -> None:
    with disk.open("wb") as image:
        image.truncate(DISK_BYTES)
    lines = ["label: gpt", "label-id: 7C0E2F7A-6F3D-4B3A-9C55-0A50C4B0A100"]
    for number, (start, size, kind) in PARTITIONS.items():
        uuid = f"7C0E2F7A-6F3D-4B3A-9C55-0A50C4B0A10{number}"
        lines.append(f"{number} : start={start}MiB, size={size}MiB, type={kind}, uuid={uuid}")
    run(["sfdisk", "--quiet", disk], stdin="\n".join(lines).encode())


def install_packages(root: Path, log: Path) -> None:
    result = run(
        # In a mount namespace of its own: whatever ends it, its mounts of the host end with it.
        ["unshare", "--mount", "--propagation=private", "mmdebstrap", "--mode=root", "--variant=minbase",
         f"--include={','.join(PACKAGES)}", "bookworm", root, *debian_sources()],
        timeout_s=1800,
    )  # fmt: skip
    log.write_text(result.stdout + result.stderr)


def debian_sources() -> list[str]:
    """The host's own package sources that are Debian 12's: mirrors and proxies differ from place to place."""
    places = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    found = [
        str(path)
        for path in places
        if path.suffix in (".list", ".sources") and path.is_file() and is_debian(path.read_text(errors="replace"))
    ]
    return found or ["http://deb.debian.org/debian"]


def is_debian(sources: str) -> bool:
    lines = [line for line in sources.splitlines() if not line.lstrip().startswith("#")]
    return any("bookworm" in line for line in lines) and any("debian" in line and "://" in line for line in lines)


def configure(root: Path, public_key: str) -> None:
    """What an administrator sets up after the installer."""
    write(root / "etc/hostname", HOSTNAME + "\n")
    write(root / "etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {HOSTNAME}\n::1 localhost ip6-localhost\n")
    write(root / "etc/fstab", FSTAB)
    write(root / "etc/resolv.conf", "nameserver 10.77.0.3\n")
    write(root / "etc/default/grub", GRUB_DEFAULT)
    write(root / "etc/initramfs-tools/conf.d/resume", f"RESUME=UUID={UUIDS[4]}\n")
    write(root / "etc/network/interfaces", "source /etc/network/interfaces.d/*\n\nauto lo\niface lo inet loopback\n")
    write(root / "root/.ssh/authorized_keys", public_key, 0o600)
    (root / "root/.ssh").chmod(0o700)
    site = root / "etc/nginx/sites-available/default"
    write(site, "server {\n    listen 80 default_server;\n    root /srv/www;\n}\n")
    run(["chroot", root, "chpasswd"], stdin=f"root:{PASSWORD}\n".encode())
    run(["chroot", root, "systemctl", "mask", *MASKED])


def write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(mode)


def copy_kernel(root: Path, home: Path) -> None:
    """The image's own kernel starts it the first time."""
    for name in ("vmlinuz", "initrd.img"):
        (found,) = (root / "boot").glob(f"{name}-*")
        shutil.copyfile(found, home / name)


def first_boot(disk: Path, home: Path) -> str:
    """Boot, name the network card, install the boot loader, shut down."""
    command_line = f"root=UUID={UUIDS[2]} ro console=tty0 console=ttyS0,115200n8"
    direct = DirectBoot(home / "vmlinuz", home / "initrd.img", command_line)
    machine = replace(source_machine(disk), direct=direct)
    with RunningMachine(machine, home, "first-boot", lifetime_s=900) as vm:
        vm.login("root", PASSWORD)
        nic_name = name_of_card(vm)
        interfaces = base64.b64encode(INTERFACES.replace("NIC", nic_name).encode()).decode()
        commands = (
            f"echo {interfaces} | base64 -d > /etc/network/interfaces",
            f"ifup {nic_name}",
            "grub-install /dev/vda",
            "update-grub",
            "echo grub-pc grub-pc/install_devices multiselect /dev/vda | debconf-set-selections",
        )
        for command in commands:
            status, said = vm.command(command, timeout_s=180)
            if status:
                raise LabError(f"in the source machine, ‘{command}’ ended with status {status}:\n{said}")
        vm.console.send("poweroff\n")
        vm.wait_end(120)
    return nic_name


def name_of_card(vm: RunningMachine) -> str:
    """The name that udev gave the card; the kernel's own words may stand between those of a program on a console."""
    vm.command("dmesg --console-off")
    _, said = vm.command("echo card:$(ls /sys/class/net | grep -v lo):card")
    found = re.search(r"card:(e[a-z]+[a-z0-9]*):card", said)
    if not found:
        raise LabError(f"the source machine names no network card: {said!r}")
    return found[1]


# --- the host's loop devices --------------------------------------------------------------------------------------


@contextmanager
def loop_device(disk: Path, number: int) -> Iterator[Path]:
    """A partition of a disk image as a block device."""
    start, size, _ = PARTITIONS[number]
    words = ["losetup", "--find", "--show", f"--offset={start << 20}", f"--sizelimit={size << 20}"]
    device = Path(run([*words, disk]).stdout.strip())
    try:
        yield device
    finally:
        run(["losetup", "--detach", device])


@contextmanager
def mounted(device: Path, at: Path) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    run(["mount", device, at])
    try:
        yield at
    finally:
        run(["umount", at], timeout_s=120)


if __name__ == "__main__":
    built = cached_source()
    sys.stdout.write(f"{built.disk}\n{built.key}\n{built.nic_name}\n")
