"""Where every partition of an image goes on another disk. Pure: the same input gives the same layout.

    source disk(s) ─► what is wanted ─► + what the firmware needs ─► sizes and places ─► + identities ─► Layout
                      (wanted)            (wanted)                     (placing)           (here)

Identities are preserved, so that nothing has to be patched: PARTUUIDs, table id, type ids, labels, flags, numbers.
What is new gets its identity from the image's, not from chance.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agent.errors import DoesNotFitError, RefusedError
from agent.model.filesystem_size import MIB, WRITABLE, inodes_for
from agent.model.grow import GROWING_BLOCKS, Grow
from agent.model.image import BLOCKS, Manifest
from agent.model.mirror import ALONE, Beside, with_members
from agent.model.partition_types import EXTENDED_TYPES, is_esp, type_in_gpt, type_in_mbr
from agent.model.placing import ALIGN_BYTES, MBR_SECTORS, Placed, place
from agent.model.plan import FitFilesystem, PlannedFilesystem, PlannedPartition, StackStep
from agent.model.profile import Firmware, Profile
from agent.model.stack_layout import KEEP, PLAIN, StackLayout, StackWish, on_partitions, refuse_unmade
from agent.model.storage import Disk, TableKind
from agent.model.wanted import Wanted, derived, main_disk, wanted_partitions, with_boot_partitions, with_boot_room
from agent.model.wording import size_text

# Free space that the system's volume keeps: an adaptation may install a kernel and rebuild the initramfs.
HEADROOM_BYTES = 512 * MIB
MBR_BOOT_FLAG = "boot"
KNOWS_ITS_PLACE = frozenset({"ntfs", "vfat"})  # their boot sector says where on the disk they begin


@dataclass(frozen=True, slots=True)
class Layout:
    """The disk as it will be."""

    table: str  # gpt, mbr
    table_id: str
    partitions: tuple[PlannedPartition, ...]  # in order of place on the disk
    filesystems: Mapping[int, PlannedFilesystem]  # by partition number, or place in the stack
    volumes: Mapping[str, int]  # volume id → partition number, or place in the stack
    fits: tuple[FitFilesystem, ...] = ()  # blocks whose partition is larger, or begins elsewhere
    stack: tuple[StackStep, ...] = ()  # what stands between partitions and file systems, in the order of making
    stacked_bytes: Mapping[int, int] = field(default_factory=dict)  # size of each place that holds a file system
    boots: bool = False  # it is made to start the system
    notes: tuple[str, ...] = ()  # what a person should know: grown, shrunk, left out, converted


def fit(  # noqa: PLR0913 - four of them have defaults
    manifest: Manifest,
    source: Profile,
    target_firmware: Firmware,
    disk: Disk,
    headroom_bytes: int = HEADROOM_BYTES,
    grow: Grow = Grow(),  # noqa: B008 - a frozen value
    boot_free_bytes: int = 0,
    arrays: str = PLAIN,
    beside: Beside = ALONE,
) -> Layout:
    """The layout of ``manifest``'s volumes on ``disk``, for a machine that boots by ``target_firmware``.

    ``boot_free_bytes``: what a /boot of its own must have free, beyond what the source's had if need be. ``arrays``:
    plain or keep, as in `agent.model.stack_layout`. ``beside``: what other disks of the same restore have.

    Raises DoesNotFitError with needed and available sizes of every volume, RefusedError for what cannot be laid out.
    """
    _refuse_what_cannot_be_made(manifest)
    refuse_unmade(manifest, boots=bool(source.os.kernels))
    _refuse_bios_on_large_sectors(source, target_firmware, disk)
    main = main_disk(manifest)
    storeys = StackLayout(manifest, main, StackWish(headroom_bytes, arrays, grow, boot_free_bytes, beside.peers))
    wanted = storeys.with_bases(wanted_partitions(on_partitions(manifest), main, headroom_bytes))
    wanted = with_members(wanted, beside.members, beside.apart)
    wanted = with_boot_room(wanted, boot_free_bytes)
    if source.os.kernels and target_firmware is Firmware.UEFI and arrays == KEEP:
        _refuse_esp_on_array(wanted)
    table, notes = _table(main, source, target_firmware, wanted, disk)
    if source.os.kernels:
        wanted = with_boot_partitions(wanted, table, target_firmware, manifest, disk.logical_sector_bytes, beside.apart)
    wanted = [_in_table(want, table) for want in wanted]
    placed, left_out = place(wanted, main, table, disk, grow)
    table_id = _table_id(main, table, manifest, beside.apart)
    stack = storeys.build(placed)
    made = (*placed, *stack.leaves)
    return Layout(
        table=table,
        table_id=table_id,
        partitions=_with_identities(placed, main, table, table_id, lambda what: derived(manifest, what, beside.apart)),
        filesystems={p.want.number: _planned(p, manifest) for p in made if p.want.filesystem},
        volumes={volume: p.want.number for p in made for volume in p.want.volumes},
        fits=_fits(placed, disk.logical_sector_bytes),
        stack=stack.steps,
        boots=bool(source.os.kernels),
        stacked_bytes={p.want.number: p.size_bytes for p in stack.leaves},
        notes=(
            *notes,
            *left_out,
            *stack.notes,
            *_size_notes(placed),
            *_dense_notes(made),
            *_moved_notes(placed, table),
        ),
    )


def esp_partition(layout: Layout) -> int:
    """Number of its EFI system partition; 0: it has none."""
    return next((part.number for part in layout.partitions if is_esp(part.type)), 0)


def _refuse_what_cannot_be_made(manifest: Manifest) -> None:
    seen: dict[tuple[str, int, str], str] = {}
    for volume in manifest.volumes:
        place_of = (volume.disk, volume.partition, volume.device)
        if volume.kind != BLOCKS and manifest.disks and volume.filesystem.kind not in WRITABLE:
            raise RefusedError(
                f"volume {volume.id} is {volume.kind} in {volume.filesystem.kind or 'an unknown file system'}; "
                f"expected blocks, or a tree in one of {', '.join(WRITABLE)}",
                "extract its files with ‘regraft extract’",
            )
        if manifest.disks and not volume.disk and not volume.device:
            raise RefusedError(
                f"volume {volume.id} ({volume.filesystem.mountpoint}) lies on no partition of the image's disks, and "
                "on no LVM, RAID or encryption that the image describes; expected a place on the disks",
                "extract its files with ‘regraft extract’",
            )
        subvolumes = bool(volume.subvolume and volume.filesystem.kind == "btrfs")
        if (volume.disk or volume.device) and place_of in seen and not subvolumes:
            shared = volume.device or f"partition {volume.partition} of {volume.disk}"
            raise RefusedError(
                f"volumes {seen[place_of]} and {volume.id} share {shared}; expected one volume a partition",
                "extract their files with ‘regraft extract’",
            )
        seen[place_of] = volume.id


def _refuse_bios_on_large_sectors(source: Profile, firmware: Firmware, disk: Disk) -> None:
    if firmware is Firmware.BIOS and disk.logical_sector_bytes != 512 and source.os.kernels:
        raise DoesNotFitError(
            f"disk {disk.name} has {disk.logical_sector_bytes}-byte sectors, and this machine boots by BIOS, "
            "which reads sectors of 512 bytes",
            "switch the machine's firmware to UEFI, or choose a disk with 512-byte sectors",
        )


def _refuse_esp_on_array(wanted: Sequence[Wanted]) -> None:
    """The firmware's boot entry, and the loader's installation, need a partition that holds the file system itself."""
    for want in wanted:
        if is_esp(want.type) and want.stack:
            raise RefusedError(
                f"the EFI system partition lies on an array ({want.purpose}), expected it on a partition of its own",
                "restore with --arrays plain, which puts it on one",
            )


def _table(
    main: Disk | None, source: Profile, firmware: Firmware, wanted: Sequence[Wanted], disk: Disk
) -> tuple[str, list[str]]:
    """gpt or mbr, and why it is not the source's."""
    if main is None or main.table is not TableKind.MBR:
        return "gpt", []
    reach = MBR_SECTORS * disk.logical_sector_bytes
    primaries = len([want for want in wanted if not want.logical]) + any(want.logical for want in wanted)
    if sum(want.minimum_bytes for want in wanted) > reach:
        return "gpt", [f"the MBR table became GPT: the volumes need more than the {size_text(reach)} that it reaches"]
    if primaries > 4:  # volumes of other disks came along
        return "gpt", ["the MBR table became GPT: there are more than four primary partitions"]
    if firmware is Firmware.UEFI and source.os.kernels and not any(is_esp(want.type) for want in wanted):
        if names_mbr_identities(source) and primaries < 4:
            return "mbr", ["the MBR table stays, although this machine boots by UEFI: files name its PARTUUIDs"]
        return "gpt", ["the MBR table became GPT, which every UEFI firmware boots from; PARTUUIDs are new"]
    if disk.size_bytes > reach:
        return "mbr", [f"the MBR table stays: only the first {size_text(reach)} of the disk are used"]
    return "mbr", []


