"""An image as a disk that starts: a plan executed on a loop device over a sparse file, then the wanted format.

The plan is that of a restore, for the target profile with its disk replaced by the file: nothing else knows that the
disk is none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from agent.depot.catalogue import LoadedImage
from agent.depot.signing import TrustedKeys
from agent.depot.store import Depot
from agent.errors import DoesNotFitError, RefusedError, UsageError
from agent.foreign.disk_image import CONVERT_TIMEOUT_S
from agent.foreign.loop import loop_disk
from agent.image.image_tree import ImageTree
from agent.model.choices import NONE, Choices, chosen_selector
from agent.model.crypttab import enrolments, lost_keys, lost_sentence
from agent.model.difference import Difference
from agent.model.export_target import for_a_file, like_a_target, like_the_source, with_file
from agent.model.layout import fit
from agent.model.plan import MakeFilesystem, Plan
from agent.model.profile import Profile
from agent.model.situation import RESTORE
from agent.model.storage import Disk
from agent.probe.disks import read_disk
from agent.process import ProcessError, run
from agent.restore.prepare import Decided, Prepared, RestoreRequest, prepare, prepared

FILESYSTEMS = Path("/proc/filesystems")
SUFFIXES = {
    ".raw": "raw", ".img": "raw", ".qcow2": "qcow2", ".vmdk": "vmdk", ".vdi": "vdi", ".vhdx": "vhdx", ".vhd": "vpc",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wish:
    """What is exported for which machine."""

    loaded: LoadedImage
    target: Profile | None = None  # None: the machine of the image
    selector: str = "only-eligible"  # of the target's disk
    size_bytes: int = 0  # 0: that of the machine's disk
    mode: str = "restore"
    site_recipes: Path | None = None
    choices: Choices = NONE


def format_of(to: Path, wanted: str) -> str:
    """The format to write, by the file's name unless it is given. Raises UsageError."""
    found = wanted or SUFFIXES.get(to.suffix.lower(), "")
    if not found:
        raise UsageError(
            f"the name {to.name} does not tell a format; expected one of {', '.join(SUFFIXES)}", "give --format"
        )
    if to.exists():
        raise UsageError(f"{to} exists already", "choose another name, or remove it")
    if not to.parent.is_dir():
        raise UsageError(f"{to.parent} is not a directory")
    return found


@contextmanager
def disk_for(wish: Wish, depot: Depot, trust: TrustedKeys, raw: Path) -> Iterator[Prepared]:
    """The plan of the export, on a blank disk in the file ``raw``, which is detached at the end."""
    target, meant = _machine(wish)
    size = wish.size_bytes or meant.size_bytes
    _refuse_no_room(raw.parent, wish.loaded)
    with raw.open("xb") as file:
        file.truncate(size)
    with loop_disk(raw, sector_bytes=meant.logical_sector_bytes, writable=True) as name:
        target = with_file(target, meant, read_disk(name))
        if wish.target is None:
            made = as_it_was(depot, wish.loaded, target, name)
        else:
            made = prepare(depot, trust, RestoreRequest(
                image=wish.loaded.manifest.ref, target=target, selector=f"name={name}", mode=wish.mode,
                site_recipes=wish.site_recipes, choices=msgspec.structs.replace(wish.choices, disks={}),
            ))  # fmt: skip
        refuse_unmountable(made.plan)
        yield replace(made, plan=msgspec.structs.replace(for_a_file(made.plan, meant), choices=wish.choices))


def refuse_unmountable(plan: Plan) -> None:
    """A server's kernel need not have every file system; the boot medium's has."""
    known = {line.split()[-1] for line in FILESYSTEMS.read_text().splitlines()}
    for step in plan.steps:
        if not isinstance(step, MakeFilesystem) or not step.filesystem.mountpoint or step.filesystem.kind in known:
            continue
        if run(["modprobe", "--dry-run", "--quiet", step.filesystem.kind], accept=range(256)).status:
            raise RefusedError(
                f"this machine’s kernel has no {step.filesystem.kind}, which {step.filesystem.mountpoint} needs",
                "export on a machine whose kernel has it",
            )


def as_it_was(depot: Depot, loaded: LoadedImage, target: Profile, disk_name: str) -> Prepared:
    """The plan for the machine that the image was made of: nothing differs, so that nothing is adapted.

    Of an imported image much is not known of that machine; compared with itself it would lack its own network card.
    """
    own = f"{target.machine}@{target.time}"
    disk = next(disk for disk in target.disks if disk.name == disk_name)
    layout = fit(loaded.manifest, loaded.profile, target.platform.firmware, disk)
    tree = ImageTree(depot, loaded)
    keys = enrolments(layout.stack, tree)
    notes = tuple(lost_sentence(entry, lost) for entry, lost in lost_keys(layout.stack, tree))
    decided = Decided(disk=disk, layout=layout, keys=keys, notes=notes)
    return prepared(depot, loaded, target, Difference(own, own, ()), decided)


def _machine(wish: Wish) -> tuple[Profile, Disk]:
    if wish.target is None:
        if wish.mode != RESTORE:
            raise UsageError(f"mode {wish.mode} renews the identity of a target", "name the target by --target")
        return like_the_source(wish.loaded.manifest, wish.loaded.profile)
    names = [disk.name for disk in wish.loaded.manifest.disks]
    return like_a_target(wish.target, chosen_selector(wish.choices, wish.selector, names))


def _refuse_no_room(folder: Path, loaded: LoadedImage) -> None:
    content = sum(volume.content_bytes for volume in loaded.manifest.volumes)
    told = os.statvfs(folder)
    free = told.f_bavail * told.f_frsize
    if free < content:
        raise DoesNotFitError(
            f"{folder} has {free:,} bytes free, the files of {loaded.manifest.ref} are {content:,} bytes",
            "export to another directory",
        )


def write_as(raw: Path, to: Path, wanted: str) -> None:
    """The finished disk under its name, whole or not at all."""
    made = raw
    if wanted != "raw":
        made = raw.with_suffix(f".{wanted}")
        try:
            run(["qemu-img", "convert", "-f", "raw", "-O", wanted, raw, made], timeout_s=CONVERT_TIMEOUT_S)
        except ProcessError as error:
            if error.status == 127:
                raise UsageError(f"writing {wanted} needs qemu-img", "install qemu-utils, or export as raw") from error
            raise
    descriptor = os.open(made, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    made.chmod(0o600)  # it holds the keys and passwords of the system
    made.rename(to)
