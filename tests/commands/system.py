"""Small systems for the command line: a tree with awkward files, and a whole machine with disks in a depot."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from agent.depot.local import LocalDepot
from agent.image.capture import CaptureSource, SourceVolume, capture_image
from agent.model.image import ImageRef
from agent.model.profile import Profile
from agent.model.profile_xml import load_profile
from agent.model.storage import Disk, FileSystem
from tests.image.source_tree import no_events, plain_tree

MACHINES = Path(__file__).resolve().parents[1] / "machines"
RELEASE = "6.1.0-56-cloud-amd64"  # of the source machine in MACHINES
# What this kernel drives. Of the controllers only AHCI: NVMe and VMD need another kernel.
ALIASES = """\
alias virtio:d00000001v* virtio_net
alias virtio:d00000002v* virtio_blk
alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci
alias pci:v*d*sv*sd*bc01sc06i01* ahci
alias scsi:t-0x00* sd_mod
alias fs-ext4 ext4
"""
MODULES = ("virtio_net", "virtio_blk", "virtio_pci", "ahci", "libahci", "sd_mod", "ext4")
OS_RELEASE = """\
PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
ID=debian
VERSION_ID="12"
VERSION_CODENAME=bookworm
"""


def awkward_tree(root: Path) -> None:
    """What any user can make and a program may stumble over; says of itself that it is Debian, web-1."""
    plain_tree(root)
    (root / "etc/os-release").write_text(OS_RELEASE)
    Path(os.fsdecode(os.fsencode(root) + b"/odd-\xff\xfe name")).write_bytes(b"no UTF-8 in its name")
    os.symlink(b"to-\xfd", os.fsencode(root) + b"/link-\xfc")
    (root / "new\nline").write_text("x")
    (root / "-rf").write_text("an option?")
    os.mkfifo(root / "fifo", 0o600)
    (root / "usr/bin/suid").write_bytes(b"s")
    (root / "usr/bin/suid").chmod(0o4755)
    (root / "shared").mkdir()
    (root / "shared").chmod(0o3777)


def machine(name: str) -> Profile:
    return load_profile((MACHINES / f"{name}.xml").read_bytes())


def publish_machine(depot: Path, folder: Path, kernels: bool = True) -> ImageRef:
    """An image of the QEMU machine in MACHINES, with its disk, its layout and a small tree (and what lies in
    ``folder``/root already); the key is in this process's REGRAFT_HOME. Without kernels there is nothing to boot."""
    profile = machine("qemu-i440fx-virtio-bios-debian")
    if not kernels:
        profile = replace(profile, os=replace(profile.os, kernels=()))
    (disk,) = profile.disks
    system_tree(folder / "root", disk)
    (folder / "srv").mkdir()
    (folder / "srv/page.html").write_text("served")
    volumes = tuple(
        SourceVolume(name, held_at(disk, number), folder / name, disk.name, number)
        for name, number in (("root", 2), ("srv", 3))
    )
    described = replace(disk, in_use=(), boot_medium=False)
    source = CaptureSource(profile.machine, "web1", profile, (described,), volumes)
    return capture_image(source, LocalDepot(depot), no_events, jobs=1).ref


def held_at(disk: Disk, number: int) -> FileSystem:
    held = next(part.holds for part in disk.partitions if part.number == number)
    assert held is not None
    return held


def system_tree(root: Path, disk: Disk) -> None:
    """What decisions read of a system: kernel indexes, fstab, GRUB's defaults, interfaces."""
    modules = root / "lib/modules" / RELEASE
    modules.mkdir(parents=True)
    (modules / "modules.alias").write_text(ALIASES)
    (modules / "modules.dep").write_text("".join(f"kernel/x/{name}.ko:\n" for name in MODULES))
    (modules / "modules.builtin").write_text("")
    for name in ("etc/default", "etc/network", "boot"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / f"boot/vmlinuz-{RELEASE}").write_bytes(bytes(0x202) + b"HdrS")  # as a kernel for x86 says of itself
    (root / f"boot/initrd.img-{RELEASE}").write_bytes(b"")
    (root / "etc/os-release").write_text(OS_RELEASE)
    (root / "etc/hostname").write_text("web1\n")
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (root / "etc/default/grub").write_text('GRUB_CMDLINE_LINUX="console=ttyS0,115200"\n')
    (root / "etc/network/interfaces").write_text("auto ens3\niface ens3 inet static\n  address 10.77.0.15/24\n")
    lines = (
        f"UUID={held_at(disk, number).uuid} {place} {kind} defaults 0 0\n"
        for number, place, kind in ((2, "/", "ext4"), (3, "/srv", "ext4"), (4, "none", "swap"))
    )
    (root / "etc/fstab").write_text("".join(lines))
