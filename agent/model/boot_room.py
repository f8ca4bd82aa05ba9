"""Whether a /boot of its own has room for what the adaptation puts there: an initramfs for every machine is larger than
one for the machine that made it, and a new one is written beside the old. Pure.

Estimates, on the large side: an initramfs with most modules and their firmware, and a kernel with its map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from agent.model.filesystem_size import MIB, minimum_bytes
from agent.model.image import Manifest, Volume
from agent.model.layout import Layout
from agent.model.plan import RebuildInitramfs
from agent.model.profile import OperatingSystem
from agent.model.wanted import as_made

GENERIC_INITRAMFS_BYTES = 80 * MIB
KERNEL_BYTES = 16 * MIB


def boot_volume_apart(manifest: Manifest) -> Volume | None:
    """The volume of a /boot that is no part of the root."""
    return next((volume for volume in manifest.trees if volume.filesystem.mountpoint == "/boot"), None)


def needed_bytes(rebuilt: Iterable[RebuildInitramfs], system: OperatingSystem, size_of: Callable[[str], int]) -> int:
    """What must be free in /boot. ``size_of`` a file of the image; a kernel that it does not hold comes with all of its
    files."""
    initrds = {kernel.release: kernel.initrd for kernel in system.kernels}
    wanted = []
    new_kernels = 0
    for step in rebuilt:
        old = size_of(initrds[step.release]) if initrds.get(step.release) else 0
        new_kernels += step.release not in initrds
        wanted.append((max(GENERIC_INITRAMFS_BYTES, old * 5 // 4), old))
    if not wanted:
        return 0
    # All grow, one after the other, and the largest stands beside its predecessor for a while.
    return sum(new - old for new, old in wanted) + max(old for _, old in wanted) + new_kernels * KERNEL_BYTES


def is_short(volume: Volume, layouts: Iterable[Layout], free_bytes: int) -> bool:
    """Whether the planned /boot is smaller than its files with so much free space."""
    for layout in layouts:
        number = layout.volumes.get(volume.id)
        sizes = {part.number: part.size_bytes for part in layout.partitions} | dict(layout.stacked_bytes)
        if number is not None:
            return sizes[number] < minimum_bytes(as_made(volume), volume.entries, free_bytes)
    return False
