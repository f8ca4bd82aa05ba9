"""What can be captured: the running system, the system on a disk that does not run, the tree below a directory.

What cannot be read as files there is captured by its blocks, unmounted (`agent.probe.blocks`).
Everything that is mounted here is mounted read-only, and only when reading it does not need a journal to be played
back: nothing on the disk changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from agent.errors import DamagedError, RefusedError, UsageError
from agent.image.capture import CaptureSource, SourceVolume
from agent.model.excludes import site_excludes
from agent.model.image import AT_REST, LIVE, Excluded
from agent.model.profile import SECTIONS, Network, Profile, Section, Status
from agent.model.stack import disks_of, held_at, on_disks, with_holds
from agent.model.storage import NO_STACK, Disk, FileSystem, Partition, Stack
from agent.model.subvolumes import TOP, is_own_root, subvolume_option
from agent.model.tree import read_text
from agent.probe.blocks import NO_CHOICE, STACKS, Choice, blocks_of, blocks_on, boot_code, refuse_unknown
from agent.probe.captured_mounts import KINDS, captured_mounts, in_use, plugged_in
from agent.probe.disks import Surroundings, partition_name, read_disk
from agent.probe.filesystems import mounted_use, unclean
from agent.probe.live_tree import LiveTree
from agent.probe.machine import merged, probe_hardware, probe_machine, probe_root, with_boot_role
from agent.probe.mounts import FstabEntry, Mount, fstab_entries
from agent.probe.network import named_by_system
from agent.probe.stack import read_stack
from agent.probe.stack_open import BESIDE_STEP, KeyOf, Places, no_keys, opened_places
from agent.probe.stack_source import crypttab_names, left_out_of_stack, refuse_unmade
from agent.probe.subvolumes import Lies, Mounted, System, seen_on, shown_subvolume, volumes_in
from agent.process import run

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
    tree = LiveTree(Path("/"))
    entries = fstab_entries(read_text(tree, "/etc/fstab"))
    mounted = in_use(profile.disks, around, entries)
    systems: list[System] = []
    for mounts in captured_mounts(mounted, around.root, opened):
        if choice.names(mounts[0].device):
            refuse_without_root(mounts)
            continue
        systems.append(live_volumes(mounts, profile, opened.stacked_place_of(mounts[0].device), entries))
    volumes = named_volumes(systems)
    names = disk_names(volumes, profile.stack)
    disks = [disk for disk in profile.disks if disk.name in names]
    refuse_unknown(choice, disks)
    found = blocks_on(disks, volumes, choice, around)
    source = source_of(profile, [*volumes, *found.volumes])
    refuse_unmade(source)
    left_out = (*left_out_of(systems), *found.left_out, *left_out_of_stack(source), *plugged_in(mounted))
    return replace(source, left_out=left_out, excludes=(*excludes_of(systems), *site_excludes(tree)))


def live_volumes(mounts: Sequence[Mount], profile: Profile, stacked: str, entries: tuple[FstabEntry, ...]) -> System:
    """The volumes of one file system that is in use. ``stacked``: its place in the stack, "" on a partition."""
    first = mounts[0]
    lies, held = place_of(profile, first.device, stacked)
    if not held.uuid:
        raise RefusedError(
            f"the file system of {first.mountpoint} on {first.device} cannot be read: {profile_reason(profile)}",
            "capture as root, on a machine that may read its own disks",
        )
    held = replace(held, kind=first.kind, mountpoint=first.mountpoint)
    if held.kind == "btrfs":
        mounted = [Mounted(mount.root, mount.mountpoint, Path(mount.mountpoint)) for mount in mounts]
        return volumes_in(mounted, lies, held, entries, LIVE)
    return System((lies.volume(held, Path(first.mountpoint), LIVE),))


def named_volumes(systems: Sequence[System]) -> list[SourceVolume]:
    """All volumes, outermost first, each with a name that is unique in the image."""
    found = sorted((volume for one in systems for volume in one.volumes), key=lambda v: v.filesystem.mountpoint)
    named: list[SourceVolume] = []
    for volume in found:
        named.append(replace(volume, id=volume_id(volume.filesystem.mountpoint, {each.id for each in named})))
    return named


def left_out_of(systems: Sequence[System]) -> tuple[Excluded, ...]:
    return tuple(each for one in systems for each in one.left_out)


def excludes_of(systems: Sequence[System]) -> tuple[Excluded, ...]:
    return tuple(each for one in systems for each in one.excludes)


def refuse_without_root(mounts: Sequence[Mount]) -> None:
    if any(mount.mountpoint == "/" for mount in mounts):
        device = mounts[0].device
        raise UsageError(f"{device} holds the root of this system, and cannot be left out or taken by its blocks")


def profile_reason(profile: Profile) -> str:
    return next((section.reason for section in profile.sections if section.name == "storage"), "") or "it has no UUID"


def place_of(profile: Profile, device: str, stacked: str) -> tuple[Lies, FileSystem]:
    """Where the file system on ``device`` lies, and what it is. ``stacked``: its place in the stack, if it has one."""
    if stacked:
        return Lies(device, device=stacked), held_at(profile.stack, stacked) or FileSystem("")
    for disk in profile.disks:
        if disk.name == device:
            return Lies(device, disk.name, 0), disk.holds or FileSystem("")
        for partition in disk.partitions:
            if partition_name(Path("/"), disk.name, partition.number) == device:
                return Lies(device, disk.name, partition.number), partition.holds or FileSystem("")
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
    volumes = tuple(volumes)
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
class RootPlace:
    """Where a system's root lies: place (`Places`), and subvolume of a btrfs with some."""

    number: int
    subvolume: str = ""