def _in_table(want: Wanted, table: str) -> Wanted:
    """Volumes of other disks come from other tables: their types, and the flags that only a GPT has, do not fit."""
    if table == "gpt":
        return replace(want, type=type_in_gpt(want.type), logical=False)
    return replace(want, type=type_in_mbr(want.type), flags=tuple(flag for flag in want.flags if flag == MBR_BOOT_FLAG))


def names_mbr_identities(source: Profile) -> bool:
    """Whether files of the source or its kernel command line name partitions by identities that an MBR gives."""
    kinds = {mention.kind for file in source.config_files for mention in file.mentions}
    return "partuuid" in kinds or "PARTUUID=" in source.os.cmdline


def _table_id(main: Disk | None, table: str, manifest: Manifest, apart: str) -> str:
    if main is not None and main.table == table and main.table_id:
        return main.table_id.lower()
    split = main is not None and "/" in main.name  # a piece of one of the image's disks
    made = derived(manifest, f"table of {main.name}" if main is not None and split else "table", apart)
    return str(made) if table == "gpt" else f"0x{made.hex[:8]}"


def _with_identities(
    placed: Sequence[Placed], main: Disk | None, table: str, table_id: str, made: Callable[[str], uuid.UUID]
) -> tuple[PlannedPartition, ...]:
    """``made``: a new identity for what has none."""
    parts: list[PlannedPartition] = []
    used: set[str] = set()
    for each in placed:
        want = each.want
        part_uuid = want.part_uuid if _is_guid(want.part_uuid) and want.part_uuid not in used else ""
        part_uuid = part_uuid or str(made(f"partition {want.number} {want.purpose}"))
        used.add(part_uuid)
        gpt = table == "gpt"
        parts.append(
            PlannedPartition(
                number=want.number,
                start_bytes=each.start_bytes,
                size_bytes=each.size_bytes,
                type=want.type,
                part_uuid=part_uuid if gpt else _mbr_part_uuid(table_id, want.number),
                part_label=want.part_label if gpt else "",
                flags=tuple(flag for flag in want.flags if flag != MBR_BOOT_FLAG) if gpt else want.flags,
                purpose=want.purpose,
            )
        )
    return (*parts, *_extended(parts, placed, main, table_id))


