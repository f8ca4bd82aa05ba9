"""Every step of a restore, in order, each naming what it destroys and what it expects; the plan has a digest.

A dry run is "stop after the plan". Steps are values; `agent.restore.run` executes them one by one.
"""

from __future__ import annotations

import hashlib

import msgspec

from agent.model.choices import NONE, Choices
from agent.model.recipe import BoundRecipe

FORMAT = 1


class DiskIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Which disk is meant. Compared again on the open file descriptor before the first write."""

    name: str  # kernel name when the plan was made: evidence only, names move
    model: str
    serial: str
    wwn: str
    size_bytes: int
    logical_sector_bytes: int
    by_path: str = ""
    content: str = ""  # one line for people: what the disk holds now


class PlannedPartition(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    start_bytes: int
    size_bytes: int
    type: str  # GPT type GUID, or MBR "0x83"
    part_uuid: str  # "" lets the table tool choose
    part_label: str = ""
    flags: tuple[str, ...] = ()
    purpose: str = ""  # volume id, "swap", "esp", "bios-grub", …


class PlannedSubvolume(msgspec.Struct, frozen=True, kw_only=True):
    """A subvolume of a btrfs."""

    path: str  # from the top of the file system, ``/@home``; ``/`` the top itself, which is mounted and not made
    mountpoint: str = ""  # "" of one that is only made
    default: bool = False  # what is mounted without subvol=
    options: str = ""  # compression that files are written with


class PlannedFilesystem(msgspec.Struct, frozen=True, kw_only=True):
    kind: str  # ext2, ext3, ext4, xfs, btrfs, vfat, swap
    uuid: str
    label: str = ""
    features: tuple[str, ...] = ()  # as in model.storage.FileSystem.features
    block_bytes: int = 0
    inodes: int = 0  # at least so many where the file system fixes their number
    mountpoint: str = ""  # "" for swap
    options: str = ""
    subvolumes: tuple[PlannedSubvolume, ...] = ()  # of a btrfs, those around others first


class ClearDisk(msgspec.Struct, frozen=True, kw_only=True, tag="clear-disk"):
    """Destroy table, boot sector and signatures: from here on the disk does not boot until the loader is in."""

    disk: DiskIdentity


class WriteTable(msgspec.Struct, frozen=True, kw_only=True, tag="write-table"):
    disk: DiskIdentity
    table: str  # gpt, mbr
    table_id: str
    partitions: tuple[PlannedPartition, ...]


class MakeFilesystem(msgspec.Struct, frozen=True, kw_only=True, tag="make-filesystem"):
    partition: int
    filesystem: PlannedFilesystem
    disk: str = ""  # DiskIdentity.name of one of Plan.also; "" is Plan.disk


# Partition numbers of a plan from here on are places above the partitions, which these steps make: an opened LUKS
# device, an array, a logical volume.
FIRST_STACKED = 1001


class PlannedLuks(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    uuid: str
    name: str  # of the mapping, as crypttab gives it
    label: str = ""
    cipher: str = ""
    key_bytes: int = 0
    sector_bytes: int = 512
    offset_bytes: int = 0  # of the data
    kdf: str = ""


class PlannedArray(msgspec.Struct, frozen=True, kw_only=True):
    uuid: str
    level: str  # raid1
    node: str  # md0
    name: str = ""
    devices: int = 1  # those that are not there are missing
    metadata: str = "1.2"
    chunk_bytes: int = 0
    layout: str = ""
    offset_bytes: int = 0
    bitmap: bool = False


class PlannedMember(msgspec.Struct, frozen=True, kw_only=True):
    """A partition of a further disk that is a member of an array."""

    disk: str  # DiskIdentity.name of one of Plan.also
    partition: int


class PlannedPhysicalVolume(msgspec.Struct, frozen=True, kw_only=True):
    on: int  # partition or place
    uuid: str
    size_bytes: int
    offset_bytes: int
    extents: int


class PlannedLogicalVolume(msgspec.Struct, frozen=True, kw_only=True):
    place: int
    name: str
    uuid: str
    extents: int


class PlannedGroup(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    uuid: str
    extent_bytes: int
    physical: tuple[PlannedPhysicalVolume, ...]
    logical: tuple[PlannedLogicalVolume, ...]


class MakeLuks(msgspec.Struct, frozen=True, kw_only=True, tag="make-luks"):
    """Make a LUKS device with the key that is asked for when the plan is carried out, and open it as ``place``."""

    place: int
    on: int
    luks: PlannedLuks


class MakeArray(msgspec.Struct, frozen=True, kw_only=True, tag="make-array"):
    place: int
    on: tuple[int, ...]
    array: PlannedArray
    also: tuple[PlannedMember, ...] = ()  # its members on further disks


class MakeVolumeGroup(msgspec.Struct, frozen=True, kw_only=True, tag="make-volume-group"):
    """Make physical volumes, their group and its logical volumes, all with the identities they had."""

    group: PlannedGroup


StackStep = MakeLuks | MakeArray | MakeVolumeGroup


class WriteTree(msgspec.Struct, frozen=True, kw_only=True, tag="write-tree"):
    volume: str
    partition: int
    mountpoint: str
    listing_sha256: str
    entries: int
    content_bytes: int
    trust_metadata: bool = False  # files of the right size, time, mode and owner are not read to be believed
    disk: str = ""


class VerifyTree(msgspec.Struct, frozen=True, kw_only=True, tag="verify-tree"):
    """Read a volume back with the page cache dropped and compare every digest and all metadata."""

    volume: str
    partition: int
    mountpoint: str
    listing_sha256: str
    trust_metadata: bool = False  # only what this run wrote is read; of the rest the metadata is compared
    disk: str = ""


class WriteBlocks(msgspec.Struct, frozen=True, kw_only=True, tag="write-blocks"):
    """Write the used blocks of a volume to their places on a partition."""

    volume: str
    partition: int
    listing_sha256: str
    size_bytes: int  # the partition is at least so large
    content_bytes: int
    disk: str = ""


class VerifyBlocks(msgspec.Struct, frozen=True, kw_only=True, tag="verify-blocks"):
    """Read a volume of blocks back with the page cache dropped and compare every used block."""

    volume: str
    partition: int
    listing_sha256: str
    disk: str = ""


class FitFilesystem(msgspec.Struct, frozen=True, kw_only=True, tag="fit-filesystem"):
    """Tell a file system of a blocks volume where its partition begins now, and let it grow to the end of it."""

    partition: int
    volume: str
    kind: str
    size_bytes: int  # of the partition, which it shall fill; 0: it keeps its size
    start_sectors: tuple[int, int]  # where the partition began, and begins
    disk: str = ""


class WriteBootCode(msgspec.Struct, frozen=True, kw_only=True, tag="write-boot-code"):
    """Put the image's own boot code into the first sector, last of all writes."""

    disk: DiskIdentity
    code: bytes