@dataclass(frozen=True, slots=True)
class MountedSystem:
    """The system of a disk, mounted to be read."""

    tree: LiveTree
    disks: tuple[Disk, ...]  # as its own system would describe them, the one that boots first
    volumes: list[SourceVolume]
    left_out: tuple[Excluded, ...]
    excludes: tuple[Excluded, ...]  # patterns of what stays behind in the trees
    stack: Stack = NO_STACK


@contextmanager
def mounted_system(
    places: Places, root: RootPlace, mount_root: Path, choice: Choice = NO_CHOICE
) -> Iterator[MountedSystem]:
    """The system whose root is at ``root``, mounted read-only below ``mount_root`` as its fstab says, and what lies
    beside it on the disk; unmounted at the end."""
    with ExitStack() as stack:
        mount_read_only(places, root.number, mount_root, stack, root.subvolume)
        tree = LiveTree(mount_root)
        entries = fstab_entries(read_text(tree, "/etc/fstab"))
        places = replace(places, stack=crypttab_names(places.stack, places.disk, tree))
        mounted = {root.number: [Mounted(root.subvolume or TOP, "/", mount_root)]}
        for entry, number in fstab_places(entries, places):
            subvolume = subvolume_option(entry.options) if places.held(number).kind == "btrfs" else ""
            known = {each.subvolume for each in mounted.get(number, ())}
            if entry.mountpoint == "/" or choice.names(places.node_name(number)) or (subvolume or TOP) in known:
                continue
            if known and not subvolume:
                continue  # the same file system once more
            where = inside(tree, entry.mountpoint)
            mount_read_only(places, number, where, stack, subvolume)
            shown = subvolume or shown_subvolume(where)
            mounted.setdefault(number, []).append(Mounted(shown, entry.mountpoint, where))
        systems = [volumes_at(places, number, each, entries) for number, each in mounted.items()]
        volumes = named_volumes(systems)
        blocks = blocks_on(places.disks, volumes, choice)
        described = tuple(described_disk(places, index, volumes, entries) for index in range(len(places.disks)))
        yield MountedSystem(
            tree, described, [*volumes, *blocks.volumes],
            (*left_out_of(systems), *blocks.left_out), excludes_of(systems), described_stack(places, volumes, entries),
        )  # fmt: skip


