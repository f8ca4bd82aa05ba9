"""What partitions a restored disk needs: those that the image brings, and those that the firmware asks for."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from agent.errors import DoesNotFitError
from agent.model.filesystem_size import EXT, MIB, WRITABLE, floor_bytes, minimum_bytes
from agent.model.image import BLOCKS, Manifest, Subvolume, Volume
from agent.model.partition_types import (
    BASIC_DATA,
    BIOS_BOOT,
    ESP,
    ESP_MBR,
    EXTENDED_TYPES,
    LINUX,
    is_bios_boot,
    is_esp,
)
from agent.model.plan import PlannedSubvolume
from agent.model.profile import Firmware
from agent.model.stack import disks_of
from agent.model.storage import Disk, FileSystem, Partition, TableKind
from agent.model.subvolumes import TOP, compression_option, union

ESP_BYTES = 512 * MIB
# FAT32 needs 65,525 clusters of at least a sector: 260 MiB with sectors of 4096 bytes.
ESP_FLOOR_BYTES = {512: 100 * MIB, 4096: 260 * MIB}
BIOS_BOOT_BYTES = MIB
MBR_NUMBERS, GPT_NUMBERS = 4, 128
_NAMESPACE = uuid.UUID("0b9c9c53-6d5f-5d7c-9d2a-5e3a5f1c8d10")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A partition that the layout must find a place for."""

    number: int
    type: str
    source_bytes: int
    minimum_bytes: int
    start_bytes: int = 0  # on the source: order, and the place itself where it can be kept
    purpose: str = ""
    part_uuid: str = ""
    part_label: str = ""
    flags: tuple[str, ...] = ()
    filesystem: FileSystem | None = None  # that is made anew
    blocks: FileSystem | None = None  # that comes as it was, block by block
    volume: str = ""
    beside: tuple[str, ...] = ()  # further volumes in the same file system, which is a btrfs
    subvolumes: tuple[PlannedSubvolume, ...] = ()
    entries: int = 0
    logical: bool = False
    stack: str = ""  # LVM, md RAID or LUKS on it: the place, as in agent.model.stack
    above: tuple[str, ...] = ()  # ids and mount points of the volumes that stand on it then
    may_go: bool = False  # dropped, with a note, when there is no room
    wanted_bytes: int = 0  # more than it had on the source, for what the adaptation puts there

    @property
    def full_bytes(self) -> int:
        """Its size where there is room."""
        return self.wanted_bytes or self.source_bytes

    @property
    def volumes(self) -> tuple[str, ...]:
        return (self.volume, *self.beside) if self.volume else ()

    @property
    def name(self) -> str:
        mountpoint = self.filesystem.mountpoint if self.filesystem else ""
        return mountpoint or self.purpose or f"partition {self.number}"


def derived(manifest: Manifest, what: str, apart: str = "") -> uuid.UUID:
    """An identity that this image always gives to ``what``: no chance in decisions.

    ``apart``: the image's disk whose partitions go to a disk of their own, beside the one that boots.
    """
    what += f" of {apart}" if apart else ""
    return uuid.uuid5(_NAMESPACE, f"{manifest.machine}\n{manifest.time}\n{manifest.profile.sha256}\n{what}")


def main_disk(manifest: Manifest) -> Disk | None:
    """The source disk whose table is taken over: the one that boots, else the one of the root volume."""
    root = next((volume for volume in manifest.trees if volume.filesystem.mountpoint in ("/", "")), None)
    under_root = disks_under(manifest, root) if root else frozenset()
    with_volumes = holding_disks(manifest)
    ranked = sorted(
        manifest.disks,
        key=lambda disk: (disk.role != "boot", disk.name not in under_root, disk.name not in with_volumes),
    )
    return ranked[0] if ranked else None


def holding_disks(manifest: Manifest) -> frozenset[str]:
    """The image's disks that its volumes lie on, directly or at the bottom of their stack."""
    return frozenset[str]().union(*(disks_under(manifest, volume) for volume in manifest.volumes))