class ApplyRecipe(msgspec.Struct, frozen=True, kw_only=True, tag="apply-recipe"):
    recipe: BoundRecipe


class RebuildInitramfs(msgspec.Struct, frozen=True, kw_only=True, tag="rebuild-initramfs"):
    release: str
    tool: str  # initramfs-tools, dracut
    modules: tuple[str, ...]  # must be in the result (or built into the kernel)
    files: tuple[str, ...] = ()  # that it is to hold, where the system has them, and would not by itself


class EnrolKey(msgspec.Struct, frozen=True, kw_only=True, tag="enrol-key"):
    """Let a key file of the restored system open an encrypted device, as it opened the one that the image was taken of.

    ``offset_bytes`` and ``size_bytes`` (0: to its end) are the part of the file that is the key; ``slot`` -1: any.
    """

    on: int  # partition or place of the device, as in MakeLuks
    uuid: str
    name: str  # of the mapping
    path: str  # of the key file in the restored system
    offset_bytes: int = 0
    size_bytes: int = 0
    slot: int = -1
    kdf: str = ""  # of the new key; "" leaves it to cryptsetup


class Relabel(msgspec.Struct, frozen=True, kw_only=True, tag="relabel"):
    """Give what was changed the SELinux labels of the image's policy, after everything that changes files."""

    fallback: str = "/.autorelabel"  # made where it cannot be done from here


