"""What files of the image say about disks: fstab, the kernel command line, the place to resume from.

A reference is *planned* when the disk, as it will be written, has what it names; else it must be led to what replaces
it, or be taken out of the way of the boot.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.model.bls import entry_words
from agent.model.edits import mount_fields, shell_values, words_at
from agent.model.plan import PlannedFilesystem, PlannedPartition, StackStep
from agent.model.situation import Situation
from agent.model.stack_layout import names_of
from agent.model.storage import Disk, FileSystem
from agent.model.tree import Tree, read_text

_NETWORK = re.compile(r"nfs\d?|cifs|smb3?|sshfs|fuse\..*|9p|virtiofs|ceph|glusterfs|afs|davfs")
_IN_MEMORY = re.compile(r"/dev/(?:zram|ram)\d+")  # made by the kernel on every machine
_TAGS = ("UUID", "LABEL", "PARTUUID", "PARTLABEL")
KERNEL_COMMAND_LINE = "/etc/kernel/cmdline"
ENTRIES = "/boot/loader/entries"
GRUB_DEFAULTS = "/etc/default/grub"
GRUB_KEYS = ("GRUB_CMDLINE_LINUX", "GRUB_CMDLINE_LINUX_DEFAULT")


@dataclass(frozen=True, slots=True)
class MountLine:
    device: str
    mountpoint: str
    kind: str
    options: tuple[str, ...]

    @property
    def optional(self) -> bool:
        return bool({"noauto", "nofail"} & set(self.options))

    @property
    def on_disk(self) -> bool:
        """Whether it needs a block device of this machine."""
        tagged = self.device.partition("=")[0] in _TAGS
        named = tagged or (self.device.startswith("/dev/") and not _IN_MEMORY.fullmatch(self.device))
        return named and not _NETWORK.fullmatch(self.kind)


def mount_lines(text: str) -> tuple[MountLine, ...]:
    """The entries of an fstab."""
    entries = (mount_fields(line) for line in text.splitlines())
    return tuple(
        MountLine(fields[0], fields[1], fields[2], tuple(fields[3].split(",")) if len(fields) > 3 else ())
        for fields in entries
        if len(fields) > 2
    )


class Planned:
    """What the disk will hold, by every name that a file may use for it."""

    def __init__(
        self,
        partitions: Iterable[PlannedPartition],
        filesystems: Mapping[int, PlannedFilesystem],
        disks: Iterable[Disk],
        blocks: Iterable[FileSystem] = (),  # that come as they were
        stack: Iterable[StackStep] = (),
    ) -> None:
        parts = tuple(partitions)
        self._filesystems = filesystems
        self._disks = tuple(disks)
        self._names = {("PARTUUID", p.part_uuid.lower()) for p in parts if p.part_uuid}
        self._names |= {("PARTLABEL", p.part_label) for p in parts if p.part_label}
        named = [(fs.uuid, fs.label) for fs in filesystems.values()] + [(fs.uuid, fs.label) for fs in blocks]
        for fs_uuid, label in named:
            self._names |= {("UUID", fs_uuid.lower())} | ({("LABEL", label)} if label else set())
        self._names |= names_of(stack)

    @classmethod
    def of(cls, situation: Situation) -> Planned:
        disks = situation.manifest.disks or situation.source.disks
        blocks = [volume.filesystem for volume in situation.manifest.blocks]
        return cls(situation.partitions, situation.filesystems, disks, blocks, situation.stack)

    def has(self, device: str) -> bool:
        """Whether UUID=…, LABEL=…, PARTUUID=…, /dev/disk/by-…/… or a path that the stack gives will be there."""
        if ("PATH", device) in self._names:
            return True
        tag, value = self._tagged(device)
        return (tag, value.lower() if tag in ("UUID", "PARTUUID") else value) in self._names

    def _tagged(self, device: str) -> tuple[str, str]:
        link = re.fullmatch(r"/dev/disk/by-(uuid|label|partuuid|partlabel)/(.+)", device)
        if link:
            return link[1].upper(), link[2]
        tag, equals, value = device.partition("=")
        return (tag, value.strip("\"'")) if equals else ("", "")

    def replacement(self, device: str, mountpoint: str = "") -> str:
        """``UUID=…`` of what takes the place of a device: what will be mounted there, or lay in that partition."""
        for fs in self._filesystems.values():
            places = {fs.mountpoint, *(each.mountpoint for each in fs.subvolumes)}
            if mountpoint and mountpoint in places and fs.uuid:
                return f"UUID={fs.uuid}"
        uuid = self._uuid_by_name(device)
        return f"UUID={uuid}" if uuid and self.has(f"UUID={uuid}") else ""

    @property
    def only_swap(self) -> str:
        """The swap there is, as fstab names it; "" where there is none, or more than one."""
        swaps = [fs.uuid for fs in self._filesystems.values() if fs.kind == "swap" and fs.uuid]
        return f"UUID={swaps[0]}" if len(swaps) == 1 else ""

    def _uuid_by_name(self, device: str) -> str:
        """UUID of what the source had at a device named by its place: /dev/vda2, by-path, by-id."""
        for disk in self._disks:
            for part in disk.partitions:
                names = {f"/dev/{disk.name}{part.number}", f"/dev/{disk.name}p{part.number}"}
                linked = re.fullmatch(r"/dev/disk/by-(path|id)/(.+)-part(\d+)", device)
                same_disk = linked and (linked[2] == disk.by_path or (bool(disk.serial) and disk.serial in linked[2]))
                if device in names or (linked and same_disk and int(linked[3]) == part.number):
                    return part.holds.uuid if part.holds else ""
        return ""


def resume_devices(tree: Tree) -> tuple[str, ...]:
    """What the image would resume from: initramfs-tools, GRUB's defaults, /etc/kernel/cmdline, boot entries."""
    found: list[str] = []
    folder = "/etc/initramfs-tools/conf.d"
    for name in tree.list_dir(folder):
        found += shell_values(read_text(tree, f"{folder}/{name}"), "RESUME")
    for word in command_line_words(tree):
        if word.startswith("resume="):
            found.append(word.removeprefix("resume="))
    return tuple(dict.fromkeys(value for value in found if value and value not in ("none", "auto")))


