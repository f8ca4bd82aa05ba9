"""Which file systems of a run that was cut may stay: never one that the firmware starts from."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from agent.console.recorder import Recorder
from agent.model.partition_types import ESP, ESP_MBR, LINUX
from agent.model.plan import (
    FIRST_STACKED,
    ClearDisk,
    DiskIdentity,
    MakeFilesystem,
    Plan,
    PlannedFilesystem,
    PlannedPartition,
    WriteTable,
    WriteTree,
)
from agent.probe.stack_open import no_keys
from agent.restore.disk import DiskHandle
from agent.restore.run import Execution
from agent.restore.stack import StackMaker

A = DiskIdentity(name="sda", model="", serial="A", wwn="", size_bytes=1, logical_sector_bytes=512)
B = msgspec.structs.replace(A, name="sdb", serial="B")


def part(number: int, kind: str) -> PlannedPartition:
    return PlannedPartition(number=number, start_bytes=number << 20, size_bytes=1 << 20, type=kind, part_uuid="")


def made(number: int, disk: str = "") -> MakeFilesystem:
    return MakeFilesystem(partition=number, filesystem=PlannedFilesystem(kind="ext4", uuid=""), disk=disk)


def tree(number: int, disk: str = "") -> WriteTree:
    return WriteTree(
        volume=f"v{number}", partition=number, mountpoint="/", listing_sha256="", entries=1, content_bytes=1, disk=disk
    )


def execution(*, stack_continued: bool = True) -> Execution:
    """ESP, root, swap and what stands on partition 4 on the first disk; an ESP and data on the second."""
    steps = (
        ClearDisk(disk=A),
        WriteTable(disk=A, table="gpt", table_id="", partitions=(part(1, ESP), part(2, LINUX), part(3, LINUX))),
        WriteTable(disk=B, table="mbr", table_id="", partitions=(part(1, ESP_MBR), part(2, "0x83"))),
        tree(1), tree(2), tree(FIRST_STACKED), tree(1, "sdb"), tree(2, "sdb"),
    )  # fmt: skip
    plan = Plan(
        format=1, mode="restore", image="m", manifest_sha256="", source_profile_sha256="", target_profile_sha256="",
        difference_sha256="", disk=A, untouched=(), components=(), steps=steps, also=(B,),
    )  # fmt: skip
    # Neither image nor depot is asked for anything here.
    run = Execution(plan, None, None, Recorder([]), Path("/nowhere"))  # type: ignore[arg-type]
    handle = DiskHandle(A, -1, Path("/dev/null"), Path("/nowhere"))
    run._stack = StackMaker(handle, {}, no_keys, ExitStack(), stack_continued)
    return run


@pytest.mark.parametrize(
    ("step", "stays"),
    [
        (made(1), False),  # a loader that the image had: it would start half a system
        (made(2), True),
        (made(3), False),  # swap holds nothing
        (made(FIRST_STACKED), True),
        (made(1, "sdb"), False),
        (made(2, "sdb"), True),
    ],
)
def test_volumes_stay_and_the_boot_path_does_not(step: MakeFilesystem, stays: bool) -> None:
    assert execution()._may_stay(step, continued=True) is stays
    assert not execution()._may_stay(step, continued=False) or step.partition >= FIRST_STACKED


def test_in_a_stack_that_was_made_anew_nothing_stays() -> None:
    """A group that was extended since has its first volume where it was: the old superblock is still there."""
    run = execution(stack_continued=False)
    assert not run._may_stay(made(FIRST_STACKED), continued=True)
    assert run._may_stay(made(2), continued=True)
