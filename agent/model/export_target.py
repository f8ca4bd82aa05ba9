"""For which machine an exported disk is made: the one of a profile, or the one that the image was made of. Pure.

The disk itself is a file: it has the size and the sectors of the machine's disk, and stands on its controller, so that
the verdicts on drivers are those of that machine; model and serial number it has none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import msgspec

from agent.errors import UsageError
from agent.model.filesystem_size import MIB, minimum_bytes
from agent.model.image import Manifest
from agent.model.partition_types import is_bios_boot, is_esp
from agent.model.plan import InstallBootloader, Plan
from agent.model.profile import Firmware, Profile
from agent.model.storage import Disk, FileSystem, TableKind
from agent.model.target_disk import select_disk
from agent.model.wanted import held_bytes, holding_disks, main_disk

GIB = 1 << 30
BOOT_ROOM_BYTES = GIB  # boot partitions, a kernel more, the initramfs made anew
TABLE_ROOM_BYTES = 4 * MIB  # both ends of a GPT on whole MiB, a BIOS boot partition
KERNEL_NAMES = {"virtio": "vda", "nvme": "nvme0n1", "xen": "xvda", "mmc": "mmcblk0"}


def like_the_source(manifest: Manifest, source: Profile) -> tuple[Profile, Disk]:
    """The image's own machine, and its disk; firmware by the layout where the profile does not say it."""
    main = main_disk(manifest) or Disk("", 0, 512, 512)
    others = [disk for disk in manifest.disks if disk.name != main.name]
    holding = holding_disks(manifest)
    size = main.size_bytes + sum(disk.size_bytes for disk in others if disk.name in holding)
    if size and main.table is TableKind.NONE:
        size += TABLE_ROOM_BYTES  # a file system on the whole disk moves into a partition
    disk = replace(main, size_bytes=size or needed_bytes(manifest))
    firmware = source.platform.firmware
    if firmware is Firmware.UNKNOWN:
        firmware = firmware_of(main)
    return replace(source, platform=replace(source.platform, firmware=firmware), disks=(disk,)), disk


def firmware_of(disk: Disk) -> Firmware:
    """What a disk boots by: an EFI system partition alone is for UEFI; everything else boots by BIOS too."""
    types = [part.type for part in disk.partitions]
    only_uefi = any(map(is_esp, types)) and not any(map(is_bios_boot, types)) and disk.table is TableKind.GPT
    return Firmware.UEFI if only_uefi else Firmware.BIOS


def needed_bytes(manifest: Manifest) -> int:
    """A disk with room for a tree that lay on none, and half as much again to live in; whole GiB."""
    smallest = sum(
        minimum_bytes(FileSystem("ext4", used_bytes=held_bytes(volume)), volume.entries) for volume in manifest.volumes
    )
    return -(-(smallest * 3 // 2 + BOOT_ROOM_BYTES) // GIB) * GIB


def like_a_target(target: Profile, selector: str) -> tuple[Profile, Disk]:
    """A target, and the disk of it that ``selector`` names; nothing of it is in use, for it is not touched."""
    free = tuple(
        replace(disk, boot_medium=False, in_use=(), read_only=False, holds=None, partitions=(), table=TableKind.NONE)
        for disk in target.disks
    )
    return replace(target, disks=free), select_disk(selector, free)


def with_file(target: Profile, meant: Disk, file: Disk) -> Profile:
    """The target with the file's disk in the place of the one that is meant."""
    stands = replace(
        file, transport=meant.transport, rotational=meant.rotational, role=meant.role, chain=meant.chain, in_use=(),
        boot_medium=False,
    )  # fmt: skip
    disks = tuple(stands if disk.name == meant.name else disk for disk in target.disks)
    return replace(target, disks=disks)


def for_a_file(plan: Plan, meant: Disk) -> Plan:
    """The plan without what belongs to the machine that runs now: its boot entries, its names of disks."""
    name = f"/dev/{meant.name if _is_kernel_name(meant.name) else KERNEL_NAMES.get(meant.transport, 'sda')}"

    def changed(steps: Iterable[object]) -> tuple[object, ...]:
        return tuple(
            msgspec.structs.replace(step, label="", known_as=name) if isinstance(step, InstallBootloader) else step
            for step in steps
        )

    return msgspec.structs.replace(plan, steps=changed(plan.steps))


def _is_kernel_name(name: str) -> bool:
    return name.startswith(("sd", "vd", "hd", "xvd", "nvme", "mmcblk"))


def parse_size(text: str) -> int:
    """``20G``, ``512M``, ``1T``, or bytes; whole MiB."""
    unit = {"K": 10, "M": 20, "G": 30, "T": 40}.get(text[-1:].upper(), 0)
    digits = text[:-1] if unit else text
    if not digits.isdigit():
        raise UsageError(f"size ‘{text}’ is not understood; expected a number with K, M, G or T, such as 20G")
    return -(-(int(digits) << unit) // MIB) * MIB