def command_line_words(tree: Tree) -> list[str]:
    """Words that the image's files put on the kernel command line."""
    grub = read_text(tree, GRUB_DEFAULTS)
    for name in tree.list_dir(f"{GRUB_DEFAULTS}.d"):
        grub += "\n" + read_text(tree, f"{GRUB_DEFAULTS}.d/{name}")
    lines = [value for key in GRUB_KEYS for value in shell_values(grub, key)[-1:]]
    words = [word for line in [*lines, read_text(tree, "/etc/kernel/cmdline")] for word in line.split()]
    return [*words, *(word for word in entry_words(tree) if word not in words)]


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A place where words of the kernel command line stand; ``main``: one that every kernel gets its words from."""

    path: str
    key: str
    main: bool = False


def command_lines(tree: Tree) -> tuple[CommandLine, ...]:
    """Every place: GRUB's defaults, /etc/kernel/cmdline, entries of the boot loader specification, grubenv.

    A word is added to the main ones only: loaders and kernels' own scripts make the others from them, but for the
    entries of machines that keep the words in each (Fedora since 30, RHEL since 8).
    """
    places: list[CommandLine] = []
    defaults = [GRUB_DEFAULTS, *(f"{GRUB_DEFAULTS}.d/{name}" for name in tree.list_dir(f"{GRUB_DEFAULTS}.d"))]
    for path in defaults:
        text = read_text(tree, path)
        keys = dict.fromkeys(re.findall(r"^\s*(?:export\s+)?(GRUB_CMDLINE_LINUX\w*)=", text, re.MULTILINE))
        places += [CommandLine(path, key, main=path == GRUB_DEFAULTS and key == GRUB_KEYS[0]) for key in keys]
    if tree.is_file(KERNEL_COMMAND_LINE):
        places.append(CommandLine(KERNEL_COMMAND_LINE, "", main=True))
    for name in tree.list_dir(ENTRIES):
        if name.endswith(".conf"):
            inherits = "$kernelopts" in read_text(tree, f"{ENTRIES}/{name}")
            places.append(CommandLine(f"{ENTRIES}/{name}", "options", main=not inherits))
    for folder in ("/boot/grub2", "/boot/grub"):
        if "kernelopts=" in read_text(tree, f"{folder}/grubenv"):
            places.append(CommandLine(f"{folder}/grubenv", "kernelopts", main=True))
    return tuple(places)


def all_command_line_words(tree: Tree) -> tuple[str, ...]:
    """Words of every place, each once; values of a shell's variables are not looked into."""
    words: list[str] = []
    for place in command_lines(tree):
        words += words_at(place.path, read_text(tree, place.path), place.key)
    return tuple(dict.fromkeys(words))
