"""A throw-away copy of an image's tree: writable, there at once, and forgotten at the end.

    image ─► libfuse, read-only, in a process of its own ─┐
    an empty folder, or memory, for what is written ──────┴─► overlayfs ─► root

Where the machine has no libfuse or no overlayfs, every volume is unpacked instead, as editing does it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from agent.depot.catalogue import LoadedImage
from agent.depot.store import Depot
from agent.errors import RefusedError, TemporaryError, UsageError
from agent.image.frame_cache import FrameCache
from agent.image.image_tree import ImageTree
from agent.image.mounted import mounted
from agent.image.unpacked import unpacked
from agent.model.events import Emit
from agent.process import ProcessError, run
from agent.restore.edit import one_tree

MEMORY_BYTES = 3 << 30  # a kernel, its initramfs and firmware are written within that


@contextmanager
def throwaway_tree(
    depot: Depot, loaded: LoadedImage, work: Path, emit: Emit, tell: Callable[[str], None]
) -> Iterator[Path]:
    """The root of the tree. ``work``: an empty folder, for what is written; on a file system with attributes."""
    if os.geteuid() != 0:
        raise RefusedError(
            "a throw-away copy is mounted, which needs root", "start it as root, or rehearse the decisions only"
        )
    with ExitStack() as stack:
        try:
            root = stack.enter_context(_overlaid(depot, loaded, work))
        except (UsageError, ProcessError, TemporaryError) as error:
            tell(f"the image is unpacked, because it cannot be mounted here: {error.message}")
            places = stack.enter_context(unpacked(depot, loaded, work, emit))
            root = stack.enter_context(one_tree(loaded.manifest.trees, places, work / "tree"))
        yield root


@contextmanager
def _overlaid(depot: Depot, loaded: LoadedImage, work: Path) -> Iterator[Path]:
    lower, root = work / "image", work / "root"
    for folder in (lower, root):
        folder.mkdir(mode=0o755)
    with ExitStack() as stack:
        stack.enter_context(mounted(ImageTree(depot, loaded, FrameCache), lower))
        _overlay(stack, lower, work, root)
        stack.callback(run, ["umount", "--lazy", root])
        yield root


def _overlay(stack: ExitStack, lower: Path, work: Path, root: Path) -> None:
    """What is written goes into memory where there is plenty, which halves the time; else into ``work``."""
    room_bytes = available_bytes() // 2
    if room_bytes >= MEMORY_BYTES:
        memory = work / "memory"
        memory.mkdir()
        run(["mount", "-t", "tmpfs", "-o", f"mode=700,size={room_bytes}", "throwaway", memory])
        stack.callback(run, ["umount", "--lazy", memory])
        work = memory
    _mount_overlay(lower, work, root)


def available_bytes() -> int:
    """Memory that programs can still have (Linux, Documentation/filesystems/proc.rst, MemAvailable)."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _mount_overlay(lower: Path, work: Path, root: Path) -> None:
    upper, scratch = work / "written", work / "scratch"
    for folder in (upper, scratch):
        folder.mkdir(mode=0o755)
    # Its working directory, so that no character of a path means something to overlayfs.
    below = "image" if lower.parent == work else "../image"
    # Volatile (Linux 5.10): no flush for dpkg, nor at the end, of what is about to be forgotten.
    options = f"lowerdir={below},upperdir=written,workdir=scratch,volatile"
    run(["mount", "-t", "overlay", "-o", options, "overlay", root.absolute()], cwd=work)
