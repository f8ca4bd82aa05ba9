"""Exactly one disk, or nothing is written and every disk is listed with the reason it is out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.errors import DiskSelectionError, UsageError
from agent.model.storage import Disk, FileSystem, Partition, TableKind
from agent.model.target_disk import GUARDED, content_line, identity, select_disk

GIB = 1 << 30
BLANK = Disk(
    name="nvme0n1", size_bytes=20 * GIB, logical_sector_bytes=512, physical_sector_bytes=512,
    transport="nvme", model="Fast One", serial="S4X1", wwn="eui.0025", by_path="pci-0000:01:00.0-nvme-1",
)  # fmt: skip


def disk(name: str, **fields: object) -> Disk:
    made = replace(BLANK, name=name, serial=f"SER-{name}", wwn=f"eui.{name}", by_path=f"path-{name}")
    return replace(made, **fields)  # type: ignore[arg-type]


def holding(kind: str) -> Disk:
    part = Partition(1, 1 << 20, GIB, "0x83", holds=FileSystem(kind, label="old"))
    return replace(BLANK, table=TableKind.MBR, partitions=(part,))


def test_the_only_disk_is_chosen() -> None:
    assert select_disk("only-eligible", [BLANK]) is BLANK


@pytest.mark.parametrize(
    "selector",
    ["serial=S4X1", "wwn=eui.0025", "path=pci-0000:01:00.0-nvme-1", "name=nvme0n1", "name=/dev/nvme0n1",
     "path=/dev/disk/by-path/pci-0000:01:00.0-nvme-1", "serial= S4X1 "],
)  # fmt: skip
def test_a_disk_is_named_in_every_way(selector: str) -> None:
    assert select_disk(selector, [disk("sda"), BLANK, disk("sdb")]) is BLANK


@pytest.mark.parametrize("selector", ["", "sda", "serial=", "label=x", "only", "SERIAL=S4X1"])
def test_words_that_are_no_selector_are_refused(selector: str) -> None:
    with pytest.raises(UsageError, match="expected serial="):
        select_disk(selector, [BLANK])


@pytest.mark.adapts("B0", "T1")
def test_two_eligible_disks_are_never_guessed_between() -> None:
    with pytest.raises(DiskSelectionError, match="2 disks match, expected exactly one") as caught:
        select_disk("only-eligible", [disk("sda"), disk("sdb")])
    assert caught.value.exit_code == 11
    assert "SER-sda" in caught.value.message
    assert "SER-sdb" in caught.value.message


def test_no_disk_at_all() -> None:
    with pytest.raises(DiskSelectionError, match="has no disks"):
        select_disk("only-eligible", [])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"boot_medium": True}, "what this system runs from"),
        ({"in_use": ("mounted on /srv",)}, "in use: mounted on /srv"),
        ({"read_only": True}, "read-only"),
        ({"size_bytes": 0}, "no medium"),
        ({"size_bytes": GIB}, "too small: 1.0 GiB, needed 2.0 GiB"),
    ],
)
@pytest.mark.parametrize("selector", ["only-eligible", "serial=SER-sda", "name=sda"])
@pytest.mark.adapts("B0", "T1")
def test_never_whatever_names_it(fields: dict[str, object], reason: str, selector: str) -> None:
    with pytest.raises(DiskSelectionError, match=reason):
        select_disk(selector, [disk("sda", **fields)], minimum_bytes=2 * GIB)


@pytest.mark.parametrize("fields", [{"removable": True}, {"transport": "usb"}])
def test_usb_only_by_a_name_of_its_own(fields: dict[str, object]) -> None:
    usb = disk("sda", **fields)
    for selector in ("only-eligible", "name=sda"):
        with pytest.raises(DiskSelectionError, match="removable or on USB"):
            select_disk(selector, [usb])
    for selector in ("serial=SER-sda", "wwn=eui.sda", "path=path-sda"):
        assert select_disk(selector, [usb]) is usb


@pytest.mark.adapts("B0", "T1")
def test_the_medium_that_runs_is_never_chosen_even_by_serial() -> None:
    with pytest.raises(DiskSelectionError, match="runs from"):
        select_disk("serial=SER-sda", [disk("sda", transport="usb", boot_medium=True), BLANK])


@pytest.mark.parametrize("kind", sorted(GUARDED))
def test_members_of_something_larger_are_guarded(kind: str) -> None:
    guarded = holding(kind)
    with pytest.raises(DiskSelectionError, match="on partition 1"):
        select_disk("only-eligible", [guarded])
    whole = replace(BLANK, holds=FileSystem(kind))
    with pytest.raises(DiskSelectionError, match="on the whole disk"):
        select_disk("only-eligible", [whole])
    assert select_disk("serial=S4X1", [guarded]) is guarded
    blank = disk("sdb")
    assert select_disk("only-eligible", [guarded, blank]) is blank


def test_an_old_system_is_no_guard() -> None:
    old = holding("ext4")
    assert select_disk("only-eligible", [old]) is old


@pytest.mark.parametrize("second", [{}, {"in_use": ("mounted on /",)}, {"boot_medium": True}])
@pytest.mark.adapts("B0", "T1")
def test_one_serial_on_two_disks_stops(second: dict[str, object]) -> None:
    """Even when one of them is out: the one that is left may be the wrong one."""
    twins = [disk("sda", serial="DUP"), disk("sdb", serial="DUP", **second)]
    with pytest.raises(DiskSelectionError, match="expected exactly one"):
        select_disk("serial=DUP", twins)


def test_an_empty_serial_is_not_a_match() -> None:
    with pytest.raises(UsageError):
        select_disk("serial=", [disk("sda", serial="")])


def test_every_disk_is_listed_with_its_reason() -> None:
    disks = [disk("sda", boot_medium=True), disk("sdb", read_only=True), disk("sdc", transport="usb")]
    with pytest.raises(DiskSelectionError) as caught:
        select_disk("serial=NONE", disks)
    for name in ("sda", "sdb", "sdc"):
        assert f"SER-{name}" in caught.value.message


def test_serials_cannot_steer_the_terminal() -> None:
    with pytest.raises(DiskSelectionError) as caught:
        select_disk("serial=NONE", [disk("sda", serial="\x1b[2J", model="a\nb")])
    assert "\x1b" not in caught.value.message
    assert "a\nb" not in caught.value.message


def test_reading_may_use_what_writing_may_not() -> None:
    for fields in ({"read_only": True}, {"removable": True}, {"transport": "usb"}):
        source = disk("sda", **fields)
        assert select_disk("only-eligible", [source], for_reading=True) is source
    with pytest.raises(DiskSelectionError):
        select_disk("name=sda", [disk("sda", in_use=("mounted on /",))], for_reading=True)


def test_identity_says_what_will_be_lost() -> None:
    made = identity(holding("ext4"))
    assert (made.serial, made.size_bytes, made.logical_sector_bytes) == ("S4X1", 20 * GIB, 512)
    assert made.content == "MBR: ext4 ‘old’ 1.0 GiB"
    assert content_line(BLANK) == "nothing known: no partition table, no file system"
    assert content_line(replace(BLANK, holds=FileSystem("xfs"))) == "xfs on the whole disk"
