"""Images of other programs as something that the engine captures.

    disk image ─────────► raw view ─► loop device ─┐
    Clonezilla image ───► rebuilt disk ─► loop ────┼─► CaptureSource: profile of the tree, layout of the disk
    root file system tar ─► unpacked ──────────────┘

Nothing of this machine gets into the profile: hardware sections are what the image itself tells, else unavailable.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from agent.errors import DamagedError, RefusedError, UsageError
from agent.foreign.clonezilla import is_clonezilla, platform_of, rebuilt_disk
from agent.foreign.disk_image import FORMATS, raw_view, read_image
from agent.foreign.journals import play_back, refuse_dirty
from agent.foreign.loop import loop_disk, sector_bytes_of
from agent.foreign.tarball import TAR, is_tarball, unpack
from agent.image.capture import CaptureSource, SourceVolume
from agent.model.events import Emit
from agent.model.image import AT_REST
from agent.model.profile import Platform, Profile, Section, Status
from agent.model.storage import Disk, FileSystem, TableKind
from agent.probe.blocks import NO_CHOICE
from agent.probe.disks import Surroundings, read_disk
from agent.probe.live_tree import LiveTree
from agent.probe.machine import now, probe_root
from agent.probe.source import disk_source, find_root, mounted_system, source_of
from agent.probe.stack_open import Places
from agent.version import TOOL

CLONEZILLA = "clonezilla"
KINDS = (TAR, CLONEZILLA, *FORMATS)
DISK_NAME = "disk0"  # what its own kernel called it is not known


@dataclass(frozen=True, slots=True)
class ForeignImage:
    """What to read, and how."""

    path: Path
    kind: str = ""  # one of KINDS; "": look
    disk: str = ""  # of a Clonezilla image with several disks
    replay: bool = False  # play journals back that were not written back, on a copy; without it they are refused


@contextmanager
def foreign_source(image: ForeignImage, machine: str, work: Path, emit: Emit) -> Iterator[CaptureSource]:
    """The system in ``image``, ready to be captured; what must be unpacked lies in ``work`` meanwhile."""
    kind = image.kind or kind_of(image.path)
    if kind == TAR:
        yield _tree_source(unpack(image.path, work, emit), machine)
    elif kind == CLONEZILLA:
        rebuilt, platform = rebuilt_disk(image.path, image.disk, work), platform_of(image.path)
        loop = loop_disk(rebuilt.file, sector_bytes=rebuilt.sector_bytes, writable=image.replay)
        with loop as name, _disk_source(name, machine, work, replay=image.replay) as source:
            yield _with_platform(source, platform, rebuilt.name)
    else:
        found = read_image(image.path, image.kind)
        with (
            raw_view(found, work, writable=image.replay) as raw,
            loop_disk(raw, sector_bytes=sector_bytes_of(raw), writable=image.replay) as name,
            _disk_source(name, machine, work, replay=image.replay) as source,
        ):
            yield source


def kind_of(path: Path) -> str:
    """What a source is, by its content; ``disk`` is left to qemu-img to tell more closely."""
    if path.is_dir():
        if is_clonezilla(path):
            return CLONEZILLA
        raise UsageError(
            f"{path} is a directory, but no Clonezilla image: it has no partition image (*-ptcl-img*)",
            "capture a tree with ‘regraft capture --root DIR’",
        )
    return TAR if is_tarball(path) else "disk"


def _tree_source(root: Path, machine: str) -> CaptureSource:
    profile = probe_root(LiveTree(root), machine)
    # Size and use are those of the folder that it was unpacked in: nothing about the system.
    return source_of(profile, [SourceVolume("root", FileSystem("", mountpoint="/"), root, read=AT_REST)])


@contextmanager
def _disk_source(name: str, machine: str, work: Path, *, replay: bool) -> Iterator[CaptureSource]:
    disk = _whole_disk(name)
    mount_root = work / "root"
    if replay:
        play_back(disk, mount_root)
        disk = _whole_disk(name)
    else:
        refuse_dirty(disk)
    with ExitStack() as stack:
        try:
            root = find_root(Places(disk), mount_root)
            if root is None:
                refuse_nothing(disk)
                yield _of_image(disk_source(disk, Profile(machine, now(), TOOL), NO_CHOICE))
                return
            system = stack.enter_context(mounted_system(Places(disk), root, mount_root))
        except RefusedError as error:  # it names the loop device, of which nobody knows
            said = error.message.replace(f"on {name}", "in the image")
            raise RefusedError(said, "name another image") from error
        profile = replace(probe_root(system.tree, machine), disks=system.disks)
        source = source_of(profile, system.volumes)
        yield _of_image(replace(source, left_out=system.left_out, excludes=system.excludes))


def refuse_nothing(disk: Disk) -> None:
    """Any file can be read as a raw disk: one without a table and without a file system is none."""
    if disk.table is TableKind.NONE and disk.holds is None:
        raise RefusedError(
            f"the image has {disk.size_bytes:,} bytes without a partition table or a file system that is known, "
            "expected a disk",
        )


def _whole_disk(name: str) -> Disk:
    """The disk, every partition of which could be looked at: what cannot be read would be left out in silence."""
    around = Surroundings.of()
    disk = read_disk(name, around)
    if around.unread:
        raise DamagedError(f"the disk image cannot be read whole: {'; '.join(around.unread)}", "see the kernel’s log")
    return disk


def _of_image(source: CaptureSource) -> CaptureSource:
    """The source without anything of the loop device it was read through."""
    (read,) = source.disks
    disk = Disk(
        name=read.name, size_bytes=read.size_bytes, logical_sector_bytes=read.logical_sector_bytes,
        physical_sector_bytes=read.physical_sector_bytes, role=read.role, table=read.table, table_id=read.table_id,
        partitions=read.partitions, holds=read.holds,
    )  # fmt: skip
    layout = Section("storage", Status.PARTIAL, "layout only: of the disk itself an image tells nothing")
    sections = tuple(layout if section.name == "storage" else section for section in source.profile.sections)
    profile = replace(source.profile, sections=sections, disks=(disk,))
    left_out = tuple(replace(each, path=each.path.replace(read.name, DISK_NAME)) for each in source.left_out)
    return _called(replace(source, profile=profile, disks=(disk,), left_out=left_out), DISK_NAME)


def _called(source: CaptureSource, name: str) -> CaptureSource:
    """The source with another name for its disk."""
    disks = tuple(replace(disk, name=name) for disk in source.disks)
    volumes = tuple(replace(volume, disk=name) for volume in source.volumes)
    boot_code = tuple(replace(code, disk=name) for code in source.boot_code)
    profile = replace(source.profile, disks=disks)
    return replace(source, profile=profile, disks=disks, volumes=volumes, boot_code=boot_code)


def _with_platform(source: CaptureSource, platform: Platform, disk_name: str) -> CaptureSource:
    """The source with what a Clonezilla image says beside its partitions."""
    profile = source.profile
    told = replace(platform, architecture=profile.platform.architecture)
    known = Section("platform", Status.PARTIAL, "as dmidecode told it when the Clonezilla image was made")
    sections = tuple(
        known if section.name == "platform" and platform != Platform() else section for section in profile.sections
    )
    return _called(replace(source, profile=replace(profile, platform=told, sections=sections)), disk_name)
