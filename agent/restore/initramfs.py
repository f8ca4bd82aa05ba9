"""The initramfs of the restored system, rebuilt by its own tool, in the sandbox, and then looked into.

What counts is not that the tool ended well but that the result holds the drivers of the new boot path.
"""

from __future__ import annotations

import os
from pathlib import Path

from agent.errors import DamagedError, PatchError
from agent.model.drivers import KernelIndex
from agent.model.initramfs import list_initramfs, missing_modules
from agent.model.plan import RebuildInitramfs
from agent.probe.live_tree import LiveTree
from agent.restore.changes import ChangeWatch
from agent.restore.initramfs_tools import in_bulk
from agent.restore.inside import InsideRoot
from agent.restore.patch import UNDO
from agent.restore.sandbox import Sandbox

TIMEOUT_S = 1800.0  # xz on a slow, emulated processor
LIMIT_BYTES = 1 << 30


def rebuild(root: Path, sandbox: Sandbox, step: RebuildInitramfs) -> tuple[str, ...]:
    """Rebuild the initramfs of one kernel; paths that changed. Raises PatchError when a wanted module is not in it."""
    inside = InsideRoot(root)
    before = initrd_path(inside, step.release)
    watch = ChangeWatch(root)
    if before:
        _keep(inside, before)
    with in_bulk(inside) as stand_ins:
        sandbox.run(_command(inside, step, before), timeout_s=TIMEOUT_S, stand_ins=stand_ins)
    made = initrd_path(inside, step.release)
    if not made:
        raise PatchError(
            f"‘{step.tool}’ left no initramfs of kernel {step.release} in /boot",
            "see its configuration in the restored system, /etc/initramfs-tools or /etc/dracut.conf.d",
        )
    missing = modules_missing(root, step.release, made, step.modules)
    if missing:
        raise PatchError(
            f"{made} lacks {', '.join(missing)}, which this machine's disk needs to boot",
            "name them in /etc/initramfs-tools/modules or add_drivers of dracut by a recipe",
        )
    return tuple(sorted({made, *watch.changed()}))


def initrd_names(release: str) -> tuple[str, ...]:
    """Where distributions keep the initramfs of a kernel: Debian, Fedora and its kin, SUSE."""
    return (f"/boot/initrd.img-{release}", f"/boot/initramfs-{release}.img", f"/boot/initrd-{release}")


def initrd_path(inside: InsideRoot, release: str) -> str:
    """The initramfs of a kernel, or "" when it has none."""
    return next((path for path in initrd_names(release) if inside.exists(path)), "")


def modules_missing(root: Path, release: str, initrd: str, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Those of ``wanted`` that are neither in the initramfs nor built into the kernel."""
    builtin = KernelIndex.from_tree(LiveTree(root), release).builtin
    return missing_modules(read_names(root, initrd), wanted, builtin)


def read_names(root: Path, initrd: str) -> frozenset[str]:
    """Paths inside an initramfs. Raises PatchError when it cannot be read as one."""
    try:
        return list_initramfs(_content(InsideRoot(root), initrd))
    except DamagedError as error:
        raise PatchError(f"{initrd}: {error.message}", error.hint) from error


def _content(inside: InsideRoot, path: str) -> bytes:
    """The whole file. Asked for a number of bytes, Python reserves them all, however small the file is."""
    with open(inside.open(path, os.O_RDONLY), "rb") as file:  # noqa: PTH123 - a descriptor
        size = os.fstat(file.fileno()).st_size
        if size > LIMIT_BYTES:
            raise PatchError(f"{path} has {size:,} bytes, expected at most {LIMIT_BYTES:,}", "is it an initramfs?")
        return file.read()


def _command(inside: InsideRoot, step: RebuildInitramfs, before: str) -> list[str]:
    if step.tool == "dracut":
        target = before or _usual_path(inside, step.release)
        drivers = ["--add-drivers", " ".join(step.modules)] if step.modules else []
        files = " ".join(path for path in step.files if inside.exists(path))
        held = ["--install", files] if files else []
        return ["dracut", "--force", "--no-hostonly", *drivers, *held, target, step.release]
    if step.tool == "initramfs-tools":
        return ["update-initramfs", "-u" if before else "-c", "-k", step.release]
    raise PatchError(
        f"initramfs of kernel {step.release}: ‘{step.tool}’ is not known; expected initramfs-tools or dracut",
        "rebuild it on the source with a known tool and capture again",
    )


def _usual_path(inside: InsideRoot, release: str) -> str:
    """Where this system keeps the initramfs of a kernel that has none yet."""
    debian, fedora, suse = initrd_names(release)
    if inside.exists("/etc/debian_version"):
        return debian
    return suse if inside.glob("/boot/initrd-*") else fedora


def _keep(inside: InsideRoot, path: str) -> None:
    """The initramfs as it was goes to the undo folder; the first one wins."""
    kept = f"{UNDO}{path}"
    if inside.exists(kept):
        return
    inside.write(kept, _content(inside, path), mode=0o600)
