"""The boot path: the last thing written. Until it is, the disk does not boot.

grub.cfg by the image's own update-grub, in the sandbox
UEFI: signed loaders on the EFI system partition, fallback path, boot entry        (esp, nvram)
BIOS: boot sector and core image, by the image's own grub-install; else by the medium's
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.errors import PatchError
from agent.model.bios_loaders import MODULES, own_modules
from agent.model.plan import InstallBootloader
from agent.model.profile import Firmware
from agent.process import run
from agent.restore import esp, nvram
from agent.restore.changes import ChangeWatch
from agent.restore.disk import DiskHandle, partition_node
from agent.restore.filesystems import signature
from agent.restore.inside import InsideRoot
from agent.restore.mounts import top_inside_filesystem, where_mounted
from agent.restore.sandbox import Sandbox

# Debian, Fedora and its kin, openSUSE: (program, where its configuration belongs)
_MAKERS = (
    (("/usr/sbin/update-grub",), "/boot/grub/grub.cfg"),
    (("/usr/sbin/grub-mkconfig", "/usr/bin/grub-mkconfig"), "/boot/grub/grub.cfg"),
    (("/usr/sbin/grub2-mkconfig", "/usr/bin/grub2-mkconfig"), "/boot/grub2/grub.cfg"),
)
SIGNPOST = "/boot/grub/grub.cfg"
_INSTALLERS = ("/usr/sbin/grub-install", "/usr/sbin/grub2-install")


BootPlace = tuple[DiskHandle, int]  # a disk, and the number of its EFI system partition


@dataclass(frozen=True, slots=True)
class Installed:
    changed: tuple[str, ...]  # paths of the restored system
    warnings: tuple[str, ...]  # what a person must know


def install_bootloader(
    root: Path, sandbox: Sandbox, step: InstallBootloader, disk: DiskHandle, further: Sequence[BootPlace] = ()
) -> Installed:
    """Make the disk boot on this machine's firmware, and ``further`` ones that carry the same system."""
    inside = InsideRoot(root)
    watch = ChangeWatch(root)
    every = [*further, (disk, step.esp_partition)]  # the last one registered is the firmware's first choice
    tell_packages(inside, sandbox, step, *(each for each, _ in reversed(every)))
    make_configuration(inside, sandbox)
    uefi = step.firmware == Firmware.UEFI
    if uefi:
        esp_place(root, disk, step.esp_partition)  # that of the first disk is the system's own
    written: set[str] = set()
    for each, partition in every:
        written |= {*(install_uefi(root, step, each, partition) if uefi else install_bios(inside, sandbox, step, each))}
    os.sync()
    for each, _ in every:
        os.fsync(each.descriptor)
    warnings = [text for each, partition in every if uefi for text in register(step, each, partition, each is disk)]
    return Installed(tuple(sorted({*watch.changed(), *written})), tuple(warnings))


def configuration_path(inside: InsideRoot) -> str:
    """The grub.cfg that the image's own maker writes."""
    for programs, path in _MAKERS:
        if any(inside.exists(program) for program in programs):
            return path
    return "/boot/grub/grub.cfg"


def make_configuration(inside: InsideRoot, sandbox: Sandbox) -> None:
    for programs, path in _MAKERS:
        for program in programs:
            if inside.exists(program):
                inside.make_directories(path.rpartition("/")[0])
                sandbox.run([program] if program.endswith("update-grub") else [program, "-o", path])
                return
    if not inside.exists("/boot/grub/grub.cfg"):
        raise PatchError(
            "the image has no GRUB: neither update-grub, grub-mkconfig nor a grub.cfg",
            "install grub-pc or grub-efi-amd64 on the source and capture again",
        )


# --- UEFI -------------------------------------------------------------------------------------------------------------


def install_uefi(root: Path, step: InstallBootloader, disk: DiskHandle, partition: int) -> tuple[str, ...]:
    """Loaders and stubs on the ESP of a disk; what of them the tree has mounted."""
    # GRUB sees a btrfs from its top, not from the subvolume that is mounted.
    top = top_inside_filesystem(root / "boot").rstrip("/")
    folder = configuration_path(InsideRoot(root)).split("/")[2]
    text = esp.stub(step.boot_filesystem_uuid, f"{top}{step.boot_directory}", folder)
    with esp_of(root, disk, partition) as place:
        written = esp.install(place, esp.find_loaders(root), step.distributor, text)
        return tuple(f"/{place.relative_to(root)}/{path}" for path in written) if place.is_relative_to(root) else ()


@contextmanager
def esp_of(root: Path, disk: DiskHandle, partition: int) -> Iterator[Path]:
    """Where the ESP of a disk is mounted: in the tree; a copy, which no mount point has, for a moment beside it."""
    node = partition_node(disk, partition)
    place = where_mounted(node, root)
    if place is not None:
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="regraft-esp-") as folder:
        run(["mount", "-t", "vfat", "-o", "nodev,nosuid,noexec,umask=0077,utf8", node, folder])
        try:
            yield Path(folder)
        finally:
            run(["umount", folder])