def volumes_at(places: Places, number: int, mounted: list[Mounted], entries: tuple[FstabEntry, ...]) -> System:
    """The volumes of one file system of a disk that does not run."""
    held = replace(places.held(number), mountpoint=mounted[0].mountpoint)
    word, kernel = places.word(number), places.node_name(number)
    disk, partition = places.on_disk(number)
    lies = Lies(kernel, device=word) if word else Lies(kernel, disk.name, partition)
    if held.kind == "btrfs":
        return volumes_in(mounted, lies, held, entries, AT_REST)
    return System((lies.volume(held, mounted[0].path, AT_REST),))


@contextmanager
def offline_source(  # noqa: PLR0913 - three of them have defaults
    disk_name: str,
    machine: str,
    mount_root: Path,
    choice: Choice = NO_CHOICE,
    key_of: KeyOf = no_keys,
    also: Sequence[str] = (),
) -> Iterator[CaptureSource]:
    """The system on a disk of this machine, and this machine's hardware. ``key_of`` opens what is encrypted.

    ``also``: names of further disks of that system; those that its stack reaches to need not be named. Without a system
    whose files are read (Windows, or only data), the disk as it is, by its blocks.
    """
    hardware = probe_hardware(machine)
    known = {each.name: each for each in hardware.disks}
    disk, *beside = [known.get(name) or read_disk(name) for name in (disk_name, *also)]
    with opened_places(disk, hardware.disks, key_of, beside) as places:
        refuse_unknown(choice, places.disks)
        root = find_root(places, mount_root, choice)
        if root is None:
            refuse_without_system(places, also)
            yield disk_source(disk, hardware, choice)
            return
        with mounted_system(places, root, mount_root, choice) as system:
            software = probe_root(system.tree, machine)
            nics = named_by_system(hardware.network.nics, software.network.configs, software.os.cmdline)
            own = {each.name for each in system.disks}
            disks = (*system.disks, *(each for each in hardware.disks if each.name not in own))
            hardware = replace(hardware, disks=disks, network=Network(nics=nics), stack=system.stack)
            source = source_of(merged(hardware, software), system.volumes)
            refuse_unmade(source)
            left_out = (*system.left_out, *left_out_of_stack(source))
            yield replace(source, left_out=left_out, excludes=(*system.excludes, *site_excludes(system.tree)))


def refuse_without_system(places: Places, also: Sequence[str]) -> None:
    if also:
        raise RefusedError(
            f"no file system on {', '.join(each.name for each in places.disks)} holds a system (/etc/os-release and "
            "/etc/fstab); expected one, for an image of several disks",
            "capture each disk alone",
        )


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


def find_root(places: Places, mount_root: Path, choice: Choice = NO_CHOICE) -> RootPlace | None:
    """Where the system is: the only file system, or subvolume, that has both an os-release and an fstab. None: nowhere.

    What the caller decided on is not looked into.
    """
    found: list[RootPlace] = []
    for number, held in places.contents():
        if held.kind not in KINDS - {"vfat"} or choice.names(places.node_name(number)):
            continue
        with ExitStack() as stack:
            mount_read_only(places, number, mount_root, stack, TOP if held.kind == "btrfs" else "")
            if held.kind == "btrfs":
                found += [RootPlace(number, path) for path in root_subvolumes(mount_root)]
            elif holds_system(LiveTree(mount_root)):
                found.append(RootPlace(number))
    if len(found) > 1:
        named = ", ".join(f"{places.node_name(each.number)}{each.subvolume and ' ' + each.subvolume}" for each in found)
        raise RefusedError(
            f"{len(found)} file systems on {places.disk.name} hold a system (/etc/os-release and /etc/fstab), "
            f"expected 1: {named}",
            "capture another disk, or mount the system and use ‘regraft capture --root DIR’",
        )
    return found[0] if found else None


