"""What the disk will hold, and another disk of the machine holds too: a UUID twice. Pure.

The source's own disk, still in the machine, is the usual case. btrfs takes two devices of one UUID for one file system,
so that a restore beside the other is refused; anything else is found at boot by whichever disk comes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from agent.model.layout import Layout
from agent.model.plan import MakeArray, MakeLuks, MakeVolumeGroup
from agent.model.storage import Disk


def same_names(layouts: Sequence[tuple[str, Layout]], disks: Iterable[Disk], written: set[str]) -> Iterator[str]:
    """One sentence for each other disk that holds UUIDs which the planned disks will have."""
    planned = {_plain(fs.uuid): fs.kind for _, layout in layouts for fs in layout.filesystems.values() if fs.uuid}
    planned |= {_plain(uuid): kind for _, layout in layouts for kind, uuid in _of_stack(layout)}
    parts = {part.part_uuid.lower() for _, layout in layouts for part in layout.partitions if part.part_uuid}
    for disk in disks:
        if disk.name in written:
            continue
        held = [f"{planned[_plain(uuid)]} {uuid}" for uuid in uuids_on(disk) if _plain(uuid) in planned]
        held += [f"partition {each.part_uuid}" for each in disk.partitions if each.part_uuid.lower() in parts]
        if held:
            yield (
                f"disk {disk.name} (serial {disk.serial or '-'}) has the same {', '.join(held)}: with both in the "
                "machine it is not sure which one the system starts from; take it out before the next start"
            )


def _of_stack(layout: Layout) -> Iterator[tuple[str, str]]:
    """What it is, and the UUID by which its members are known, of every storey."""
    for step in layout.stack:
        match step:
            case MakeLuks(luks=luks):
                yield "LUKS", luks.uuid
            case MakeArray(array=array):
                yield array.level, array.uuid
            case MakeVolumeGroup(group=group):
                yield from ((f"LVM {group.name}", physical.uuid) for physical in group.physical)


def _plain(uuid: str) -> str:
    """Letters and digits only: programs group those of md differently."""
    return "".join(filter(str.isalnum, uuid)).lower()


def uuids_on(disk: Disk) -> list[str]:
    held = (disk.holds, *(part.holds for part in disk.partitions))
    return [each.uuid.lower() for each in held if each is not None and each.uuid]