def esp_place(root: Path, disk: DiskHandle, partition: int) -> Path:
    place = where_mounted(partition_node(disk, partition), root)
    if place is None:
        raise PatchError(
            f"the EFI system partition, {partition} of {disk.node}, is mounted nowhere in the restored system",
            "the plan gives it no mount point; make the plan again",
        )
    return place


def register(step: InstallBootloader, disk: DiskHandle, partition: int, is_first: bool = True) -> tuple[str, ...]:
    """The firmware's boot entry of a disk; warnings when there is none."""
    if not step.label:
        return ()  # the disk is for another machine
    own = signature(partition_node(disk, partition)).get("PART_ENTRY_UUID", "").lower()
    loader = f"\\EFI\\{step.distributor}\\shimx64.efi"
    # Another label: entries of the system's own, that of its next update among them, are replaced by label.
    label = step.label if is_first else f"{step.label} (the mirror's other disk)"
    return nvram.write_entry(disk.node, partition, label, loader, own)


# --- BIOS -------------------------------------------------------------------------------------------------------------


def install_bios(inside: InsideRoot, sandbox: Sandbox, step: InstallBootloader, disk: DiskHandle) -> tuple[str, ...]:
    """Boot sector and core image. The image's own GRUB fits its own modules; the medium's is for images without."""
    own = next((program for program in _INSTALLERS if inside.exists(program)), "")
    folder = own_modules(inside.exists)
    if own and folder:
        sandbox.run([own, "--target=i386-pc", "--no-floppy", "--recheck", f"/dev/{disk.node.name}"])
        return ()
    if not folder and inside.list("/boot/loader/entries"):
        raise PatchError(
            "the image has no GRUB for BIOS, and its menu (blscfg) is not understood by the medium's GRUB",
            "install grub2-pc and grub2-pc-modules on the source and capture again, or add them to the depot",
        )
    modules = inside.root / folder.lstrip("/") if folder else Path(MODULES[0])
    boot = inside.root / "boot"
    run(
        ["grub-install", "--target=i386-pc", "--no-floppy", "--recheck", f"--directory={modules}",
         f"--boot-directory={boot}", disk.node]
    )  # fmt: skip
    return lead_to_menu(inside, step)


def lead_to_menu(inside: InsideRoot, step: InstallBootloader) -> tuple[str, ...]:
    """The medium's GRUB looks in /boot/grub, wherever the image's own would keep its menu."""
    folder = configuration_path(inside).split("/")[2]
    looked_in, kept_in = (
        inside.real(path) if inside.exists(path) else path for path in ("/boot/grub", f"/boot/{folder}")
    )
    if looked_in == kept_in:  # itself, or by a link
        return ()
    top = top_inside_filesystem(inside.root / "boot").rstrip("/")
    text = esp.signpost(step.boot_filesystem_uuid, f"{top}{step.boot_directory}", folder)
    inside.make_directories(SIGNPOST.rpartition("/")[0])
    inside.write(SIGNPOST, text.encode())
    return (SIGNPOST,)


# --- what the image's packages believe --------------------------------------------------------------------------------


def tell_packages(inside: InsideRoot, sandbox: Sandbox, step: InstallBootloader, *disks: DiskHandle) -> None:
    """Debian's grub-pc writes to the disks it was told of whenever it is upgraded, and fails if one is gone.

    On BIOS it is told of these disks; on UEFI of none, so that an upgrade weeks from now does not end half-configured.
    """
    tell_suse(inside, step, *disks)
    if not inside.exists("/var/lib/dpkg/info/grub-pc.postinst") or not inside.exists("/usr/bin/debconf-set-selections"):
        return
    bios = step.firmware != Firmware.UEFI
    devices = ", ".join(known_names(step, disks)) if bios else ""
    answers = (
        f"grub-pc grub-pc/install_devices multiselect {devices}\n"
        f"grub-pc grub-pc/install_devices_empty boolean {'false' if bios else 'true'}\n"
    )
    with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
        file = Path(folder) / "answers"
        file.write_text(answers)
        sandbox.run(["debconf-set-selections", "/run/regraft/answers"], files=[file])


def known_names(step: InstallBootloader, disks: Sequence[DiskHandle]) -> list[str]:
    """What the restored system will call its disks."""
    return [step.known_as] if step.known_as else [stable_name(disk) for disk in disks]


def tell_suse(inside: InsideRoot, step: InstallBootloader, *disks: DiskHandle) -> None:
    """perl-Bootloader writes to the devices of this file whenever grub2 is upgraded; its other words stay."""
    path = "/etc/default/grub_installdevice"
    text = inside.read(path)
    if text is None or step.firmware == Firmware.UEFI:
        return  # for UEFI it asks the file system of the loader, not this file
    words = [line for line in text.decode("utf-8", "replace").splitlines() if not line.startswith(("/", "(hd"))]
    inside.write(path, "\n".join([*known_names(step, disks), *words, ""]).encode())


def stable_name(disk: DiskHandle) -> str:
    """A name of the disk that udev will make again on the restored system; else its kernel name."""
    links = Path("/dev/disk/by-id")
    if links.is_dir():
        for link in sorted(links.iterdir()):
            if link.resolve() == disk.node and not link.name.startswith(("wwn-", "nvme-eui.")):
                return str(link)
    return str(disk.node)