def holds_system(tree: LiveTree) -> bool:
    # os-release may point into a /usr of its own
    system = tree.read_link("/etc/os-release") or tree.is_file("/etc/os-release")
    return bool(system) and tree.is_file("/etc/fstab")


def root_subvolumes(top: Path) -> list[str]:
    """The subvolumes of the btrfs whose top is mounted at ``top`` that hold a system; copies of one do not count."""
    found = []
    for seen in seen_on(top):
        tree = LiveTree(top / seen.path.lstrip("/"))
        if holds_system(tree):
            entries = fstab_entries(read_text(tree, "/etc/fstab"))
            options = next((entry.options for entry in entries if entry.mountpoint == "/"), "")
            if is_own_root(seen, options):
                found.append(seen.path)
    return found


def mount_read_only(places: Places, number: int, where: Path, stack: ExitStack, subvolume: str = "") -> None:
    """Mount a place so that nothing is written to it; RefusedError when its journal would have to be.

    ``subvolume`` of a btrfs: "" leaves it to the file system.
    """
    held = places.held(number)
    node = Path("/dev") / places.node_name(number)
    problem = unclean(node, held.kind)
    if problem:
        raise RefusedError(
            f"{held.kind} on {node} was not unmounted cleanly: {problem}; reading it would write to the disk",
            "start that system once and shut it down, or let fsck repair it, then capture again",
        )
    options = ["ro", "nosuid", "nodev", "noexec", *([NO_REPLAY[held.kind]] if held.kind in NO_REPLAY else [])]
    options += [f"subvol={subvolume}"] if subvolume else []
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
    for number, part in places.partitions():
        if equals and value and value.lower() in _part_names(tag, part):
            return number
        named = re.fullmatch(r"/dev/(?:[shv]d[a-z]|xvd[a-z]|(?:nvme\d+n|mmcblk)\d+p)(\d+)", device)
        if not equals and named and int(named[1]) == number:
            return number
    return places.named(device)


def _part_names(tag: str, part: Partition) -> tuple[str, ...]:
    return {"PARTUUID": (part.part_uuid,), "PARTLABEL": (part.part_label.lower(),)}.get(tag, ())


def inside(tree: LiveTree, mountpoint: str) -> Path:
    where = tree.host_path(mountpoint)
    if where is None or not where.is_dir():
        raise DamagedError(f"fstab mounts {mountpoint}, which is no directory of the system")
    return where


def described_stack(places: Places, volumes: list[SourceVolume], entries: tuple[FstabEntry, ...]) -> Stack:
    """The stack as its own system would describe it."""
    options = {places.word(number): entry.options for entry, number in reversed(fstab_places(entries, places))}
    known = {volume.device: volume.filesystem for volume in reversed(volumes) if volume.device}
    return with_holds(places.stack, {w: replace(fs, options=options.get(w, "")) for w, fs in known.items()})


def described_disk(places: Places, index: int, volumes: list[SourceVolume], entries: tuple[FstabEntry, ...]) -> Disk:
    """One of the disks as its own system would describe it; the first is the one that boots."""
    disk = places.disks[index]
    options = {number: entry.options for entry, number in reversed(fstab_places(entries, places))}
    swaps = {place_named(entry.device, places): entry.options for entry in entries if entry.kind == "swap"}
    known = {v.partition: v.filesystem for v in reversed(volumes) if v.disk == disk.name}  # of several the outermost

    def described(partition: int, held: FileSystem | None) -> FileSystem | None:
        number = BESIDE_STEP * index + partition
        if held is None:
            return None
        if held.kind == "swap":
            return replace(held, options=swaps.get(number, ""))
        return replace(known.get(partition, held), options=options.get(number, ""))

    partitions = tuple(replace(part, holds=described(part.number, part.holds)) for part in disk.partitions)
    found = replace(disk, partitions=partitions, holds=described(0, disk.holds), in_use=(), boot_medium=False)
    return found if index else with_boot_role([found], [disk.name])[0]
