"""The layouts of all disks that a restore writes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from msgspec import structs

from agent.model.grow import Grow
from agent.model.image import Manifest
from agent.model.layout import HEADROOM_BYTES, Layout, esp_partition, fit
from agent.model.mirror import Beside, Member, Peer, starts_alone
from agent.model.plan import PlannedFilesystem
from agent.model.profile import Firmware, Profile
from agent.model.spread import Share, Spread, Wish
from agent.model.stack_layout import StackLayout, StackWish
from agent.model.storage import Disk
from agent.model.wanted import main_disk

DISK_STEP = 100_000  # more than a table has partitions, and a stack places


def layouts_of(
    divided: Spread, source: Profile, firmware: Firmware, wish: Wish, boot_free_bytes: int = 0
) -> tuple[tuple[Disk, Layout], ...]:
    """Every disk's layout, the one that boots first. Another one starts the system too where it has a member of the
    mirror that /boot lies on."""
    laying = _Laying(divided, source, firmware, wish, boot_free_bytes)
    first, *others = divided.shares
    further = [(share, laying.further(share)) for share in others]
    layout = laying.laid(first, source, Beside(peers=_peers(further)))
    return ((first.disk, layout), *((share.disk, _with_same_esp(each, layout)) for share, each in further))


@dataclass(frozen=True, slots=True)
class _Laying:
    """What the layouts of all disks are made of."""

    divided: Spread
    source: Profile
    firmware: Firmware
    wish: Wish
    boot_free_bytes: int

    def laid(self, share: Share, source: Profile, beside: Beside) -> Layout:
        return fit(
            share.manifest, source, self.firmware, share.disk, grow=self._grow(share.manifest),
            boot_free_bytes=self.boot_free_bytes, arrays=self.wish.arrays, beside=beside,
        )  # fmt: skip

    def further(self, share: Share) -> Layout:
        """The layout of a disk beside the one that boots."""
        main = main_disk(share.manifest)
        first = self.divided.shares[0].manifest
        starts = main is not None and starts_alone(main, share.members, first, self.source, self.firmware)
        source = self.source if starts else replace(self.source, os=replace(self.source.os, kernels=()))
        apart = main.name if main else share.disk.name
        return self.laid(share, source, Beside(apart, tuple(self._with_need(each, apart) for each in share.members)))

    def _with_need(self, member: Member, apart: str) -> Member:
        """What stands on an array needs as much of every member."""
        first = self.divided.shares[0].manifest
        wish = StackWish(HEADROOM_BYTES, self.wish.arrays, self.wish.grow, self.boot_free_bytes)
        need = StackLayout(first, main_disk(first), wish).need(f"{apart}:{member.partition}")
        return replace(member, minimum_bytes=need.minimum_bytes, full_bytes=need.full_bytes + need.more_bytes)

    def _grow(self, manifest: Manifest) -> Grow:
        """A volume that shall grow lies on one disk; the others keep their policy."""
        name = self.wish.grow.name
        elsewhere = name in {each for share in self.divided.shares for each in growable_names(share.manifest)}
        return Grow() if name and elsewhere and name not in growable_names(manifest) else self.wish.grow


def _peers(further: Sequence[tuple[Share, Layout]]) -> dict[str, tuple[Peer, ...]]:
    """The members that further disks bring, by UUID of their array."""
    found: dict[str, tuple[Peer, ...]] = {}
    for share, layout in further:
        sizes = {part.number: part.size_bytes for part in layout.partitions}
        for member in share.members:
            peer = Peer(share.disk.name, member.partition, sizes[member.partition])
            found[member.array] = (*found.get(member.array, ()), peer)
    return found


def _with_same_esp(layout: Layout, first: Layout) -> Layout:
    """A copy of the EFI system partition has the UUID of the one that fstab mounts: whichever disk is left serves."""
    own, copy = esp_partition(first), esp_partition(layout)
    made, theirs = layout.filesystems.get(copy), first.filesystems.get(own)
    if not layout.boots or made is None or theirs is None or made.mountpoint:
        return layout
    same = structs.replace(theirs, mountpoint="")
    return replace(layout, filesystems={**layout.filesystems, copy: same})


def growable_names(manifest: Manifest) -> set[str]:
    return {name for volume in manifest.volumes for name in (volume.id, volume.filesystem.mountpoint)}


def all_filesystems(layouts: Sequence[tuple[Disk, Layout]]) -> dict[int, PlannedFilesystem]:
    """Of the first disk by partition number; those of further disks behind them."""
    return {
        DISK_STEP * number + part: fs
        for number, (_, layout) in enumerate(layouts)
        for part, fs in layout.filesystems.items()
    }