def disks_under(manifest: Manifest, volume: Volume) -> frozenset[str]:
    """The disks of one volume; none of a bare directory's."""
    return disks_of(manifest.stack, volume.device) if volume.device else frozenset({volume.disk} - {""})


def wanted_partitions(manifest: Manifest, main: Disk | None, headroom_bytes: int) -> list[Wanted]:
    """Partitions of the main disk in the order of their places, then volumes of other disks."""
    volumes = volumes_by_place(manifest.volumes)
    wanted: list[Wanted] = []
    if main is not None:
        parts = [part for part in main.partitions if part.type.lower() not in EXTENDED_TYPES]
        for part in sorted(parts, key=lambda part: part.start_bytes):
            want = _of_partition(part, volumes.get((main.name, part.number), ()), headroom_bytes)
            wanted.append(replace(want, logical=main.table is TableKind.MBR and part.number > MBR_NUMBERS))
    taken = {(main.name, part.number) for part in main.partitions} if main else set()
    last = max((want.start_bytes for want in wanted), default=0)
    for place, found in volumes.items():
        if place not in taken:
            made = _of_volumes(found, _partition_of(found[0], manifest), headroom_bytes)
            last += 1  # after everything else, in the order of the manifest
            wanted.append(replace(made, number=free_number(wanted, "gpt"), start_bytes=last))
    return wanted


def volumes_by_place(volumes: Iterable[Volume]) -> dict[tuple[str, int], tuple[Volume, ...]]:
    """The volumes on each partition: several where they are subvolumes of one btrfs, the outermost first.

    Volumes of no disk (trees of directories) have a place of their own each.
    """
    found: dict[tuple[str, int], tuple[Volume, ...]] = {}
    for number, volume in enumerate(volumes):
        place = (volume.disk, volume.partition) if volume.disk else ("", -number)
        found[place] = (*found.get(place, ()), volume)
    return {place: tuple(sorted(each, key=_depth)) for place, each in found.items()}


def _depth(volume: Volume) -> tuple[int, str]:
    mountpoint = volume.filesystem.mountpoint.rstrip("/")
    return mountpoint.count("/"), mountpoint


def _partition_of(volume: Volume, manifest: Manifest) -> Partition | None:
    disk = next((disk for disk in manifest.disks if disk.name == volume.disk), None)
    return next((part for part in disk.partitions if part.number == volume.partition), None) if disk else None


def _of_partition(part: Partition, volumes: tuple[Volume, ...], headroom_bytes: int) -> Wanted:
    if volumes:
        return _of_volumes(volumes, part, headroom_bytes)
    swap = part.holds if part.holds is not None and part.holds.kind == "swap" else None
    boot = is_bios_boot(part.type)
    return Wanted(
        number=part.number,
        type=part.type.lower(),
        source_bytes=part.size_bytes,
        minimum_bytes=minimum_bytes(replace(swap, size_bytes=part.size_bytes), 0) if swap else part.size_bytes,
        start_bytes=part.start_bytes,
        purpose="swap" if swap else "bios-grub" if boot else "",
        part_uuid=part.part_uuid.lower(),
        part_label=part.part_label,
        flags=part.flags,
        filesystem=swap,
        # Nothing of it was captured: it is kept, empty, only where there is room for it.
        may_go=not boot,
    )


def _of_volumes(volumes: tuple[Volume, ...], part: Partition | None, headroom_bytes: int) -> Wanted:
    """The partition of a volume, or of all subvolumes of one btrfs."""
    together = replace(
        volumes[0],
        entries=sum(volume.entries for volume in volumes),
        content_bytes=sum(volume.content_bytes for volume in volumes),
    )
    want = _of_volume(together, part, headroom_bytes)
    return replace(want, beside=tuple(volume.id for volume in volumes[1:]), subvolumes=_planned_subvolumes(volumes))


