"""The names that a planned disk will have: what fstab, crypttab and a command line may say and mean something by."""

from __future__ import annotations

from agent.model.image import Manifest
from agent.model.plan import (
    MakeArray,
    MakeFilesystem,
    MakeLuks,
    MakeVolumeGroup,
    Plan,
    PlannedPartition,
    WriteBlocks,
    WriteTable,
)
from agent.model.stack_layout import names_of


def planned_names(plan: Plan, manifest: Manifest) -> dict[str, frozenset[str]]:
    """UUID, LABEL, PARTUUID, PARTLABEL → their values on the disk when the plan is done; UUIDs in lower case.

    PATH: the paths below /dev that a stack gives.
    """
    found: dict[str, set[str]] = {tag: set() for tag in ("UUID", "LABEL", "PARTUUID", "PARTLABEL", "PATH")}
    held = {volume.id: volume.filesystem for volume in manifest.volumes}
    for step in plan.steps:
        match step:
            case MakeFilesystem(filesystem=made):
                found["UUID"].add(made.uuid.lower())
                found["LABEL"].add(made.label)
            case WriteBlocks(volume=volume) if volume in held:
                found["UUID"].add(held[volume].uuid.lower())
                found["LABEL"].add(held[volume].label)
            case MakeLuks() | MakeArray() | MakeVolumeGroup():
                for tag, value in names_of([step]):
                    found[tag].add(value)
            case WriteTable(partitions=partitions):
                found["PARTUUID"].update(part_uuid(step, part).lower() for part in partitions)
                found["PARTLABEL"].update(part.part_label for part in partitions)
    return {tag: frozenset(values - {""}) for tag, values in found.items()}


def part_uuid(table: WriteTable, part: PlannedPartition) -> str:
    """As udev names a partition: a GPT's own, and on an MBR the disk's signature with the number."""
    if table.table == "mbr":
        return f"{table.table_id.removeprefix('0x').zfill(8)}-{part.number:02x}"
    return part.part_uuid
