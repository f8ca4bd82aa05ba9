"""A /boot of its own, too small for an initramfs that drives any machine: found out, grown, or refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.errors import DoesNotFitError
from agent.model.boot_room import GENERIC_INITRAMFS_BYTES, KERNEL_BYTES, boot_volume_apart, is_short, needed_bytes
from agent.model.filesystem_size import minimum_bytes
from agent.model.image import Manifest
from agent.model.layout import fit
from agent.model.partition_types import BIOS_BOOT, LINUX
from agent.model.plan import RebuildInitramfs
from agent.model.profile import Firmware, Kernel, OperatingSystem
from agent.model.storage import Disk, Partition, TableKind
from agent.model.wanted import as_made
from tests.model.test_layout import GIB, MIB, TABLE, check, fs, guid, manifest, profile, target

SYSTEM = OperatingSystem(kernels=(Kernel("6.1", initrd="/boot/initrd.img-6.1"), Kernel("6.0", initrd="/boot/old")))
SMALL, ROOT = 60, 4000  # MiB


def boot_image(boot_mib: int = SMALL) -> Manifest:
    sizes = ((1, 1, BIOS_BOOT, None), (2, boot_mib, LINUX, "ext4"), (3, ROOT, LINUX, "ext4"))
    parts, at = [], MIB
    for number, mib, kind, held in sizes:
        holds = fs(held, mib * MIB, number) if held else None
        parts.append(Partition(number, at, mib * MIB, kind, guid(number), "", (), holds))
        at += mib * MIB
    disk = Disk("vda", 5 * GIB, 512, 512, role="boot", table=TableKind.GPT, table_id=TABLE, partitions=tuple(parts))
    return manifest(disk, (2, "/boot", 40 * MIB), (3, "/", GIB), entries=20)


def rebuild(*releases: str) -> list[RebuildInitramfs]:
    return [RebuildInitramfs(release=release, tool="initramfs-tools", modules=()) for release in releases]


@pytest.mark.adapts("B19", "T1")
def test_what_is_needed() -> None:
    sizes = {"/boot/initrd.img-6.1": 20 * MIB, "/boot/old": 100 * MIB}
    assert needed_bytes([], SYSTEM, lambda path: sizes[path]) == 0
    one = needed_bytes(rebuild("6.1"), SYSTEM, lambda path: sizes[path])
    assert one == GENERIC_INITRAMFS_BYTES - 20 * MIB + 20 * MIB, "it grows, beside the old one"
    both = needed_bytes(rebuild("6.1", "6.0"), SYSTEM, lambda path: sizes[path])
    assert both == GENERIC_INITRAMFS_BYTES - 20 * MIB + 25 * MIB + 100 * MIB
    new = needed_bytes(rebuild("6.9"), SYSTEM, lambda path: sizes[path])
    assert new == GENERIC_INITRAMFS_BYTES + KERNEL_BYTES, "a kernel that comes"


@pytest.mark.adapts("B19", "T1")
@pytest.mark.parametrize("size", [5 * GIB, 8 * GIB, 4 * GIB])
def test_it_grows_where_the_disk_has_room(size: int) -> None:
    image, disk = boot_image(), target(size)
    plain = fit(image, profile(), Firmware.BIOS, disk)
    volume = boot_volume_apart(image)
    assert volume is not None and is_short(volume, [plain], 80 * MIB)
    layout = fit(image, profile(), Firmware.BIOS, disk, boot_free_bytes=80 * MIB)
    check(layout, disk)
    assert not is_short(volume, [layout], 80 * MIB)
    boot = next(part for part in layout.partitions if part.purpose == "boot")
    assert boot.size_bytes >= minimum_bytes(as_made(volume), volume.entries, 80 * MIB)
    assert any(note.startswith("/boot grows from 60.0 MiB to ") for note in layout.notes)
    assert {part.part_uuid for part in layout.partitions} >= {guid(2), guid(3)}, "identities stay"


@pytest.mark.adapts("B19", "T1")
def test_a_large_one_stays() -> None:
    image, disk = boot_image(500), target(6 * GIB)
    volume = boot_volume_apart(image)
    assert volume is not None and not is_short(volume, [fit(image, profile(), Firmware.BIOS, disk)], 200 * MIB)


@pytest.mark.adapts("B19", "T1")
def test_a_disk_without_room_for_it_is_refused_with_figures() -> None:
    image = boot_image()
    smallest = next(s for s in range(1000, 5000) if fits(image, s))
    with pytest.raises(DoesNotFitError, match=r"/boot: needs 1\d\d\.0 MiB, holds 40.0 MiB"):
        fit(image, profile(), Firmware.BIOS, target(smallest * MIB), boot_free_bytes=80 * MIB)


def fits(image: Manifest, mib: int) -> bool:
    try:
        fit(image, profile(), Firmware.BIOS, target(mib * MIB))
    except DoesNotFitError:
        return False
    return True


def test_without_a_boot_of_its_own_the_root_has_the_room() -> None:
    image = boot_image()
    assert boot_volume_apart(replace(image, volumes=image.volumes[1:])) is None
