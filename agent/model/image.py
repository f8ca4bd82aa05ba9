"""What an image is: the manifest and what it refers to. Format of record: docs/formats.md.

Manifest ─┬─ profile (by digest)
          ├─ disks ── partitions           the layout, as profile values
          └─ volumes ── listing object ── entries ── chunks in frames of packs
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from agent.model.storage import NO_STACK, Disk, FileSystem, Stack

FORMAT = 1
SUBVOLUMES_FORMAT = 2  # volumes that are subvolumes share a partition: a reader of format 1 must not lay them out
STACK_FORMAT = 3  # LVM, LUKS or md RAID: a reader of older formats would make the disk without them
FORMATS = (FORMAT, SUBVOLUMES_FORMAT, STACK_FORMAT)
# Names become parts of paths, URLs and kernel parameters: an allow-list, never an escape.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
TIME_IN_NAMES = re.compile(r"\d{8}T\d{6}Z")


@dataclass(frozen=True, slots=True)
class ImageRef:
    """``NAME`` or ``NAME@TIME``; the time is 20261123T204140Z, "" means the newest."""

    machine: str
    time: str = ""

    def __str__(self) -> str:
        return f"{self.machine}@{self.time}" if self.time else self.machine


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """A file of the depot, known by the SHA-256 of its bytes."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ProfileRef:
    time: str  # 20261123T204140Z
    sha256: str
    fingerprint: str  # hardware configuration fingerprint of that profile


TREE, BLOCKS = "tree", "blocks"
# How a volume was read: all of one moment; while nobody wrote to it; file by file while it was in use.
SNAPSHOT, AT_REST, LIVE = "snapshot", "at-rest", "live"
BOOT_CODE_BYTES = 440  # of the first sector; the disk signature and the MBR table follow


@dataclass(frozen=True, slots=True)
class Subvolume:
    """A subvolume of a btrfs that a restore makes."""

    path: str  # from the top of the file system, ``/@home``
    default: bool = False  # what is mounted without subvol=


@dataclass(frozen=True, slots=True)
class Volume:
    """One file system of an image: its files, or a partition's used blocks (which has no mount point)."""

    id: str  # root, srv, boot-efi, …: unique in the image
    kind: str  # tree (files) or blocks
    filesystem: FileSystem  # mountpoint says where it belongs; used_bytes is what it held
    listing: ObjectRef
    entries: int
    content_bytes: int  # plain bytes of all files or blocks, holes and zeros not counted, hard links counted once
    packs: tuple[str, ...]  # sha256 of the packs its chunks lie in, in order of first use
    disk: str = ""  # Disk.name in `disks`; "" for the tree of a bare directory, and on a stack
    partition: int = 0  # 0: the whole disk, or a bare directory
    size_bytes: int = 0  # of blocks: the partition they were read from
    stamps: ObjectRef | None = None  # what tells the next capture which files are unchanged; restores do not need it
    read: str = ""  # snapshot, at-rest or live; "" in images of older versions
    # Of a btrfs with subvolumes, each of which is a volume: the one that this tree is (``/@home``; ``/``: the top), and
    # those that are made for it, itself and what lies around it. "" of everything else.
    subvolume: str = ""
    subvolumes: tuple[Subvolume, ...] = ()
    device: str = ""  # its place in `Manifest.stack` (luks:…, array:…, lv:…); "" on a partition


def format_of(volumes: Iterable[Volume], stack: Stack = NO_STACK) -> int:
    """The oldest format whose readers understand these volumes, and what they stand on."""
    volumes = tuple(volumes)
    if stack != NO_STACK or any(volume.device for volume in volumes):
        return STACK_FORMAT
    return SUBVOLUMES_FORMAT if any(volume.subvolume for volume in volumes) else FORMAT


@dataclass(frozen=True, slots=True)
class BootCode:
    """What BIOS starts from a disk whose system is not adapted: the first 440 bytes of its first sector."""

    disk: str  # Disk.name
    code: bytes


@dataclass(frozen=True, slots=True)
class Excluded:
    """Something that did not travel, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Manifest:
    format: int
    machine: str
    time: str  # 20261123T204140Z
    tool: str
    hostname: str
    profile: ProfileRef
    disks: tuple[Disk, ...]
    volumes: tuple[Volume, ...]
    packs: tuple[ObjectRef, ...]
    excluded: tuple[Excluded, ...] = ()
    changed_while_read: tuple[str, ...] = ()  # files that never held still; listed, contents as last read
    unreadable: tuple[Excluded, ...] = ()
    boot_code: tuple[BootCode, ...] = ()
    stack: Stack = NO_STACK  # LUKS, md RAID and LVM on the disks

    @property
    def objects(self) -> tuple[ObjectRef, ...]:
        """Listings, and the stamps where there are any: everything that lies below objects/."""
        both = ((volume.listing, volume.stamps) for volume in self.volumes)
        return tuple(each for pair in both for each in pair if each is not None)

    @property
    def trees(self) -> tuple[Volume, ...]:
        """Volumes that have files."""
        return tuple(volume for volume in self.volumes if volume.kind == TREE)

    @property
    def blocks(self) -> tuple[Volume, ...]:
        """Volumes that are a partition's used blocks."""
        return tuple(volume for volume in self.volumes if volume.kind == BLOCKS)

    @property
    def ref(self) -> ImageRef:
        return ImageRef(self.machine, self.time)


@dataclass(frozen=True, slots=True)
class ComponentFile:
    path: str  # below components/<id>/<version>/
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Component:
    """Software that hardware may need; everything it provides is derived from its payload."""

    id: str  # package name: linux-image-6.1.0-40-amd64
    version: str
    kind: str  # kernel, driver, firmware, microcode, guest-tools, loader, other
    architecture: str
    for_os: str  # "debian 12"; "" for any
    package_format: str  # deb, rpm, directory
    payload: tuple[ComponentFile, ...]
    kernel_release: str = ""  # of a kernel: the name below /lib/modules
    flavour: str = ""
    modaliases: tuple[str, ...] = ()  # "pattern module" lines as in modules.alias
    modules: tuple[str, ...] = ()  # module names, dashes folded
    builtin: tuple[str, ...] = ()
    firmware: tuple[str, ...] = ()  # paths below /lib/firmware it carries
    needs_firmware: tuple[str, ...] = ()  # "path module" lines: what each module asks for
    depends: tuple[str, ...] = ()  # package relations as the package states them
    control: str = ""  # what the package tool's solver reads of it: a control paragraph, or rpm-md's <package>
    models: tuple[tuple[str, str], ...] = ()  # (vendor, product) globs of the machines it is for; () for any
