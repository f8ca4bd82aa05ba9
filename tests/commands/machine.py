"""A machine of one's own for the program: a loop device that /sys calls a disk, seen by this program only.

Loop devices are no disks to regraft, so that it never offers one; and a test must never come near the disks of the
machine it runs on. In a mount namespace of its own the program finds another /sys, and a /dev, with one disk on an
AHCI controller and one card: everything it asks the kernel through the disk's node is answered by a real block device.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

DISK = "sda"
SERIAL = "TEST-SERIAL-1"
CONTROLLER = "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01"
CARD = "virtio:d00000001v00001AF4"
MAC = "52:54:00:a0:00:77"
NODES = ("null", "zero", "full", "random", "urandom", "tty")


def isolated(folder: Path, loop: Path) -> tuple[str, ...]:
    """Words to start a program with, on such a machine. Mounts end with the program.

    Partitions that the kernel knows of the loop device now are those of the disk.
    """
    sysfs = folder / "sys"
    make_sysfs(sysfs, loop)
    nodes = {DISK: loop, **{f"{DISK}{number}": node for number, node in partitions(loop).items()}}
    script = [
        f"mount --bind {shlex.quote(str(sysfs))} /sys",
        "mount -t tmpfs -o mode=755 dev /dev",
        "mkdir /dev/shm /dev/pts",
        "mount -t tmpfs shm /dev/shm",
        *(f"mknod -m 666 /dev/{name} c {number}" for name, number in zip(NODES, device_numbers(), strict=True)),
        *(f"mknod -m 600 /dev/{name} b {device_number(node)}" for name, node in nodes.items()),
        'exec "$@"',
    ]
    return ("unshare", "--net", "--mount", "--propagation", "private", "sh", "-ec", "\n".join(script), "machine")


def partitions(loop: Path) -> dict[int, Path]:
    folder = Path("/sys/class/block") / loop.name
    return {
        int((entry / "partition").read_text()): Path("/dev") / entry.name
        for entry in folder.iterdir()
        if (entry / "partition").is_file()
    }


def device_number(node: Path) -> str:
    found = node.stat().st_rdev
    return f"{os.major(found)} {os.minor(found)}"


def device_numbers() -> list[str]:
    return [device_number(Path("/dev") / name) for name in NODES]


def make_sysfs(sysfs: Path, loop: Path) -> None:
    """What regraft reads of /sys: the disk, and the devices on the way to it."""
    controller = sysfs / "devices/pci0000:00/0000:00:1f.2"
    unit = controller / "ata1/host0/target0:0:0/0:0:0:0"
    disk = unit / "block" / DISK
    (disk / "queue").mkdir(parents=True)
    (disk / "holders").mkdir()
    real = Path("/sys/class/block") / loop.name
    for name in ("size", "ro", "removable", "queue/logical_block_size", "queue/physical_block_size"):
        (disk / name).write_text((real / name).read_text())
    (disk / "queue/rotational").write_text("0\n")
    number = (real / "dev").read_text()
    (disk / "dev").write_text(number)
    (disk / "device").symlink_to("../..")
    (controller / "modalias").write_text(CONTROLLER + "\n")
    (unit / "modalias").write_text("scsi:t-0x00\n")
    (unit / "model").write_text("TEST DISK\n")
    (unit / "vendor").write_text("ATA     \n")
    (unit / "vpd_pg80").write_bytes(b"\0\x80\0" + bytes([len(SERIAL)]) + SERIAL.encode())
    card = sysfs / "devices/pci0000:00/0000:00:03.0/virtio0"
    (card / "net/lan0").mkdir(parents=True)
    (card / "modalias").write_text(CARD + "\n")
    for attribute, text in (("address", MAC), ("type", "1"), ("carrier", "1")):
        (card / "net/lan0" / attribute).write_text(text + "\n")
    (card / "net/lan0/device").symlink_to("../..")
    for place, driver in ((controller, "ahci"), (unit, "sd"), (card, "virtio_net")):
        (sysfs / "drivers" / driver).mkdir(parents=True)
        (place / "driver").symlink_to(os.path.relpath(sysfs / "drivers" / driver, place))
    for name in ("block", "class/block", "dev/block", "class/net", "class/dmi/id", "bus", "firmware"):
        (sysfs / name).mkdir(parents=True)
    (sysfs / "class/net/lan0").symlink_to("../../devices/pci0000:00/0000:00:03.0/virtio0/net/lan0")
    for link in (sysfs / "block" / DISK, sysfs / "class/block" / DISK, sysfs / "dev/block" / number.strip()):
        link.symlink_to(os.path.relpath(disk, link.parent))
    for partition, node in partitions(loop).items():
        make_partition(sysfs, disk, partition, node)


def make_partition(sysfs: Path, disk: Path, number: int, node: Path) -> None:
    place = disk / f"{DISK}{number}"
    (place / "holders").mkdir(parents=True)
    for name in ("partition", "start", "size", "ro", "dev"):
        (place / name).write_text((Path("/sys/class/block") / node.name / name).read_text())
    for link in (sysfs / "class/block" / place.name, sysfs / "dev/block" / (place / "dev").read_text().strip()):
        link.symlink_to(os.path.relpath(place, link.parent))