def _planned_subvolumes(volumes: tuple[Volume, ...]) -> tuple[PlannedSubvolume, ...]:
    own = {volume.subvolume: volume.filesystem for volume in volumes if volume.subvolume}
    made = [each for each in union(volume.subvolumes for volume in volumes) if each.path != TOP]
    paths = [*([Subvolume(TOP)] if TOP in own else []), *made]
    return tuple(
        PlannedSubvolume(
            path=each.path,
            mountpoint=(own[each.path].mountpoint or "/") if each.path in own else "",
            default=each.default,
            options=compression_option(own[each.path].options) if each.path in own else "",
        )
        for each in paths
    )


def _of_volume(volume: Volume, part: Partition | None, headroom_bytes: int) -> Wanted:
    if volume.kind == BLOCKS:
        return _of_blocks(volume, part)
    fs = as_made(volume)
    smallest = minimum_bytes(fs, volume.entries, headroom_bytes if fs.mountpoint == "/" else 0)
    size = part.size_bytes if part else fs.size_bytes or smallest
    want = Wanted(
        number=part.number if part else 0,
        type=part.type.lower() if part else LINUX,
        source_bytes=size,
        # What the source held within its size, the target can hold within it.
        minimum_bytes=min(smallest, size),
        start_bytes=part.start_bytes if part else 0,
        purpose=volume.id,
        part_uuid=part.part_uuid.lower() if part else "",
        part_label=part.part_label if part else "",
        flags=part.flags if part else (),
        filesystem=fs,
        volume=volume.id,
        entries=volume.entries,
    )
    return _large_enough(want)


def _large_enough(want: Wanted) -> Wanted:
    """More than the source had, where the file system cannot be made so small any more."""
    floor = floor_bytes(want.filesystem) if want.filesystem else 0
    return replace(want, minimum_bytes=floor, wanted_bytes=floor) if want.full_bytes < floor else want


def of_stacked(volumes: tuple[Volume, ...], size_bytes: int, headroom_bytes: int, boot_free_bytes: int) -> Wanted:
    """What a volume on a stack, or all subvolumes of one btrfs there, needs of the device of ``size_bytes`` that it
    lies on."""
    want = _of_volumes(tuple(sorted(volumes, key=_depth)), None, headroom_bytes)
    want = replace(want, source_bytes=size_bytes, minimum_bytes=min(want.minimum_bytes, size_bytes), wanted_bytes=0)
    return with_boot_room([_large_enough(want)], boot_free_bytes)[0]


def as_made(volume: Volume) -> FileSystem:
    """The file system that is made for a tree, with what it will hold."""
    fs = volume.filesystem
    if fs.kind not in WRITABLE:  # the tree of a directory that lies on an overlay or in memory
        fs = FileSystem("ext4", mountpoint=fs.mountpoint)
    return replace(fs, mountpoint=fs.mountpoint or "/", used_bytes=held_bytes(volume))