def _mbr_part_uuid(table_id: str, number: int) -> str:
    return f"{table_id.removeprefix('0x')}-{number:02x}"


def _extended(
    parts: Sequence[PlannedPartition], placed: Sequence[Placed], main: Disk | None, table_id: str
) -> list[PlannedPartition]:
    """The extended partition around the logical ones of an MBR."""
    inside = [part for part, each in zip(parts, placed, strict=True) if each.want.logical]
    if not inside:
        return []
    taken = {part.number for part in parts}
    own = [part for part in main.partitions if part.type.lower() in EXTENDED_TYPES] if main else []
    free = [number for number in (*(part.number for part in own), 1, 2, 3, 4) if number not in taken]
    start = inside[0].start_bytes - ALIGN_BYTES
    return [
        PlannedPartition(
            number=free[0],
            start_bytes=start,
            size_bytes=inside[-1].start_bytes + inside[-1].size_bytes - start,
            type=own[0].type.lower() if own else "0x5",
            part_uuid=_mbr_part_uuid(table_id, free[0]),
            purpose="extended",
        )
    ]


def _is_guid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _planned(placed: Placed, manifest: Manifest) -> PlannedFilesystem:
    fs = placed.want.filesystem
    assert fs is not None
    made = str(derived(manifest, f"filesystem {placed.want.purpose}"))
    return PlannedFilesystem(
        kind=fs.kind,
        uuid=fs.uuid or (f"{made[:4]}-{made[4:8]}".upper() if fs.kind == "vfat" else made),
        label=fs.label,
        features=fs.features,
        block_bytes=fs.block_bytes,
        inodes=inodes_for(fs, placed.want.entries, placed.size_bytes),
        mountpoint="" if fs.kind == "swap" else fs.mountpoint,
        options=fs.options,
        subvolumes=placed.want.subvolumes,
    )