class BootDisk(msgspec.Struct, frozen=True, kw_only=True):
    """A further disk from which the system can start, too: a mirror's other half."""

    disk: DiskIdentity
    esp_partition: int = 0


class InstallBootloader(msgspec.Struct, frozen=True, kw_only=True, tag="install-bootloader"):
    """Make the disk bootable, last of all writes: boot sector or ESP, fallback path, NVRAM entry."""

    firmware: str  # bios, uefi
    disk: DiskIdentity
    esp_partition: int = 0
    boot_filesystem_uuid: str = ""  # of the file system that holds /boot/grub
    boot_directory: str = "/boot"  # path of the grub directory's parent inside that file system
    label: str = ""  # of the NVRAM entry; "" makes none
    known_as: str = ""  # device node that the system will know the disk by; "" asks udev, which knows it here
    distributor: str = "debian"  # directory below EFI/
    also: tuple[BootDisk, ...] = ()


class VerifyBoot(msgspec.Struct, frozen=True, kw_only=True, tag="verify-boot"):
    """Prove that the result will boot; red means no reboot."""

    firmware: str
    esp_partition: int
    releases: tuple[str, ...]
    modules: tuple[str, ...]
    also: tuple[BootDisk, ...] = ()


Step = (
    ClearDisk | WriteTable | MakeLuks | MakeArray | MakeVolumeGroup | MakeFilesystem | WriteTree | VerifyTree
    | WriteBlocks | VerifyBlocks | FitFilesystem | WriteBootCode | ApplyRecipe | RebuildInitramfs | InstallBootloader
    | EnrolKey | Relabel | VerifyBoot
)  # fmt: skip


class ComponentChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A component this restore takes, its payload pinned by digest, and why it won."""

    id: str
    version: str
    files: tuple[tuple[str, str, int], ...]  # path in the depot, sha256, size in bytes
    reason: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    mode: str  # restore, clone
    image: str  # NAME@TIME
    manifest_sha256: str
    source_profile_sha256: str
    target_profile_sha256: str
    difference_sha256: str
    disk: DiskIdentity
    untouched: tuple[str, ...]  # the other disks, one line each: "nvme1n1 QEMU NVMe serial X 2.0 GiB"
    components: tuple[ComponentChoice, ...]
    steps: tuple[Step, ...]
    warnings: tuple[str, ...] = ()
    choices: Choices = NONE  # what the operator decided otherwise
    site_recipes: tuple[str, ...] = ()  # which recipes are not the shipped ones, a line each
    also: tuple[DiskIdentity, ...] = ()  # further disks that are erased and written
    grow: str = ""  # who gets the space of a larger disk: largest, last, proportional, none, or a volume
    unsure: tuple[str, ...] = ()  # what a person must look at: an unattended run stops

    @property
    def disks(self) -> tuple[DiskIdentity, ...]:
        """Every disk that is erased, the one that boots first."""
        return (self.disk, *self.also)


def encode(plan: Plan) -> bytes:
    """Canonical JSON of a plan: fields in their declared order."""
    return msgspec.json.encode(plan)


def digest(plan: Plan) -> str:
    """SHA-256 of the canonical JSON; what consent and tickets name."""
    return hashlib.sha256(encode(plan)).hexdigest()


def decode(data: bytes) -> Plan:
    return msgspec.json.decode(data, type=Plan, strict=True)


def describe(step: Step) -> str:  # noqa: PLR0912 - one case a step
    """One line for people."""
    match step:
        case ClearDisk(disk=disk):
            return f"ERASE {disk.name}: {disk.model} serial {disk.serial or '-'}, {disk.size_bytes:,} bytes"
        case WriteTable(disk=disk, table=table, partitions=parts):
            return f"write {table.upper()} partition table with {len(parts)} partitions to {disk.name}"
        case MakeLuks() | MakeArray() | MakeVolumeGroup():
            return _describe_stack(step)
        case MakeFilesystem(filesystem=fs):
            return f"make {fs.kind} {fs.uuid} on {_partition(step)}" + _describe_use(fs)
        case WriteTree(volume=volume, mountpoint=mount, entries=entries, content_bytes=size, trust_metadata=trusting):
            what = f"write volume {volume} to {mount}: {entries:,} entries, {size:,} bytes"
            return what + (", keeping files whose size, time, mode and owner are right" if trusting else "")
        case WriteBlocks(volume=volume, content_bytes=size):
            return f"write the blocks of volume {volume} to {_partition(step)}: {size:,} bytes"
        case VerifyTree(volume=volume, trust_metadata=trusting):
            return f"read {'what was written of ' if trusting else ''}volume {volume} back and compare"
        case VerifyBlocks(volume=volume):
            return f"read volume {volume} back and compare"
        case FitFilesystem():
            return _describe_fit(step)
        case WriteBootCode(code=code):
            return f"write the image's own boot code, {len(code)} bytes, to the first sector"
        case ApplyRecipe(recipe=recipe):
            origin = "" if recipe.origin == "shipped" else f" (of the {recipe.origin})"
            return f"adapt [{recipe.tier}] {recipe.id}: {recipe.title}{origin}"
        case RebuildInitramfs(release=release, modules=modules):
            return f"rebuild initramfs of {release}" + (f" with {', '.join(modules)}" if modules else "")
        case InstallBootloader(firmware=firmware, also=also):
            more = f", on {', '.join(each.disk.name for each in also)} too" if also else ""
            return f"install boot loader for {firmware.upper()}{more}"
        case EnrolKey(path=path, name=name):
            return f"let {path} of the system open {name}, as it did"
        case Relabel():
            return "label what was changed as the image's SELinux policy says"
        case VerifyBoot():
            return "prove that it will boot"


def _partition(step: MakeFilesystem | WriteBlocks | FitFilesystem) -> str:
    return _place(step.partition) + (f" of {step.disk}" if step.disk else "")


def _place(number: int) -> str:
    return f"partition {number}" if number < FIRST_STACKED else f"place {number}"


def _describe_stack(step: StackStep) -> str:
    match step:
        case MakeLuks(place=place, on=on, luks=luks):
            return f"encrypt {_place(on)} as LUKS{luks.version} {luks.uuid}, opened as {luks.name} (place {place})"
        case MakeArray(place=place, on=on, array=array, also=also):
            missing = array.devices - len(on) - len(also)
            members = [*map(_place, on), *(f"{_place(each.partition)} of {each.disk}" for each in also)]
            return (
                f"make {array.level} {array.uuid} of {', '.join(members)}"
                + (f" and {missing} missing" if missing else "")
                + f" as {array.node} (place {place})"
            )
        case MakeVolumeGroup(group=group):
            volumes = ", ".join(f"{each.name} (place {each.place})" for each in group.logical)
            return f"make volume group {group.name} on {', '.join(_place(p.on) for p in group.physical)}: {volumes}"


def _describe_use(fs: PlannedFilesystem) -> str:
    made = [each.path + (" (default)" if each.default else "") for each in fs.subvolumes if each.path != "/"]
    subvolumes = f" with the subvolumes {', '.join(made)}" if made else ""
    return (f" for {fs.mountpoint}" if fs.mountpoint else "") + subvolumes


def _describe_fit(step: FitFilesystem) -> str:
    old, new = step.start_sectors
    deeds = [f"grow it to {step.size_bytes:,} bytes"] if step.size_bytes else []
    if old != new:
        deeds.insert(0, f"tell it that it begins at sector {new:,}")
    return f"fit {step.kind} to {_partition(step)}: {', '.join(deeds)}"