def with_boot_room(wanted: list[Wanted], free_bytes: int) -> list[Wanted]:
    """A /boot of its own large enough to have so much free, whatever it was."""
    found = []
    for want in wanted:
        fs = want.filesystem
        if fs is None or fs.mountpoint != "/boot" or not free_bytes:
            found.append(want)
            continue
        least = minimum_bytes(fs, want.entries, free_bytes)
        least = -(-least // MIB) * MIB
        found.append(replace(want, minimum_bytes=least, wanted_bytes=max(least, want.source_bytes)))
    return found


def _of_blocks(volume: Volume, part: Partition | None) -> Wanted:
    """Blocks have their places: the partition is as large as it was, or larger."""
    return Wanted(
        number=part.number if part else 0,
        type=part.type.lower() if part else BASIC_DATA,
        source_bytes=volume.size_bytes,
        minimum_bytes=volume.size_bytes,
        start_bytes=part.start_bytes if part else 0,
        purpose=volume.id,
        part_uuid=part.part_uuid.lower() if part else "",
        part_label=part.part_label if part else "",
        flags=part.flags if part else (),
        blocks=volume.filesystem,
        volume=volume.id,
    )


def held_bytes(volume: Volume) -> int:
    """What the tree takes in a file system: at most each file rounded up to a block, and a block for its name.

    Used bytes of the source may be less (compression, shared extents: both are undone by writing files) or more
    (tables of an ext file system that was not mounted).
    """
    most = volume.content_bytes + 4096 * volume.entries
    used = volume.filesystem.used_bytes
    return min(used, most) if used and volume.filesystem.kind in EXT else most


def with_boot_partitions(  # noqa: PLR0913 - the last has a default
    wanted: list[Wanted], table: str, firmware: Firmware, manifest: Manifest, sector_bytes: int, apart: str = ""
) -> list[Wanted]:
    """An EFI system partition for UEFI, in the place of a BIOS boot partition if there is one; the reverse for BIOS.

    ``apart``, as for `derived`, has a copy of the EFI system partition, which is mounted nowhere.
    """
    bios_boot = next((want for want in wanted if is_bios_boot(want.type)), None)
    if firmware is Firmware.UEFI:
        wanted = [_with_filesystem(want, manifest, apart) if is_esp(want.type) else want for want in wanted]
    if firmware is Firmware.UEFI and not any(is_esp(want.type) for want in wanted):
        number = bios_boot.number if bios_boot else free_number(wanted, table)
        rest = [want for want in wanted if want is not bios_boot]
        return [_new_esp(number, table, manifest, sector_bytes, apart), *rest]
    if firmware is Firmware.BIOS and table == "gpt" and bios_boot is None:
        made = Wanted(
            number=free_number(wanted, table),
            type=BIOS_BOOT,
            source_bytes=BIOS_BOOT_BYTES,
            minimum_bytes=BIOS_BOOT_BYTES,
            purpose="bios-grub",
            part_uuid=str(derived(manifest, "bios-grub", apart)),
        )
        return [made, *wanted]
    return wanted


def free_number(wanted: Sequence[Wanted], table: str) -> int:
    taken = {want.number for want in wanted}
    limit = MBR_NUMBERS if table == "mbr" else GPT_NUMBERS
    free = next((number for number in range(1, limit + 1) if number not in taken), 0)
    if not free:
        raise DoesNotFitError(
            f"the {table.upper()} table has {limit} partitions, and this machine needs one more",
            "use a machine with the firmware that the source had",
        )
    return free


def _new_esp(number: int, table: str, manifest: Manifest, sector_bytes: int, apart: str) -> Wanted:
    return Wanted(
        number=number,
        type=ESP if table == "gpt" else ESP_MBR,
        source_bytes=ESP_BYTES,
        minimum_bytes=ESP_FLOOR_BYTES.get(sector_bytes, ESP_BYTES),
        purpose="esp",
        part_uuid=str(derived(manifest, "esp-partition", apart)) if table == "gpt" else "",
        part_label="EFI System Partition" if table == "gpt" else "",
        filesystem=_esp_filesystem(manifest, apart),
    )


def _esp_filesystem(manifest: Manifest, apart: str) -> FileSystem:
    """A copy has the same UUID: fstab finds whichever of the two disks is left."""
    serial = derived(manifest, "esp-filesystem").hex[:8].upper()
    mountpoint = "" if apart else "/boot/efi"
    return FileSystem(
        "vfat", uuid=f"{serial[:4]}-{serial[4:]}", label="EFI", mountpoint=mountpoint, options="umask=0077"
    )


def _with_filesystem(want: Wanted, manifest: Manifest, apart: str) -> Wanted:
    """An EFI system partition that was not mounted when the image was made is made anew."""
    if want.filesystem is not None or want.blocks is not None or want.stack:
        return want
    return replace(want, filesystem=_esp_filesystem(manifest, apart), purpose="esp", may_go=False)
