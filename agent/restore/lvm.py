"""Volume groups, made anew with the names and UUIDs that they had.

    metadata (text) ─► pvcreate --restorefile, one a physical volume ─► vgcfgrestore ─► vgchange -ay ─► nodes

``vgcreate`` and ``lvcreate`` choose UUIDs themselves; LVM's way back from a backup of its metadata does not. All
commands see the target's devices only: a group of the same name on another disk of this machine is not touched.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from agent.errors import RefusedError, TargetIOError
from agent.model.lvm_metadata import metadata
from agent.model.plan import PlannedGroup
from agent.model.stack import mapped_name
from agent.probe.stack import lvm_report
from agent.probe.stack_open import activate
from agent.process import run
from agent.restore.filesystems import forget_signatures, size_bytes

TIMEOUT_S = 300.0


def make_group(group: PlannedGroup, nodes: Mapping[int, Path], closing: ExitStack) -> dict[int, Path]:
    """Make the group on ``nodes`` (by partition or place) and activate it; place → node of every logical volume."""
    _refuse_active(group)
    _refuse_small(group, nodes)
    devices = [str(nodes[physical.on]) for physical in group.physical]
    with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
        file = Path(folder) / "group"
        file.write_text(metadata(group))
        for physical in group.physical:
            node = nodes[physical.on]
            forget_signatures(node)
            run(pvcreate(physical.uuid, file, node), timeout_s=TIMEOUT_S)
        run(["vgcfgrestore", "--devices", ",".join(devices), "--file", file, group.name], timeout_s=TIMEOUT_S)
    return open_group(group, nodes, closing)


def open_group(group: PlannedGroup, nodes: Mapping[int, Path], closing: ExitStack) -> dict[int, Path]:
    """Activate the group and prove that it is the planned one."""
    devices = [str(nodes[physical.on]) for physical in group.physical]
    activate(group.name, devices, closing)
    wrong = differences(group, devices)
    if wrong:
        raise TargetIOError(
            f"volume group {group.name} reads back otherwise than it was made: {'; '.join(wrong)}",
            "the disk may be failing; read the kernel log",
        )
    return {
        volume.place: (Path("/dev/mapper") / mapped_name(group.name, volume.name)).resolve(strict=True)
        for volume in group.logical
    }


def pvcreate(uuid: str, file: Path, node: Path) -> list[str | Path]:
    return [
        *("pvcreate", "--yes", "--force", "--force", "--devices", node, "--uuid", uuid),
        *("--restorefile", file, node),
    ]  # fmt: skip


def matches(group: PlannedGroup, nodes: Mapping[int, Path]) -> bool:
    """Whether the group is there already, from a run that was cut."""
    devices = [str(nodes[physical.on]) for physical in group.physical]
    return not differences(group, devices)


def differences(group: PlannedGroup, devices: list[str]) -> list[str]:
    """Where what LVM finds on these devices is not the planned group."""
    unread: list[str] = []
    report = lvm_report(unread, devices)
    if unread:
        return unread
    found = {(row["vg_name"], row["vg_uuid"], row["pv_uuid"]) for row in report.physical}
    wanted = {(group.name, group.uuid, physical.uuid) for physical in group.physical}
    wrong = [f"physical volumes are {sorted(found)}, expected {sorted(wanted)}"] if found != wanted else []
    rows = {(row["lv_name"], row["lv_uuid"], int(row["lv_size"])) for row in report.logical}
    volumes = {(volume.name, volume.uuid, volume.extents * group.extent_bytes) for volume in group.logical}
    return wrong + ([f"volumes are {sorted(rows)}, expected {sorted(volumes)}"] if rows != volumes else [])


def _refuse_active(group: PlannedGroup) -> None:
    """Two groups of one name cannot be active at once; the other one is not ours to stop."""
    names = [mapped_name(group.name, volume.name) for volume in group.logical]
    active = [name for name in names if (Path("/dev/mapper") / name).exists()]
    if active:
        raise RefusedError(
            f"{', '.join(active)} is active on this machine already, from another disk",
            f"‘vgchange -an {group.name}’, or restart from the medium",
        )


def _refuse_small(group: PlannedGroup, nodes: Mapping[int, Path]) -> None:
    for physical in group.physical:
        size = size_bytes(nodes[physical.on])
        needed = physical.offset_bytes + physical.extents * group.extent_bytes
        if size < needed:
            raise TargetIOError(f"{nodes[physical.on]} has {size:,} bytes, volume group {group.name} needs {needed:,}")
