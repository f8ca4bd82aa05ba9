"""An array across several disks of the target: what the layout of one disk must know of the others. Pure.

    further disks       ─► laid out first, each with room for its member ─► sizes of the members
    the disk that boots ─► laid out last: the array is as large as its smallest member

What stands on the array is planned with the disk that boots; the further disks bring their members, and a copy of what
starts the system, so that it starts from whichever disk is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agent.errors import RefusedError
from agent.model.image import Manifest
from agent.model.partition_types import is_esp
from agent.model.profile import Firmware, Profile
from agent.model.stack import all_below, array_on, bases, storeys
from agent.model.storage import NO_STACK, Disk
from agent.model.wanted import Wanted

MIRROR = "raid1"


@dataclass(frozen=True, slots=True)
class Member:
    """A partition of a further disk of the image, which is a member of an array."""

    partition: int
    array: str  # UUID
    title: str = ""
    minimum_bytes: int = 0
    full_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Peer:
    """A member of an array on a further disk of the target."""

    disk: str
    partition: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Beside:
    """What the layout of one disk is told of the others."""

    apart: str = ""  # of a further disk: the image's disk whose partitions it has
    members: tuple[Member, ...] = ()  # of a further disk
    peers: Mapping[str, tuple[Peer, ...]] = field(default_factory=dict)  # of the disk that boots: by UUID of the array


ALONE = Beside()


def refuse_divided_stack(
    manifest: Manifest, disks: Sequence[Disk], receives: Mapping[str, Disk], *, keeps: bool
) -> None:
    """A stack joins disks: only a mirror is made across several, with everything that stands on it."""
    if manifest.stack == NO_STACK or len(disks) == 1:
        return
    stack = manifest.stack
    if not keeps:
        named = [*(f"LUKS {each.name or each.uuid}" for each in stack.luks),
                 *(f"{each.level} {each.node}" for each in stack.arrays),
                 *(f"volume group {each.name}" for each in stack.groups)]  # fmt: skip
        mirrors = any(each.level == MIRROR for each in stack.arrays)
        raise RefusedError(
            f"the image has {', '.join(named)}, and {len(disks)} disks are to be written "
            f"({', '.join(disk.name for disk in disks)}); expected one disk for an image with LVM, LUKS or md RAID",
            "name one disk, large enough for all of it" + (
                "; or keep the mirror, a member on each disk, with --arrays keep" if mirrors else ""),
        )  # fmt: skip
    for base in dict.fromkeys(base for place, _, _ in storeys(stack) for base in bases(stack, place)):
        source = base.rpartition(":")[0]
        target = receives.get(source, disks[0])
        if target != disks[0] and not _is_mirrored(manifest, base, receives, disks[0]):
            raise RefusedError(
                f"partition {base} of the image carries LVM, LUKS or md RAID and would go to {target.name}; expected "
                f"there only members of mirrors (RAID 1) that have one on {disks[0].name}, which boots, too",
                "name one disk, large enough for all of it",
            )


def _is_mirrored(manifest: Manifest, base: str, receives: Mapping[str, Disk], boots: Disk) -> bool:
    array = array_on(manifest.stack, base)
    if array is None or array.level != MIRROR:
        return False
    others = (member.rpartition(":")[0] for member in array.members if member != base)
    return any(receives.get(source) == boots for source in others)


def members_on(manifest: Manifest, sources: Iterable[Disk]) -> Iterator[Member]:
    """The members of arrays among the partitions of these disks of the image."""
    for disk in sources:
        for part in disk.partitions:
            array = array_on(manifest.stack, f"{disk.name}:{part.number}")
            if array is not None:
                yield Member(part.number, array.uuid, f"{array.level} {array.node}")


def with_members(wanted: Sequence[Wanted], members: Sequence[Member], apart: str) -> list[Wanted]:
    """The partitions of a further disk, those that are members with what must have room in them."""
    by_number = {member.partition: member for member in members}
    return [_as_member(want, by_number[want.number], apart) if want.number in by_number else want for want in wanted]


def _as_member(want: Wanted, member: Member, apart: str) -> Wanted:
    full = max(want.source_bytes, member.full_bytes)
    return replace(
        want, minimum_bytes=min(member.minimum_bytes, full), wanted_bytes=full if full > want.source_bytes else 0,
        purpose=member.title, stack=f"{apart}:{want.number}", above=(member.title,), may_go=False,
    )  # fmt: skip


def starts_alone(
    main: Disk, members: Iterable[Member], manifest: Manifest, source: Profile, firmware: Firmware
) -> bool:
    """Whether a further disk is made to start the system: it has a member of what /boot lies on, and its like in the
    image could start too, or the firmware asks only for a boot sector."""
    trees = {volume.filesystem.mountpoint or "/": volume for volume in manifest.trees}
    boot = trees.get("/boot") or trees.get("/")
    if not source.os.kernels or boot is None or not boot.device:
        return False
    carries = {f"array:{member.array}" for member in members} & set(all_below(manifest.stack, boot.device))
    could = source.platform.firmware is not Firmware.UEFI or any(is_esp(part.type) for part in main.partitions)
    return bool(carries) and (firmware is not Firmware.UEFI or could)
