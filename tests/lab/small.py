"""A small system without a kernel, as containers and appliances' data disks are: captured in a second, restored in a
few. For tests of the ways to a restore, not of what is restored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from agent.depot.local import LocalDepot
from agent.image.capture import CaptureSource, SourceVolume, capture_image
from tests.commands.system import OS_RELEASE, held_at, machine
from tests.image.source_tree import no_events, plain_tree

NAME = "small"


def publish_small_system(depot: Path, folder: Path) -> str:
    """An image of a 2 GiB disk with one ext4 partition; NAME@TIME."""
    profile = machine("qemu-i440fx-virtio-bios-debian")
    (disk,) = profile.disks
    root = folder / "root"
    plain_tree(root)
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/os-release").write_text(OS_RELEASE)
    (root / "etc/hostname").write_text("small\n")
    held = held_at(disk, 2)
    (root / "etc/fstab").write_text(f"UUID={held.uuid} / ext4 defaults 0 1\n")
    partitions = tuple(part for part in disk.partitions if part.number == 2)
    described = replace(disk, in_use=(), boot_medium=False, partitions=partitions)
    described_profile = replace(
        profile, machine=NAME, hostname="small", disks=(described,), os=replace(profile.os, kernels=())
    )
    volume = SourceVolume("root", replace(held, mountpoint="/"), root, disk.name, 2)
    source = CaptureSource(NAME, "small", described_profile, (described,), (volume,))
    return str(capture_image(source, LocalDepot(depot), no_events, jobs=1).ref)