def _fits(placed: Sequence[Placed], sector_bytes: int) -> tuple[FitFilesystem, ...]:
    """What block volumes must learn of their new partitions."""
    found = []
    for each in placed:
        want = each.want
        if want.blocks is None:
            continue
        more = each.size_bytes - want.source_bytes
        larger = want.blocks.kind in GROWING_BLOCKS and more >= 2 * ALIGN_BYTES  # less is only rounding
        moved = want.blocks.kind in KNOWS_ITS_PLACE and 0 < want.start_bytes != each.start_bytes
        if larger or moved:
            old = want.start_bytes // sector_bytes
            made = FitFilesystem(
                partition=want.number, volume=want.volume, kind=want.blocks.kind,
                size_bytes=each.size_bytes if larger else 0,
                start_sectors=(old, each.start_bytes // sector_bytes) if moved else (old, old),
            )  # fmt: skip
            found.append(made)
    return tuple(found)


def _moved_notes(placed: Sequence[Placed], table: str) -> list[str]:
    """Windows knows partitions of a GPT by their identity, those of an MBR by the disk's signature and their place."""
    return [
        f"{each.want.name} moves from byte {each.want.start_bytes:,} of the disk to byte {each.start_bytes:,}; "
        "a Windows that starts from it may have to be repaired (bcdboot)"
        for each in placed
        if table == "mbr" and each.want.blocks and each.want.start_bytes and each.start_bytes != each.want.start_bytes
    ]


def _dense_notes(placed: Sequence[Placed]) -> list[str]:
    """Compression comes back where fstab asks for it; extents that files share become copies."""
    return [
        f"the files of {each.want.name} are {size_text(each.want.filesystem.used_bytes)} and its partition is "
        f"{size_text(each.size_bytes)}: they were compressed, or shared their content, and may not fit uncompressed"
        for each in placed
        if each.want.volume and each.want.filesystem and each.want.filesystem.used_bytes > each.size_bytes
    ]


def _size_notes(placed: Sequence[Placed]) -> list[str]:
    return [
        f"{each.want.name} {'grows' if each.size_bytes > each.want.source_bytes else 'shrinks'} "
        f"from {size_text(each.want.source_bytes)} to {size_text(each.size_bytes)}"
        for each in placed
        if abs(each.size_bytes - each.want.source_bytes) >= 2 * ALIGN_BYTES and each.want.purpose != "esp"
    ]
