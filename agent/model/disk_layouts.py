"""The layouts of all disks that a restore writes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agent.model.grow import Grow
from agent.model.image import Manifest
from agent.model.layout import Layout, fit
from agent.model.plan import PlannedFilesystem
from agent.model.profile import Disk, Firmware, Profile
from agent.model.spread import Spread, Wish, refuse_divided_stack

DISK_STEP = 1000  # more than a table has partitions


def layouts_of(
    divided: Spread, source: Profile, firmware: Firmware, wish: Wish, boot_free_bytes: int = 0
) -> tuple[tuple[Disk, Layout], ...]:
    """Every disk's layout; only the first one is made to boot. Raises RefusedError for a stack and several disks."""
    for share in divided.shares:
        refuse_divided_stack(share.manifest, [each.disk for each in divided.shares])
    data = replace(source, os=replace(source.os, kernels=()))
    grow_names = {want for share in divided.shares for want in growable_names(share.manifest)}
    found = []
    for number, share in enumerate(divided.shares):
        # A volume that shall grow lies on one disk; the others keep their policy.
        own = wish.grow.name and wish.grow.name in grow_names and wish.grow.name not in growable_names(share.manifest)
        grow = Grow() if own else wish.grow
        profile = data if number else source
        layout = fit(
            share.manifest, profile, firmware, share.disk, grow=grow, boot_free_bytes=boot_free_bytes,
            arrays=wish.arrays,
        )  # fmt: skip
        found.append((share.disk, layout))
    return tuple(found)


def growable_names(manifest: Manifest) -> set[str]:
    return {name for volume in manifest.volumes for name in (volume.id, volume.filesystem.mountpoint)}


def all_filesystems(layouts: Sequence[tuple[Disk, Layout]]) -> dict[int, PlannedFilesystem]:
    """Of the first disk by partition number; those of further disks behind them."""
    return {
        DISK_STEP * number + part: fs
        for number, (_, layout) in enumerate(layouts)
        for part, fs in layout.filesystems.items()
    }
