"""What can be captured: the running system, the system on a disk that does not run, the tree below a directory.

What cannot be read as files there is captured by its blocks, unmounted (`agent.probe.blocks`).
Also the reverse: the volumes of a restored disk, mounted to be read. Everything that is mounted here is mounted
read-only, and only when reading it does not need a journal to be played back: nothing on the disk changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from agent.errors import DamagedError, ReadBackError, RefusedError, UsageError
from agent.image.capture import CaptureSource, SourceVolume
from agent.model.excludes import site_excludes
from agent.model.image import AT_REST, Excluded, Manifest, Volume
from agent.model.profile import (
    NO_STACK,
    SECTIONS,
    Disk,
    FileSystem,
    Network,
    Partition,
    Profile,
    Section,
    Stack,
    Status,
)
from agent.model.stack import disks_of, held_at, on_disks, with_holds
from agent.model.tree import read_text
from agent.probe.blocks import NO_CHOICE, STACKS, Choice, blocks_of, boot_code, refuse_unknown
from agent.probe.disks import Surroundings, mount_of, partition_name, read_disk
from agent.probe.filesystems import mounted_use, unclean
from agent.probe.live_tree import LiveTree
from agent.probe.machine import merged, probe_hardware, probe_machine, probe_root, with_boot_role
from agent.probe.mounts import FstabEntry, Mount, disks_below, fstab_entries
from agent.probe.network import named_by_system
from agent.probe.stack import OpenStack, read_stack
from agent.probe.stack_open import KeyOf, Places, no_keys, opened_places
from agent.probe.stack_source import crypttab_names, left_out_of, refuse_unmade
from agent.process import run

KINDS = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "vfat"})
# A clean journal has nothing to play back; that the kernel does not look for work makes sure of it.
NO_REPLAY = {"ext3": "noload", "ext4": "noload", "xfs": "norecovery", "btrfs": "rescue=nologreplay"}
TAGS = {"UUID": "uuid", "LABEL": "label"}


# --- the running system ---------------------------------------------------------------------------------------------


def live_source(name: str, choice: Choice = NO_CHOICE) -> CaptureSource:
    """The running system: its mounted file systems on local disks, the other partitions of these disks by their
    blocks. Raises RefusedError for what cannot travel."""
    profile = probe_machine(name)
    around = Surroundings.of()
    opened = read_stack(profile.disks, around)
    volumes: list[SourceVolume] = []
    for mount in sorted(captured_mounts(profile.disks, around, opened), key=lambda mount: mount.mountpoint):
        if choice.names(mount.device):
            refuse_without_root(mount)
            continue
        device = opened.stacked_place_of(mount.device)
        disk, partition, held = place_of(profile, mount.device, device)
        if not held.uuid:
            raise RefusedError(
                f"the file system of {mount.mountpoint} on {mount.device} cannot be read: {profile_reason(profile)}",
                "capture as root, on a machine that may read its own disks",
            )
        filesystem = replace(held, kind=mount.kind, mountpoint=mount.mountpoint)
        volumes.append(
            SourceVolume(
                volume_id(mount.mountpoint, {v.id for v in volumes}), mounted_use(filesystem, Path(mount.mountpoint)),
                Path(mount.mountpoint), disk, partition, device=device,
            )
        )  # fmt: skip
    names = disk_names(volumes, profile.stack)
    disks = [disk for disk in profile.disks if disk.name in names]
    refuse_unknown(choice, disks)
    found = [blocks_of(disk, volumes, choice, around) for disk in disks]
    source = source_of(profile, [*volumes, *(volume for each in found for volume in each.volumes)])
    refuse_unmade(source)
    left_out = (*(each for one in found for each in one.left_out), *left_out_of(source))
    return replace(source, left_out=left_out, excludes=site_excludes(LiveTree(Path("/"))))


def refuse_without_root(mount: Mount) -> None:
    if mount.mountpoint == "/":
        raise UsageError(f"{mount.device} holds the root of this system, and cannot be left out or taken by its blocks")


def profile_reason(profile: Profile) -> str:
    return next((section.reason for section in profile.sections if section.name == "storage"), "") or "it has no UUID"


def captured_mounts(disks: tuple[Disk, ...], around: Surroundings, opened: OpenStack) -> Iterator[Mount]:
    """One mount of every file system that belongs to the system; what is plugged in for a while does not."""
    known = {disk.name: disk for disk in disks}
    root = next((mount for mount in around.mounts if mount.mountpoint == "/"), None)
    if root is None or root.kind not in KINDS:
        raise RefusedError(
            f"the root file system is {root.kind if root else 'unknown'}, expected one of {', '.join(sorted(KINDS))}",
            "capture the tree with ‘regraft capture --root DIR’",
        )
    for mount in around.mounts:
        below = disks_below(around.root, mount.device) & known.keys()
        if mount.kind not in KINDS or not below or mount != mount_of(mount.device, around):
            continue
        attached = [known[name] for name in below]
        if mount is not root and any(disk.removable or disk.transport == "usb" for disk in attached):
            continue
        refuse_stacks(mount, below, around.root, opened)
        yield mount


def refuse_stacks(mount: Mount, disks: frozenset[str], root: Path, opened: OpenStack) -> None:
    """A part of a file system, or one on a stack that is not known, would come back as something else."""
    device = (root / "sys/class/block" / mount.device).resolve()
    direct = mount.device in disks or device.parent.name in disks or bool(opened.stacked_place_of(mount.device))
    hint = "capture the tree with ‘regraft capture --root DIR’"
    if not direct:
        raise RefusedError(
            f"{mount.mountpoint} lies on {mount.device}; expected a partition, or LVM, md RAID or LUKS that can be "
            "read (lvm2, mdadm and cryptsetup tell of them)",
            hint,
        )
    if mount.root != "/":
        raise RefusedError(
            f"{mount.mountpoint} is ‘{mount.root}’ of {mount.device}, expected a whole file system", hint
        )


def place_of(profile: Profile, device: str, stacked: str) -> tuple[str, int, FileSystem]:
    """Disk, partition number (0: the whole disk) and what lies there; no disk for a place in the stack."""
    if stacked:
        return "", 0, held_at(profile.stack, stacked) or FileSystem("")
    for disk in profile.disks:
        if disk.name == device:
            return disk.name, 0, disk.holds or FileSystem("")
        for partition in disk.partitions:
            if partition_name(Path("/"), disk.name, partition.number) == device:
                return disk.name, partition.number, partition.holds or FileSystem("")
    raise RefusedError(f"{device} is mounted, but no partition table names it", "write the table, or run partprobe")


def source_of(profile: Profile, volumes: list[SourceVolume]) -> CaptureSource:
    """The source, with the disks that its volumes lie on; the one that boots first."""
    names = disk_names(volumes, profile.stack)
    disks = sorted((disk for disk in profile.disks if disk.name in names), key=lambda disk: disk.role != "boot")
    hostname = profile.hostname or profile.machine
    stack = on_disks(profile.stack, names)
    return CaptureSource(profile.machine, hostname, profile, tuple(disks), tuple(volumes), stack=stack)


def disk_names(volumes: Iterable[SourceVolume], stack: Stack) -> frozenset[str]:
    """The disks that volumes lie on, directly or at the bottom of their stack."""
    direct = {volume.disk for volume in volumes if volume.disk}
    return frozenset(direct.union(*(disks_of(stack, volume.device) for volume in volumes if volume.device)))


def volume_id(mountpoint: str, taken: set[str]) -> str:
    """``root``, ``srv``, ``boot-efi``; unique in the image."""
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", mountpoint).strip("-.")[:48] or "root"
    return next(
        name for name in (plain, *(f"{plain}-{n}" for n in range(2, len(taken) + 3))) if name not in taken
    )  # fmt: skip


# --- a directory ----------------------------------------------------------------------------------------------------


def directory_source(root: Path, name: str) -> CaptureSource:
    """The tree below a directory as one volume without a place on a disk."""
    profile = probe_root(LiveTree(root), name)
    filesystem = mounted_use(FileSystem("", mountpoint="/"), root)
    source = source_of(profile, [SourceVolume("root", filesystem, root)])
    return replace(source, excludes=site_excludes(LiveTree(root)))


# --- a disk that does not run ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MountedSystem:
    """The system of a disk, mounted to be read."""

    tree: LiveTree
    disk: Disk  # as its own system would describe it
    volumes: list[SourceVolume]
    left_out: tuple[Excluded, ...]
    stack: Stack = NO_STACK


@contextmanager
def mounted_system(places: Places, root: int, mount_root: Path, choice: Choice = NO_CHOICE) -> Iterator[MountedSystem]:
    """The system on place ``root``, mounted read-only below ``mount_root`` as its fstab says, and what lies beside
    it on the disk; unmounted at the end."""
    with ExitStack() as stack:
        mount_read_only(places, root, mount_root, stack)
        tree = LiveTree(mount_root)
        entries = fstab_entries(read_text(tree, "/etc/fstab"))
        places = replace(places, stack=crypttab_names(places.stack, places.disk, tree))
        volumes = [volume_of(places, root, "/", mount_root, set())]
        for entry, number in fstab_places(entries, places):
            if entry.mountpoint == "/" or number == root or choice.names(places.node_name(number)):
                continue
            where = inside(tree, entry.mountpoint)
            mount_read_only(places, number, where, stack)
            volumes.append(volume_of(places, number, entry.mountpoint, where, {volume.id for volume in volumes}))
        blocks = blocks_of(places.disk, volumes, choice)
        described = described_disk(places, volumes, entries)
        stacked = described_stack(places, volumes, entries)
        yield MountedSystem(tree, described, [*volumes, *blocks.volumes], blocks.left_out, stacked)


@contextmanager
def offline_source(
    disk_name: str, machine: str, mount_root: Path, choice: Choice = NO_CHOICE, key_of: KeyOf = no_keys
) -> Iterator[CaptureSource]:
    """The system on a disk of this machine, and this machine's hardware. ``key_of`` opens what is encrypted.

    Without a system whose files are read (Windows, or only data), the disk as it is, by its blocks.
    """
    hardware = probe_hardware(machine)
    disk = next((disk for disk in hardware.disks if disk.name == disk_name), None) or read_disk(disk_name)
    refuse_unknown(choice, [disk])
    with opened_places(disk, hardware.disks, key_of) as places:
        root = find_root(places, mount_root, choice)
        if root is None:
            yield disk_source(disk, hardware, choice)
            return
        with mounted_system(places, root, mount_root, choice) as system:
            software = probe_root(system.tree, machine)
            nics = named_by_system(hardware.network.nics, software.network.configs, software.os.cmdline)
            others = tuple(each for each in hardware.disks if each.name != disk.name)
            hardware = replace(hardware, disks=(system.disk, *others), network=Network(nics=nics), stack=system.stack)
            source = source_of(merged(hardware, software), system.volumes)
            refuse_unmade(source)
            left_out = (*system.left_out, *left_out_of(source))
            yield replace(source, left_out=left_out, excludes=site_excludes(system.tree))


def disk_source(disk: Disk, hardware: Profile, choice: Choice) -> CaptureSource:
    """A disk without a system that is read as files: every partition by its blocks, and what BIOS starts from it."""
    stacks = sorted({held.kind for _, held in Places(disk).contents() if held.kind in STACKS})
    if stacks:
        raise RefusedError(
            f"no file system on {disk.name} holds a system (/etc/os-release and /etc/fstab); it may lie on "
            f"{', '.join(stacks)}, expected a partition",
            "start that system, and capture its tree with ‘regraft capture --root DIR’",
        )
    others = tuple(each for each in hardware.disks if each.name != disk.name)
    found = replace(with_boot_role([disk], [disk.name])[0], in_use=(), boot_medium=False)
    blocks = blocks_of(disk, (), choice)
    unread = "no system whose files could be read is on the disk"
    told = {section.name for section in hardware.sections}
    gone = tuple(Section(name, Status.UNAVAILABLE, unread) for name in SECTIONS if name not in told)
    # The addresses are those of the system that looks, not of the one on the disk.
    network = Network(nics=tuple(replace(nic, addresses=()) for nic in hardware.network.nics))
    profile = replace(hardware, disks=(found, *others), network=network, sections=(*hardware.sections, *gone))
    source = source_of(profile, list(blocks.volumes))
    return replace(source, left_out=blocks.left_out, boot_code=boot_code(disk))


def find_root(places: Places, mount_root: Path, choice: Choice = NO_CHOICE) -> int | None:
    """Number of the place with the system: the only one that has both an os-release and an fstab. None: none.

    What the caller decided on is not looked into.
    """
    found: list[int] = []
    for number, held in places.contents():
        if held.kind not in KINDS - {"vfat"} or choice.names(places.node_name(number)):
            continue
        with ExitStack() as stack:
            mount_read_only(places, number, mount_root, stack)
            tree = LiveTree(mount_root)
            # os-release may point into a /usr of its own
            system = tree.read_link("/etc/os-release") or tree.is_file("/etc/os-release")
            if system and tree.is_file("/etc/fstab"):
                found.append(number)
    if len(found) > 1:
        raise RefusedError(
            f"{len(found)} file systems on {places.disk.name} hold a system (/etc/os-release and /etc/fstab), "
            "expected 1",
            "capture another disk, or mount the system and use ‘regraft capture --root DIR’",
        )
    return found[0] if found else None


def mount_read_only(places: Places, number: int, where: Path, stack: ExitStack) -> None:
    """Mount a place so that nothing is written to it; RefusedError when its journal would have to be."""
    held = dict(places.contents())[number]
    node = Path("/dev") / places.node_name(number)
    problem = unclean(node, held.kind)
    if problem:
        raise RefusedError(
            f"{held.kind} on {node} was not unmounted cleanly: {problem}; reading it would write to the disk",
            "start that system once and shut it down, or let fsck repair it, then capture again",
        )
    options = ["ro", "nosuid", "nodev", "noexec", *([NO_REPLAY[held.kind]] if held.kind in NO_REPLAY else [])]
    where.mkdir(parents=True, exist_ok=True)
    run(["mount", "-t", held.kind, "-o", ",".join(options), node, where])
    stack.callback(run, ["umount", where])


def fstab_places(entries: tuple[FstabEntry, ...], places: Places) -> list[tuple[FstabEntry, int]]:
    """The entries that are about this disk, parents before what is mounted in them."""
    found = []
    for entry in entries:
        number = place_named(entry.device, places)
        if number is not None and entry.kind in KINDS | {"auto"} and entry.mountpoint.startswith("/"):
            found.append((entry, number))
    return sorted(found, key=lambda each: len(PurePosixPath(each[0].mountpoint).parts))


def place_named(device: str, places: Places) -> int | None:
    """The place that fstab calls ``device``. Kernel names change with the machine: of them the number counts."""
    tag, equals, value = device.partition("=")
    value = value.strip("\"'")
    link = re.fullmatch(r"/dev/disk/by-(uuid|label|partuuid|partlabel)/(.+)", device)
    if link:
        tag, equals, value = link[1].upper(), "=", link[2]
    for number, held in places.contents():
        if equals and tag in TAGS and getattr(held, TAGS[tag]).lower() == value.lower():
            return number
    for part in places.disk.partitions:
        if equals and value and value.lower() in _part_names(tag, part):
            return part.number
        named = re.fullmatch(r"/dev/(?:[shv]d[a-z]|xvd[a-z]|(?:nvme\d+n|mmcblk)\d+p)(\d+)", device)
        if not equals and named and int(named[1]) == part.number:
            return part.number
    return places.named(device)


def _part_names(tag: str, part: Partition) -> tuple[str, ...]:
    return {"PARTUUID": (part.part_uuid,), "PARTLABEL": (part.part_label.lower(),)}.get(tag, ())


def inside(tree: LiveTree, mountpoint: str) -> Path:
    where = tree.host_path(mountpoint)
    if where is None or not where.is_dir():
        raise DamagedError(f"fstab mounts {mountpoint}, which is no directory of the system")
    return where


def volume_of(places: Places, number: int, mountpoint: str, where: Path, taken: set[str]) -> SourceVolume:
    held = replace(dict(places.contents())[number], mountpoint=mountpoint)
    word = places.word(number)
    disk, partition = ("", 0) if word else (places.disk.name, number)
    id_ = volume_id(mountpoint, taken)
    return SourceVolume(id_, mounted_use(held, where), where, disk, partition, read=AT_REST, device=word)


def described_stack(places: Places, volumes: list[SourceVolume], entries: tuple[FstabEntry, ...]) -> Stack:
    """The stack as its own system would describe it."""
    options = {places.word(number): entry.options for entry, number in fstab_places(entries, places)}
    known = {volume.device: volume.filesystem for volume in volumes if volume.device}
    return with_holds(places.stack, {w: replace(fs, options=options.get(w, "")) for w, fs in known.items()})


def described_disk(places: Places, volumes: list[SourceVolume], entries: tuple[FstabEntry, ...]) -> Disk:
    """The disk as its own system would describe it."""
    disk = places.disk
    options = {number: entry.options for entry, number in fstab_places(entries, places)}
    swaps = {place_named(entry.device, places): entry.options for entry in entries if entry.kind == "swap"}
    known = {volume.partition: volume.filesystem for volume in volumes if volume.disk}

    def described(number: int, held: FileSystem | None) -> FileSystem | None:
        if held is None:
            return None
        if held.kind == "swap":
            return replace(held, options=swaps.get(number, ""))
        return replace(known.get(number, held), options=options.get(number, ""))

    partitions = tuple(replace(part, holds=described(part.number, part.holds)) for part in disk.partitions)
    found = replace(disk, partitions=partitions, holds=described(0, disk.holds), in_use=(), boot_medium=False)
    return with_boot_role([found], [disk.name])[0]


# --- a restored disk ------------------------------------------------------------------------------------------------


@contextmanager
def mounted_volumes(
    disk: Disk, manifest: Manifest, mount_root: Path, machine: tuple[Disk, ...] = (), key_of: KeyOf = no_keys
) -> Iterator[Path]:
    """The volumes of an image, as they lie on a disk, mounted read-only below one root; unmounted at the end."""
    with ExitStack() as stack:
        places = stack.enter_context(opened_places(disk, machine, key_of))
        found = {held.uuid: number for number, held in places.contents() if held.uuid}
        for volume in sorted(manifest.trees, key=lambda v: len(PurePosixPath(v.filesystem.mountpoint).parts)):
            number = found.get(volume.filesystem.uuid)
            if number is None:
                raise ReadBackError(
                    f"disk {disk.name} has no file system {volume.filesystem.uuid} (volume {volume.id} of "
                    f"{manifest.ref}), found {', '.join(sorted(found)) or 'none'}",
                    "name the disk that the image was restored to, or restore again",
                )
            mountpoint = volume.filesystem.mountpoint
            where = mount_root if mountpoint == "/" else inside(LiveTree(mount_root), mountpoint)
            mount_read_only(places, number, where, stack)
        yield mount_root


def node_of_volume(disk: Disk, manifest: Manifest, volume: Volume) -> Path:
    """The partition that a blocks volume was restored to: of the same PARTUUID, else of the same number."""
    sources = {source.name: source for source in manifest.disks}
    source = sources.get(volume.disk)
    part = next((part for part in source.partitions if part.number == volume.partition), None) if source else None
    same = [each for each in disk.partitions if part and part.part_uuid and each.part_uuid == part.part_uuid]
    same = same or [each for each in disk.partitions if each.number == max(volume.partition, 1)]
    name = partition_name(Path("/"), disk.name, same[0].number) if same else ""
    if not name:
        raise ReadBackError(
            f"disk {disk.name} has no partition {volume.partition} (volume {volume.id} of {manifest.ref})",
            "name the disk that the image was restored to, or restore again",
        )
    return Path("/dev") / name
