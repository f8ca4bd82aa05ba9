"""Volumes of blocks on other disks: never smaller, at their places where they can be, and told of what changed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import DoesNotFitError
from agent.model.image import BootCode, Manifest, ObjectRef, ProfileRef, Volume
from agent.model.layout import fit
from agent.model.partition_types import BASIC_DATA, ESP, LINUX
from agent.model.placing import last_usable_bytes
from agent.model.plan import (
    ClearDisk,
    FitFilesystem,
    Plan,
    VerifyBlocks,
    WriteBlocks,
    WriteBootCode,
    WriteTable,
    decode,
    describe,
    encode,
)
from agent.model.planner import Decisions, make_plan
from agent.model.profile import Firmware, Kernel, OperatingSystem, Profile
from agent.model.references import Planned
from agent.model.storage import Disk, FileSystem, Partition, TableKind
from tests.model.machines_of_tests import DISK, target

MIB, GIB = 1 << 20, 1 << 30
MSR, RECOVERY = "e3c9e316-0b5c-4db8-817d-f92df00215ae", "de94bba4-06d1-4d40-a16a-bfd50179d6ac"
TABLE = "7c0e2f7a-6f3d-4b3a-9c55-0a50c4b0a100"
CODE = b"\xfa" * 440
WINDOWS = ((100, ESP, "vfat"), (16, MSR, ""), (8000, BASIC_DATA, "ntfs"), (500, RECOVERY, "ntfs"))


def guid(number: int) -> str:
    return f"11111111-2222-4333-8444-{number:012x}"


def windows(*, first_bytes: int = MIB, mbr: bool = False, gap_bytes: int = 0) -> Disk:
    parts, at = [], first_bytes
    for number, (mib, kind, held) in enumerate(WINDOWS[2:] if mbr else WINDOWS, 1):
        parts.append(
            Partition(
                number, at, mib * MIB, "0x07" if mbr else kind, f"1badcafe-{number:02x}" if mbr else guid(number),
                flags=("RequiredPartition", "GUID:63") if kind == RECOVERY and not mbr else (),
                holds=FileSystem(held, uuid=f"{number:016X}", size_bytes=mib * MIB) if held else None,
            )
        )  # fmt: skip
        at += mib * MIB + gap_bytes
    return Disk(
        "sda", at + 2 * MIB, 512, 512, role="boot", table=TableKind.MBR if mbr else TableKind.GPT,
        table_id="0x1badcafe" if mbr else TABLE, partitions=tuple(parts),
    )  # fmt: skip


def image(disk: Disk, boot_code: bytes = b"") -> Manifest:
    volumes = tuple(
        Volume(
            f"part-{part.number}", "blocks", part.holds or FileSystem(""), ObjectRef("0" * 64, 0), 1, MIB, (),
            disk.name, part.number, part.size_bytes,
        )
        for part in disk.partitions
    )  # fmt: skip
    codes = (BootCode(disk.name, boot_code),) if boot_code else ()
    return Manifest(
        1, "win", "20260101T000000Z", "", "win", ProfileRef("", "ab", ""), (disk,), volumes, (), boot_code=codes
    )


def disk_of(size_bytes: int) -> Disk:
    return Disk("nvme0n1", size_bytes, 512, 512, serial="T1")


SOURCE = Profile("win", "")


def places(manifest: Manifest, disk: Disk) -> list[tuple[int, int]]:
    layout = fit(manifest, SOURCE, Firmware.UEFI, disk)
    parts = sorted(layout.partitions, key=lambda part: part.start_bytes)
    return [(part.start_bytes, part.size_bytes) for part in parts]


def test_on_a_larger_disk_the_system_grows_in_place_and_what_is_behind_it_moves() -> None:
    source = windows()
    layout = fit(image(source), SOURCE, Firmware.UEFI, disk_of(20 * GIB))
    old, new = source.partitions, layout.partitions
    assert [part.start_bytes for part in new[:3]] == [part.start_bytes for part in old[:3]]
    more = new[2].size_bytes - old[2].size_bytes
    assert new[3].start_bytes == old[3].start_bytes + more and new[3].size_bytes == old[3].size_bytes
    assert last_usable_bytes("gpt", disk_of(20 * GIB)) - (new[3].start_bytes + new[3].size_bytes) < 4 * MIB
    assert [(part.type, part.part_uuid, part.flags) for part in new] == [(p.type, p.part_uuid, p.flags) for p in old]
    system, recovery = layout.fits
    assert (system.volume, system.size_bytes) == ("part-3", new[2].size_bytes)
    assert system.start_sectors[0] == system.start_sectors[1]
    assert (recovery.volume, recovery.size_bytes) == ("part-4", 0)
    assert recovery.start_sectors == (old[3].start_bytes // 512, new[3].start_bytes // 512)
    assert not layout.filesystems, "nothing is made anew"


@pytest.mark.parametrize("first", [63 * 512, MIB + 512, 3 * MIB])
def test_odd_places_and_gaps_stay(first: int) -> None:
    source = windows(first_bytes=first, gap_bytes=3 * 512, mbr=True)
    manifest = image(source)
    same = [(part.start_bytes, part.size_bytes) for part in source.partitions]
    assert places(manifest, disk_of(source.size_bytes)) == same
    larger = places(manifest, disk_of(source.size_bytes + 5 * GIB))
    assert larger == [(first, same[0][1] + 5 * GIB), (same[1][0] + 5 * GIB, same[1][1])]


def test_a_smaller_disk_that_still_holds_everything_packs_it_and_says_what_moved() -> None:
    source = windows(mbr=True, gap_bytes=500 * MIB)
    layout = fit(image(source), SOURCE, Firmware.BIOS, disk_of(source.size_bytes - 600 * MIB))
    assert layout.partitions[1].start_bytes < source.partitions[1].start_bytes
    assert any("part-2 moves from byte" in note and "bcdboot" in note for note in layout.notes)


def test_what_does_not_fit_is_told_in_bytes() -> None:
    with pytest.raises(DoesNotFitError, match=f"part-3: needs .*, all {8000 * MIB:,} bytes of it: .* cannot shrink"):
        fit(image(windows()), SOURCE, Firmware.UEFI, disk_of(8 * GIB))


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 8000), st.integers(0, 40_000), st.booleans(), st.integers(0, 4000))
def test_blocks_never_shrink_overlap_or_reach_out(first: int, more: int, mbr: bool, gap: int) -> None:
    source = windows(first_bytes=max(first, 40) * 512, mbr=mbr, gap_bytes=gap * 512)
    disk = disk_of(source.size_bytes + (more - 2000) * MIB)
    try:
        layout = fit(image(source), SOURCE, Firmware.UEFI, disk)
    except DoesNotFitError:
        return
    reached = 512
    for part in sorted(layout.partitions, key=lambda part: part.start_bytes):
        old = next(each for each in source.partitions if each.number == part.number)
        assert part.start_bytes >= reached and part.size_bytes >= old.size_bytes
        reached = part.start_bytes + part.size_bytes
    assert reached <= last_usable_bytes(layout.table, disk)
    assert set(layout.volumes) == {f"part-{part.number}" for part in source.partitions}


def test_beside_a_linux_the_larger_of_the_two_grows() -> None:
    source = windows()
    linux = Partition(5, source.size_bytes, 2 * GIB, LINUX, guid(5), holds=FileSystem("ext4", guid(6)))
    source = replace(source, size_bytes=source.size_bytes + 2 * GIB + MIB, partitions=(*source.partitions, linux))
    manifest = image(source)
    root = Volume(
        "root", "tree", FileSystem("ext4", guid(6), mountpoint="/", used_bytes=GIB), ObjectRef("0" * 64, 0), 10,
        GIB, (), "sda", 5,
    )  # fmt: skip
    manifest = replace(manifest, volumes=(*manifest.volumes[:4], root))
    system = replace(SOURCE, os=OperatingSystem(kernels=(Kernel("6.1"),)))
    layout = fit(manifest, system, Firmware.UEFI, disk_of(source.size_bytes + 10 * GIB))
    assert {each.volume for each in layout.fits if each.size_bytes} == {"part-3"}
    assert set(layout.filesystems) == {5}
    esp = next(part for part in layout.partitions if part.type == ESP)
    assert esp.purpose == "part-1" and len(layout.partitions) == 5, "the image's own ESP is kept, none is added"


def test_files_may_name_what_comes_by_its_blocks() -> None:
    planned = Planned((), {}, (), [FileSystem("ntfs", "0123456789ABCDEF", "Data")])
    assert planned.has("UUID=0123456789ABCDEF") and planned.has("LABEL=Data") and not planned.has("UUID=1")


# --- the plan -----------------------------------------------------------------------------------------------------


def plan_of(manifest: Manifest, size_bytes: int, firmware: Firmware = Firmware.UEFI, mode: str = "restore") -> Plan:
    disk = replace(DISK, size_bytes=size_bytes)
    here = target()
    here = replace(here, platform=replace(here.platform, firmware=firmware), disks=(disk,))
    return make_plan(
        Decisions(
            manifest=manifest, manifest_sha256="a" * 64, source=SOURCE, target=here, target_profile_sha256="b" * 64,
            difference_sha256="c" * 64, disk=disk, layout=fit(manifest, SOURCE, firmware, disk), recipes=(),
            components=(), mode=mode,
        )
    )  # fmt: skip


def test_windows_boot_files_come_last_and_no_loader_of_ours() -> None:
    plan = plan_of(image(windows()), 20 * GIB)
    assert [type(step) for step in plan.steps] == [
        ClearDisk, WriteTable, *([WriteBlocks] * 3), *([VerifyBlocks] * 3), FitFilesystem, FitFilesystem, WriteBlocks,
        VerifyBlocks,
    ]  # fmt: skip
    assert [step.volume for step in plan.steps if isinstance(step, WriteBlocks)][-1] == "part-1", "the ESP"
    assert any("no system on it is adapted" in warning for warning in plan.warnings)
    assert any("Windows checks" in warning for warning in plan.warnings)
    assert decode(encode(plan)) == plan
    told = [describe(step) for step in plan.steps]
    assert f"grow it to {next(s for s in plan.steps if isinstance(s, FitFilesystem)).size_bytes:,} bytes" in told[8]
    assert "tell it that it begins at sector" in told[9]


def test_boot_code_is_the_last_of_all_writes_and_stays_with_its_kind_of_table() -> None:
    plan = plan_of(image(windows(mbr=True), CODE), 20 * GIB, Firmware.BIOS)
    last = plan.steps[-1]
    assert isinstance(last, WriteBootCode) and last.code == CODE
    assert decode(encode(plan)) == plan
    wide = plan_of(image(windows(mbr=True), CODE), 3 << 40, Firmware.BIOS)
    assert wide.steps[1].table == "mbr" if isinstance(wide.steps[1], WriteTable) else False


@pytest.mark.parametrize(
    ("mbr", "firmware", "mode", "said"),
    [
        (True, Firmware.UEFI, "restore", "starts by BIOS only"),
        (False, Firmware.BIOS, "restore", "boot files for UEFI only"),
        (False, Firmware.UEFI, "clone", "sysprep"),
    ],
)
def test_what_a_person_must_know_is_said(mbr: bool, firmware: Firmware, mode: str, said: str) -> None:
    warnings = plan_of(image(windows(mbr=mbr)), 20 * GIB, firmware, mode).warnings
    assert any(said in warning for warning in warnings)
    others = plan_of(image(windows()), 20 * GIB, Firmware.UEFI).warnings
    assert not any(said in warning for warning in others)


def test_bitlocker_asks_for_its_key() -> None:
    manifest = image(windows())
    locked = replace(manifest.volumes[2], filesystem=FileSystem("BitLocker"))
    plan = plan_of(replace(manifest, volumes=(*manifest.volumes[:2], locked, manifest.volumes[3])), 20 * GIB)
    assert any("recovery key" in warning for warning in plan.warnings)
