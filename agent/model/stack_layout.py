"""The stack of an image on another disk: how large every storey becomes, and the steps that make it.

    needs, upwards:    file systems ─► logical volumes ─► group ─► physical volume ─► LUKS ─► partition
    sizes, downwards:  partition ─► LUKS ─► physical volume ─► extents of every volume ─► file systems

Everything that the image's disks carry goes onto one disk. Physical volumes of other disks go, when their group has one
on the disk that is taken over; else their partition comes along. An array becomes what lies on it, plainly on the
partition, or is kept (KEEP): its other members are on further disks (`agent.model.mirror`), or missing. Identities
are kept, so that fstab, crypttab, mdadm.conf and the boot loader name what is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agent.errors import DoesNotFitError, RefusedError
from agent.model.filesystem_size import MIB, minimum_bytes
from agent.model.grow import Grow, shares
from agent.model.grow import names_of as names_to_grow
from agent.model.image import Manifest, Volume
from agent.model.mirror import Peer
from agent.model.partition_types import LINUX
from agent.model.placing import Placed
from agent.model.plan import (
    FIRST_STACKED,
    MakeArray,
    MakeLuks,
    MakeVolumeGroup,
    PlannedArray,
    PlannedGroup,
    PlannedLogicalVolume,
    PlannedLuks,
    PlannedMember,
    PlannedPhysicalVolume,
    StackStep,
)
from agent.model.stack import (
    all_below,
    array_names,
    array_on,
    array_place,
    bases,
    group_on,
    held_at,
    luks_on,
    luks_place,
    mapped_name,
    storeys,
    volume_place,
    why_not,
)
from agent.model.storage import Array, Disk, FileSystem, LogicalVolume, Luks, Partition, PhysicalVolume, VolumeGroup
from agent.model.wanted import Wanted, free_number, of_stacked
from agent.model.wording import size_text

LVM_TYPES = {"gpt": "e6d6d379-f507-44c2-a23c-238f2a3df928", "mbr": "0x8e"}
RAID_TYPES = ("a19d880f-05fc-4d3b-a006-743f0f84911e", "0xfd")
ARRAY_SLACK_BYTES = MIB  # md rounds to chunks, and metadata 1.0 lies at the end
PLAIN, KEEP = "plain", "keep"


@dataclass(frozen=True, slots=True)
class StackWish:
    """What is asked of the layout of a stack."""

    headroom_bytes: int
    arrays: str = PLAIN
    grow: Grow = field(default_factory=Grow)
    boot_free_bytes: int = 0  # as in agent.model.layout.fit
    peers: Mapping[str, tuple[Peer, ...]] = field(default_factory=dict)  # as in agent.model.mirror.Beside


@dataclass(frozen=True, slots=True)
class Need:
    minimum_bytes: int
    full_bytes: int  # as it was
    more_bytes: int = 0  # than it was, for a /boot that must have more room


@dataclass(frozen=True, slots=True)
class Built:
    """What the layout of the stack adds to that of the partitions."""

    steps: tuple[StackStep, ...] = ()
    leaves: tuple[Placed, ...] = ()  # what is made or written on a place; ``want.number`` is the place
    notes: tuple[str, ...] = ()


def on_partitions(manifest: Manifest) -> Manifest:
    """The manifest with only the volumes that lie on partitions."""
    return replace(manifest, volumes=tuple(volume for volume in manifest.volumes if not volume.device))


def refuse_unmade(manifest: Manifest, boots: bool) -> None:
    """What no disk could be given."""
    for volume in manifest.volumes:
        if not volume.device:
            continue
        if volume.device not in {place for place, _, _ in storeys(manifest.stack)}:
            raise RefusedError(
                f"volume {volume.id} lies on {volume.device}, which the image's stack does not describe",
                "extract its files with ‘regraft extract’",
            )
        reason = why_not(manifest.stack, volume.device)
        if reason:
            raise RefusedError(f"volume {volume.id}: {reason}", "extract its files with ‘regraft extract’")
    boot = boot_volume(manifest)
    if boots and boot is not None and any(each.startswith("luks:") for each in all_below(manifest.stack, boot.device)):
        raise RefusedError(
            f"/boot lies in volume {boot.id}, which is encrypted: no loader that is installed here could read it",
            "give the source a /boot of its own that is not encrypted, and capture again",
        )


def boot_volume(manifest: Manifest) -> Volume | None:
    by_mountpoint = {volume.filesystem.mountpoint or "/": volume for volume in manifest.trees}
    return by_mountpoint.get("/boot") or by_mountpoint.get("/")


class StackLayout:
    """Made for one image and one way of treating arrays; `with_bases`, then `build` with where they were placed."""

    def __init__(self, manifest: Manifest, main: Disk | None, wish: StackWish) -> None:
        self.stack = manifest.stack
        self.manifest = manifest
        self.main = main
        self.wish = wish
        self.keeps = wish.arrays == KEEP
        self.volumes: dict[str, tuple[Volume, ...]] = {}  # several at one place where they are subvolumes of one btrfs
        for volume in manifest.volumes:
            if volume.device:
                self.volumes[volume.device] = (*self.volumes.get(volume.device, ()), volume)
        self.sizes = {place: size for place, _, size in storeys(self.stack)}
        self.kept = self._kept_bases()
        self._steps: list[StackStep] = []
        self._leaves: list[Placed] = []
        self._notes: list[str] = []
        self._given: dict[str, list[PlannedPhysicalVolume]] = {}
        self._next = FIRST_STACKED

    # --- which partitions carry it ------------------------------------------------------------------------------------

    def _kept_bases(self) -> tuple[str, ...]:
        """The partitions that are made: those of the disk that is taken over, then what only other disks carry."""
        name = self.main.name if self.main else ""
        every = dict.fromkeys(base for place in self.sizes for base in bases(self.stack, place))
        every |= dict.fromkeys(base for group in self.stack.groups for each in group.physical
                               for base in bases(self.stack, each.on))  # fmt: skip
        kept: list[str] = []
        for base in sorted(every, key=lambda base: (base.rpartition(":")[0] != name, base)):
            if not self._carried_elsewhere(base, kept):
                kept.append(base)
        return tuple(kept)

    def _carried_elsewhere(self, base: str, kept: Sequence[str]) -> bool:
        """Whether what lies on a partition is whole without it."""
        place = base
        while True:
            luks, array, found = luks_on(self.stack, place), array_on(self.stack, place), group_on(self.stack, place)
            if luks is not None:
                place = luks_place(luks)
            elif array is not None:
                if any(set(bases(self.stack, member)) & set(kept) for member in array.members):
                    return True
                place = array_place(array)
            elif found is not None:
                # On the disk that is taken over every partition has its place already.
                same_disk = self.main is not None and base.rpartition(":")[0] == self.main.name
                others = [each.on for each in found[0].physical if each.on != place]
                return not same_disk and any(set(bases(self.stack, other)) & set(kept) for other in others)
            else:
                return False

    def _physical(self, group: VolumeGroup) -> list[PhysicalVolume]:
        return [each for each in group.physical if set(bases(self.stack, each.on)) & set(self.kept)]

    # --- needs --------------------------------------------------------------------------------------------------------

    def with_bases(self, wanted: Sequence[Wanted]) -> list[Wanted]:
        """The wanted partitions with the needs of what stands on them, and those of other disks that come along."""
        name = self.main.name if self.main else ""
        found = [self._based(want, f"{name}:{want.number}") for want in wanted]
        present = {want.stack for want in found}
        last = max((want.start_bytes for want in found), default=0)
        for base in self.kept:
            if base not in present:
                last += 1
                number = free_number(found, "gpt")
                made = Wanted(number=number, type=LINUX, source_bytes=0, minimum_bytes=0, start_bytes=last)
                part = self._partition(base)
                if part is not None and part.part_uuid:
                    made = replace(made, part_uuid=part.part_uuid.lower(), part_label=part.part_label, type=part.type)
                found.append(self._based(made, base, moved=True))
        return found

    def _partition(self, base: str) -> Partition | None:
        disk, _, number = base.rpartition(":")
        parts = (part for each in self.manifest.disks if each.name == disk for part in each.partitions)
        return next((part for part in parts if str(part.number) == number), None)

    def _based(self, want: Wanted, base: str, *, moved: bool = False) -> Wanted:
        on_main = {each for each in self.sizes for each in bases(self.stack, each)}
        if base not in self.kept:
            # A second member of an array on the same disk has nothing to hold.
            return replace(want, minimum_bytes=0) if base in on_main else want
        need = self.need(base)
        full = need.full_bytes if moved or not want.source_bytes else want.source_bytes
        most = full + need.more_bytes
        return replace(
            want, source_bytes=full, minimum_bytes=min(need.minimum_bytes, most), stack=base, may_go=False,
            type=self._type(want.type, base), purpose=self.title(base), above=self._names_above(base),
            wanted_bytes=most if need.more_bytes else 0,
        )  # fmt: skip

    def _names_above(self, base: str) -> tuple[str, ...]:
        """Ids and mount points of the volumes that lie on a partition, through whatever is between."""
        found = [each for device, volumes in self.volumes.items() if base in bases(self.stack, device)
                 for each in volumes]  # fmt: skip
        names = (name for each in found for name in (each.id, each.filesystem.mountpoint))
        return tuple(dict.fromkeys(name for name in names if name))

    def _type(self, kind: str, base: str) -> str:
        """A partition that is no longer a member of an array says what it holds instead."""
        if kind.lower() not in RAID_TYPES or self.keeps:
            return kind
        table = "mbr" if kind.lower().startswith("0x") else "gpt"
        array = array_on(self.stack, base)
        group = group_on(self.stack, array_place(array)) if array else None
        return LVM_TYPES[table] if group else "0x83" if table == "mbr" else LINUX

    def title(self, place: str) -> str:
        luks, array, found = luks_on(self.stack, place), array_on(self.stack, place), group_on(self.stack, place)
        if luks is not None:
            return f"LUKS {luks.name or luks.uuid}"
        if array is not None:
            return f"{array.level} {array.node}"
        return f"LVM {found[0].name}" if found else place

    def need(self, place: str) -> Need:
        """What a place must have for everything above it."""
        luks, array, found = luks_on(self.stack, place), array_on(self.stack, place), group_on(self.stack, place)
        if luks is not None:
            inner = self.need(luks_place(luks))
            return _more(inner, luks.offset_bytes)
        if array is not None:
            inner = self.need(array_place(array))
            return _more(inner, array.offset_bytes + ARRAY_SLACK_BYTES if self._is_made(array) else 0)
        if found is not None:
            return self._need_of_physical(*found)
        leaf = self._leaf(place)
        if leaf is None:
            return Need(0, self.sizes.get(place, 0))
        return Need(leaf.minimum_bytes, leaf.source_bytes, leaf.full_bytes - leaf.source_bytes)

    def _need_of_physical(self, group: VolumeGroup, physical: PhysicalVolume) -> Need:
        """Its share of what the logical volumes need, by its size among those that are made."""
        kept = self._physical(group)
        whole = sum(each.size_bytes for each in kept) or 1
        needs = self._extents_needed(group)
        least = -(-sum(small for small, _ in needs) * physical.size_bytes // whole) + (len(kept) > 1)
        minimum = physical.offset_bytes + least * group.extent_bytes
        extents = sum(full for _, full in needs)
        if len(kept) == len(group.physical):
            # What was free in the group serves first where a volume needs more than it had.
            more = max(0, extents - max(group.extents, sum(_extents(each, group) for each in group.logical)))
            return Need(minimum, physical.size_bytes, -(-more * physical.size_bytes // whole) * group.extent_bytes)
        full = -(-extents * physical.size_bytes // whole) * group.extent_bytes
        return Need(minimum, full + physical.offset_bytes + group.extent_bytes)

    def _extents_needed(self, group: VolumeGroup) -> list[tuple[int, int]]:
        """(at least, as it was) of every logical volume. What was not captured may shrink to one extent."""
        found = []
        for volume in group.logical:
            need = self.need(volume_place(group, volume))
            full = -(-(volume.size_bytes + need.more_bytes) // group.extent_bytes)
            small = max(1, min(full, -(-need.minimum_bytes // group.extent_bytes)))
            found.append((small, full))
        return found

    def _is_made(self, array: Array) -> bool:
        """Whether an array is made with members missing; of RAID 0 nothing may be missing."""
        return self.keeps and array.level == "raid1"

    def _leaf(self, place: str) -> Wanted | None:
        """What is made or written at a place that nothing else stands on."""
        volumes = self.volumes.get(place)
        if volumes is not None:
            return of_stacked(volumes, self.sizes[place], self.wish.headroom_bytes, self.wish.boot_free_bytes)
        held = held_at(self.stack, place)
        if held is not None and held.kind == "swap":
            return self._swap(place, held)
        return None

    def _swap(self, place: str, held: FileSystem) -> Wanted:
        size = self.sizes[place]
        least = minimum_bytes(replace(held, size_bytes=size), 0)
        return Wanted(
            number=0, type="", source_bytes=size, minimum_bytes=least, purpose=f"swap {place}", filesystem=held
        )

    # --- sizes --------------------------------------------------------------------------------------------------------

    def build(self, placed: Iterable[Placed]) -> Built:
        """The steps, in the order in which they are carried out, for partitions of these sizes."""
        for each in placed:
            if each.want.stack:
                self._give(each.want.stack, each.want.number, each.size_bytes)
        self._note_what_goes()
        return Built(tuple(self._steps), tuple(self._leaves), tuple(self._notes))

    def _give(self, place: str, number: int, size_bytes: int) -> None:
        """Lay what stands at ``place`` onto partition or place ``number`` of that size."""
        luks, array, found = luks_on(self.stack, place), array_on(self.stack, place), group_on(self.stack, place)
        if luks is not None:
            made = self._take_number()
            self._steps.append(MakeLuks(place=made, on=number, luks=planned_luks(luks)))
            self._give(luks_place(luks), made, size_bytes - luks.offset_bytes)
        elif array is not None and self._is_made(array):
            made, peers = self._take_number(), self.wish.peers.get(array.uuid, ())
            also = tuple(PlannedMember(disk=peer.disk, partition=peer.partition) for peer in peers)
            self._steps.append(MakeArray(place=made, on=(number,), array=planned_array(array), also=also))
            least = min([size_bytes, *(peer.size_bytes for peer in peers)])
            self._give(array_place(array), made, least - array.offset_bytes - ARRAY_SLACK_BYTES)
        elif array is not None:
            self._notes.append(
                f"{array.level} {array.node} of {array.devices} devices becomes what lies on it, "
                "plainly on one partition"
            )
            self._give(array_place(array), number, size_bytes)
        elif found is not None:
            self._give_physical(*found, number, size_bytes)
        else:
            leaf = self._leaf(place)
            if leaf is not None:
                self._leaves.append(Placed(replace(leaf, number=number), 0, size_bytes))

    def _take_number(self) -> int:
        self._next += 1
        return self._next - 1

    def _give_physical(self, group: VolumeGroup, physical: PhysicalVolume, number: int, size_bytes: int) -> None:
        given = self._given.setdefault(group.name, [])
        given.append(
            PlannedPhysicalVolume(
                on=number, uuid=physical.uuid, size_bytes=size_bytes, offset_bytes=physical.offset_bytes,
                extents=max(0, size_bytes - physical.offset_bytes) // group.extent_bytes,
            )
        )  # fmt: skip
        if len(given) < len(self._physical(group)):
            return
        logical = self._logical(group, sum(each.extents for each in given))
        planned = PlannedGroup(
            name=group.name, uuid=group.uuid, extent_bytes=group.extent_bytes, physical=tuple(given), logical=logical
        )
        self._steps.append(MakeVolumeGroup(group=planned))
        for volume, made in zip(group.logical, logical, strict=True):
            self._give(volume_place(group, volume), made.place, made.extents * group.extent_bytes)

    def _logical(self, group: VolumeGroup, available: int) -> tuple[PlannedLogicalVolume, ...]:
        """Extents of every volume: as before where they fit, less where not; the largest takes what is more."""
        needs = self._extents_needed(group)
        extents = [full for _, full in needs]
        left = available - sum(small for small, _ in needs)
        if left < 0:
            raise DoesNotFitError(
                f"volume group {group.name} needs {size_text(sum(s for s, _ in needs) * group.extent_bytes)}, "
                f"and has {size_text(available * group.extent_bytes)}",
                "choose a larger disk",
            )
        if sum(extents) > available:
            over = sum(full - small for small, full in needs)
            extents = [small + (full - small) * left // over for small, full in needs]
            more = available - sum(extents)
        else:
            more = max(0, available - max(group.extents, sum(extents)))  # what was free in the group stays free
        for index, added in self._shares(group, more).items():
            extents[index] += added
        for volume, now in zip(group.logical, extents, strict=True):
            before = _extents(volume, group)
            if before != now:
                self._notes.append(
                    f"{group.name}/{volume.name} {'grows' if now > before else 'shrinks'} from "
                    f"{size_text(before * group.extent_bytes)} to {size_text(now * group.extent_bytes)}"
                )
        return tuple(
            PlannedLogicalVolume(place=self._take_number(), name=volume.name, uuid=volume.uuid, extents=count)
            for volume, count in zip(group.logical, extents, strict=True)
        )

    def _shares(self, group: VolumeGroup, more: int) -> dict[int, int]:
        """Extents that are added to volumes, by their index: what the policy of growing says of those with files."""
        able = [want for index, each in enumerate(group.logical) for want in self._growable(group, each, index)]
        # One volume of the image grows, and it may lie elsewhere: what is over here goes to the largest, as ever.
        elsewhere = self.wish.grow.name and not any(self.wish.grow.name in names_to_grow(want) for want in able)
        added = shares(able, more * group.extent_bytes, Grow() if elsewhere else self.wish.grow)
        extents = {index: size // group.extent_bytes for index, size in added.items()}
        if extents:
            extents[next(iter(extents))] += more - sum(extents.values())
        return extents

    def _growable(self, group: VolumeGroup, volume: LogicalVolume, index: int) -> Iterator[Wanted]:
        """A logical volume as one of those that may grow, if it holds files, itself or what stands on it."""
        place = volume_place(group, volume)
        for device in self.volumes:
            leaf = self._leaf(device)
            if leaf is not None and place in all_below(self.stack, device):
                yield replace(leaf, number=index, source_bytes=volume.size_bytes, start_bytes=index, wanted_bytes=0)
                return

    def _note_what_goes(self) -> None:
        for group in self.stack.groups:
            gone = len(group.physical) - len(self._physical(group))
            if gone:
                self._notes.append(
                    f"volume group {group.name} had {len(group.physical)} physical volumes; "
                    f"what {gone} of them held lies on the others"
                )
        for luks in self.stack.luks:
            if luks.tokens:
                self._notes.append(
                    f"{luks.name or luks.uuid} was opened by {', '.join(luks.tokens)} too: "
                    "enrol it again on this machine; until then the passphrase opens it"
                )


def _more(inner: Need, size_bytes: int) -> Need:
    """The need of a storey that takes so much for itself."""
    return Need(inner.minimum_bytes + size_bytes, inner.full_bytes + size_bytes, inner.more_bytes)


def _extents(volume: LogicalVolume, group: VolumeGroup) -> int:
    """As it was."""
    return -(-volume.size_bytes // group.extent_bytes)


def planned_luks(luks: Luks) -> PlannedLuks:
    return PlannedLuks(
        version=luks.version, uuid=luks.uuid, name=luks.name, label=luks.label, cipher=luks.cipher,
        key_bytes=luks.key_bytes, sector_bytes=luks.sector_bytes, offset_bytes=luks.offset_bytes, kdf=luks.kdf,
    )  # fmt: skip


def planned_array(array: Array) -> PlannedArray:
    return PlannedArray(
        uuid=array.uuid, level=array.level, node=array.node, name=array.name, devices=array.devices,
        metadata=array.metadata, chunk_bytes=array.chunk_bytes, layout=array.layout,
        offset_bytes=array.offset_bytes, bitmap=array.bitmap,
    )  # fmt: skip


def boot_places(manifest: Manifest) -> frozenset[str]:
    """Every place that the initramfs must open: what the root and /usr stand on."""
    devices = [v.device for v in manifest.trees if v.device and v.filesystem.mountpoint in ("/", "", "/usr")]
    return frozenset(place for device in devices for place in all_below(manifest.stack, device))


def boot_modules(manifest: Manifest, steps: Iterable[StackStep]) -> tuple[str, ...]:
    """Kernel modules without which the root that the steps make is not found."""
    root = next((volume for volume in manifest.trees if volume.filesystem.mountpoint in ("/", "")), None)
    if root is None or not root.device:
        return ()
    return tuple(dict.fromkeys(_modules(all_below(manifest.stack, root.device), steps)))


def _modules(places: Sequence[str], steps: Iterable[StackStep]) -> Iterator[str]:
    for step in steps:
        match step:
            case MakeArray(array=array) if f"array:{array.uuid}" in places:
                yield "md_mod"
                yield array.level
            case MakeLuks(luks=luks) if f"luks:{luks.uuid}" in places:
                yield "dm_mod"
                yield "dm_crypt"
            case MakeVolumeGroup(group=group) if any(place.startswith(f"lv:{group.name}/") for place in places):
                yield "dm_mod"


def names_of(steps: Iterable[StackStep]) -> frozenset[tuple[str, str]]:
    """(tag, value) of every name that the stack will have beside its file systems': UUIDs of LUKS, paths below /dev."""
    found: set[tuple[str, str]] = set()
    for step in steps:
        match step:
            case MakeLuks(luks=luks):
                found |= {("UUID", luks.uuid.lower()), ("PATH", f"/dev/mapper/{luks.name}")}
                found |= {("LABEL", luks.label)} if luks.label else set()
            case MakeArray(array=array):
                found |= {("PATH", name) for name in array_names(array.node, array.name)}
            case MakeVolumeGroup(group=group):
                for volume in group.logical:
                    found |= {
                        ("PATH", f"/dev/mapper/{mapped_name(group.name, volume.name)}"),
                        ("PATH", f"/dev/{group.name}/{volume.name}"),
                    }
    return frozenset(found)
