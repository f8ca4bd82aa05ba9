"""Layouts on other disks: they fit, they do not overlap, and identities stay."""

from __future__ import annotations

import uuid
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import DoesNotFitError, RefusedError
from agent.model.filesystem_size import minimum_bytes
from agent.model.image import Manifest, ObjectRef, ProfileRef, Volume
from agent.model.layout import HEADROOM_BYTES, Layout, fit
from agent.model.partition_types import BASIC_DATA, BIOS_BOOT, ESP, ESP_MBR, LINUX, type_in_gpt, type_in_mbr
from agent.model.placing import last_usable_bytes
from agent.model.plan import PlannedPartition
from agent.model.profile import ConfigFile, Firmware, Kernel, Mention, OperatingSystem, Profile
from agent.model.storage import Disk, FileSystem, Partition, TableKind

MIB, GIB = 1 << 20, 1 << 30
SWAP = "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"
TABLE = "7c0e2f7a-6f3d-4b3a-9c55-0a50c4b0a100"


def guid(number: int) -> str:
    return f"11111111-2222-4333-8444-{number:012x}"


def target(size_bytes: int, sector: int = 512) -> Disk:
    return Disk("nvme0n1", size_bytes, sector, sector, serial="T1")


def profile(*, firmware: Firmware = Firmware.BIOS, kernel: bool = True, partuuid: bool = False) -> Profile:
    files = (ConfigFile("/etc/fstab", "0", (Mention("partuuid", "PARTUUID=1"),)),) if partuuid else ()
    made = Profile("m", "", os=OperatingSystem(kernels=(Kernel("6.1"),) if kernel else ()), config_files=files)
    return replace(made, platform=replace(made.platform, firmware=firmware))


def manifest(disk: Disk, *mounts: tuple[int, str, int], entries: int = 1000) -> Manifest:
    """``mounts``: (partition number, mount point, used bytes)."""
    volumes = []
    for number, mountpoint, used in mounts:
        part = next(part for part in disk.partitions if part.number == number)
        assert part.holds is not None
        fs = replace(part.holds, mountpoint=mountpoint, used_bytes=used)
        name = mountpoint.strip("/").replace("/", "-") or "root"
        volumes.append(Volume(name, "tree", fs, ObjectRef("0", 0), entries, used, (), disk.name, number))
    return Manifest(1, "m", "20260101T000000Z", "", "m", ProfileRef("", "ab", ""), (disk,), tuple(volumes), ())


def fs(kind: str, size: int, number: int, **fields: object) -> FileSystem:
    made = FileSystem(kind, uuid=guid(100 + number), label=f"l{number}", size_bytes=size, block_bytes=4096)
    if kind == "vfat":
        made = replace(made, uuid="ABCD-1234")
    if kind == "ext4":
        made = replace(made, inodes=size // 16384, features=("has_journal", "extent"))
    return replace(made, **fields)  # type: ignore[arg-type]


def gpt_source(size: int = 10 * GIB) -> Disk:
    """As the demo's: BIOS boot, root, /srv, swap, and free space at the end."""
    sizes = ((1, 1, BIOS_BOOT, None), (2, 6144, LINUX, "ext4"), (3, 3072, LINUX, "ext4"), (4, 1000, SWAP, "swap"))
    parts, at = [], MIB
    for number, mib, kind, held in sizes:
        holds = fs(held, mib * MIB, number) if held else None
        parts.append(Partition(number, at, mib * MIB, kind, guid(number), f"part {number}", (), holds))
        at += mib * MIB
    return Disk("vda", size, 512, 512, role="boot", table=TableKind.GPT, table_id=TABLE, partitions=tuple(parts))


def gpt_image(used: int = GIB) -> Manifest:
    return manifest(gpt_source(), (2, "/", used), (3, "/srv", 100 * MIB))


def mbr_source(*, logical: bool = False) -> Disk:
    parts = [Partition(1, MIB, 4 * GIB, "0x83", "deadbeef-01", "", ("boot",), fs("ext4", 4 * GIB, 1))]
    at = MIB + 4 * GIB
    if logical:
        parts.append(Partition(2, at, 3 * GIB, "0x05", "deadbeef-02"))
        parts.append(Partition(5, at + MIB, GIB, "0x82", "deadbeef-05", holds=fs("swap", GIB, 5)))
        size = 2 * GIB - 2 * MIB
        parts.append(Partition(6, at + GIB + 2 * MIB, size, "0x83", "deadbeef-06", holds=fs("xfs", size, 6)))
    return Disk("sda", 8 * GIB, 512, 512, role="boot", table=TableKind.MBR, table_id="0xdeadbeef",
                partitions=tuple(parts))  # fmt: skip


def mbr_image(*, logical: bool = False) -> Manifest:
    mounts = [(1, "/", GIB), *([(6, "/home", 200 * MIB)] if logical else [])]
    return manifest(mbr_source(logical=logical), *mounts)


def check(layout: Layout, disk: Disk) -> None:
    """What holds for every layout."""
    parts = sorted((p for p in layout.partitions if p.purpose != "extended"), key=lambda p: p.start_bytes)
    assert len({p.number for p in layout.partitions}) == len(layout.partitions)
    assert len({p.part_uuid for p in layout.partitions}) == len(layout.partitions)
    for part in layout.partitions:
        assert part.size_bytes > 0
        assert part.start_bytes % MIB == 0
        assert part.size_bytes % disk.logical_sector_bytes == 0
        assert part.start_bytes >= MIB
        assert part.start_bytes + part.size_bytes <= last_usable_bytes(layout.table, disk)
    for before, after in pairwise(parts):
        assert before.start_bytes + before.size_bytes <= after.start_bytes
    assert set(layout.filesystems) <= {p.number for p in parts}
    assert set(layout.volumes.values()) <= {p.number for p in parts}
    check_logicals(layout, parts)


def check_logicals(layout: Layout, parts: list[PlannedPartition]) -> None:
    logical = [p for p in parts if p.number > 4] if layout.table == "mbr" else []
    around = [p for p in layout.partitions if p.purpose == "extended"]
    assert bool(logical) == bool(around)
    for part in logical:
        assert around[0].start_bytes + MIB <= part.start_bytes
        assert part.start_bytes + part.size_bytes <= around[0].start_bytes + around[0].size_bytes
    assert [p.number for p in logical] == list(range(5, 5 + len(logical)))


def by_purpose(layout: Layout, purpose: str) -> PlannedPartition:
    return next(part for part in layout.partitions if part.purpose == purpose)


@pytest.mark.adapts("B5", "T1")
def test_the_same_disk_keeps_everything() -> None:
    source = gpt_source()
    layout = fit(gpt_image(), profile(), Firmware.BIOS, target(source.size_bytes))
    check(layout, target(source.size_bytes))
    assert (layout.table, layout.table_id) == ("gpt", TABLE)
    kept = [(p.number, p.start_bytes, p.size_bytes, p.type, p.part_uuid, p.part_label) for p in layout.partitions]
    assert kept == [
        (p.number, p.start_bytes, p.size_bytes, p.type, p.part_uuid, p.part_label) for p in source.partitions
    ]
    assert layout.volumes == {"root": 2, "srv": 3}
    assert layout.filesystems[2].uuid == guid(102)
    assert layout.filesystems[4].kind == "swap"
    assert layout.filesystems[4].mountpoint == ""
    assert layout.notes == ()


def test_a_source_that_fills_its_disk_to_the_last_sector_is_kept_exactly() -> None:
    source = gpt_source()
    end = last_usable_bytes("gpt", source)
    last = source.partitions[-1]
    filled = replace(last, size_bytes=end - last.start_bytes)
    source = replace(source, partitions=(*source.partitions[:-1], filled))
    image = manifest(source, (2, "/", GIB), (3, "/srv", MIB))
    layout = fit(image, profile(), Firmware.BIOS, target(source.size_bytes))
    assert by_purpose(layout, "swap").size_bytes == filled.size_bytes
    check(layout, target(source.size_bytes))


@pytest.mark.adapts("B12", "T1")
def test_a_smaller_disk_for_uefi_gets_an_esp_in_place_of_the_bios_boot_partition() -> None:
    disk = target(6 * GIB)
    layout = fit(gpt_image(), profile(), Firmware.UEFI, disk)
    check(layout, disk)
    esp = by_purpose(layout, "esp")
    assert (esp.number, esp.type) == (1, ESP)
    assert esp.part_uuid not in {p.part_uuid for p in gpt_source().partitions}
    assert 100 * MIB <= esp.size_bytes <= 512 * MIB
    made = layout.filesystems[1]
    assert (made.kind, made.mountpoint) == ("vfat", "/boot/efi")
    assert not [p for p in layout.partitions if p.type == BIOS_BOOT]
    assert [by_purpose(layout, name).part_uuid for name in ("root", "srv", "swap")] == [guid(2), guid(3), guid(4)]
    assert any("shrinks" in note for note in layout.notes)


def test_decisions_hold_no_chance() -> None:
    one, two = (fit(gpt_image(), profile(), Firmware.UEFI, target(6 * GIB)) for _ in range(2))
    assert one == two
    uuid.UUID(by_purpose(one, "esp").part_uuid)


@pytest.mark.adapts("B12", "T1")
def test_from_uefi_to_bios_adds_a_bios_boot_partition_and_keeps_the_esp() -> None:
    parts = (
        Partition(1, MIB, 512 * MIB, ESP, guid(1), "EFI", (), fs("vfat", 512 * MIB, 1)),
        Partition(2, 513 * MIB, 5 * GIB, LINUX, guid(2), "", (), fs("ext4", 5 * GIB, 2)),
    )
    source = Disk("sda", 8 * GIB, 512, 512, role="boot", table=TableKind.GPT, table_id=TABLE, partitions=parts)
    image = manifest(source, (1, "/boot/efi", 10 * MIB), (2, "/", GIB))
    layout = fit(image, profile(firmware=Firmware.UEFI), Firmware.BIOS, target(8 * GIB))
    check(layout, target(8 * GIB))
    assert by_purpose(layout, "bios-grub").type == BIOS_BOOT
    assert by_purpose(layout, "boot-efi").number == 1
    same = fit(image, profile(firmware=Firmware.UEFI), Firmware.UEFI, target(8 * GIB))
    assert [p.number for p in same.partitions] == [1, 2]
    assert same.filesystems[1].uuid == "ABCD-1234"


def test_an_esp_that_was_not_captured_is_made_anew() -> None:
    parts = (
        Partition(1, MIB, 512 * MIB, ESP, guid(1), "EFI", (), fs("vfat", 512 * MIB, 1)),
        Partition(2, 513 * MIB, 5 * GIB, LINUX, guid(2), "", (), fs("ext4", 5 * GIB, 2)),
    )
    source = Disk("sda", 8 * GIB, 512, 512, role="boot", table=TableKind.GPT, table_id=TABLE, partitions=parts)
    layout = fit(manifest(source, (2, "/", GIB)), profile(), Firmware.UEFI, target(8 * GIB))
    assert (layout.filesystems[1].kind, layout.filesystems[1].mountpoint) == ("vfat", "/boot/efi")
    assert by_purpose(layout, "esp").part_uuid == guid(1)


def test_a_larger_disk_grows_the_largest_volume_only() -> None:
    disk = target(40 * GIB)
    layout = fit(gpt_image(), profile(), Firmware.BIOS, disk)
    check(layout, disk)
    assert by_purpose(layout, "root").size_bytes > 30 * GIB
    assert by_purpose(layout, "srv").size_bytes == 3072 * MIB
    assert by_purpose(layout, "swap").size_bytes == 1000 * MIB
    end = max(p.start_bytes + p.size_bytes for p in layout.partitions)
    assert last_usable_bytes("gpt", disk) - end < MIB
    assert layout.filesystems[2].inodes >= 6144 * MIB // 16384


def test_what_does_not_fit_is_said_in_numbers() -> None:
    with pytest.raises(DoesNotFitError) as caught:
        fit(gpt_image(used=3 * GIB), profile(), Firmware.UEFI, target(2 * GIB))
    said = str(caught.value)
    assert caught.value.exit_code == 13
    for part in ("nvme0n1", "2.0 GiB", "/: needs", "holds 3.0 GiB", "/srv: needs", "larger"):
        assert part in said


def test_swap_shrinks_and_then_goes() -> None:
    layout = fit(gpt_image(), profile(), Firmware.UEFI, target(3 * GIB))
    assert 256 * MIB <= by_purpose(layout, "swap").size_bytes < 1000 * MIB
    needed = 1  # the smallest disk, in MiB, that still takes the image
    low, high = 256, 3 * 1024
    while low < high:
        needed = (low + high) // 2
        try:
            fit(gpt_image(), profile(), Firmware.UEFI, target(needed * MIB))
            high = needed
        except DoesNotFitError:
            low = needed + 1
    smallest = fit(gpt_image(), profile(), Firmware.UEFI, target(low * MIB))
    check(smallest, target(low * MIB))
    assert not [p for p in smallest.partitions if p.purpose == "swap"]
    assert any(note.startswith("swap") and "left out" in note for note in smallest.notes)
    root = by_purpose(smallest, "root")
    assert root.size_bytes > GIB + HEADROOM_BYTES


@pytest.mark.adapts("B16", "T1")
def test_sectors_of_4096_bytes() -> None:
    disk = target(12 * GIB, 4096)
    layout = fit(gpt_image(), profile(), Firmware.UEFI, disk)
    check(layout, disk)
    assert by_purpose(layout, "esp").size_bytes >= 260 * MIB
    with pytest.raises(DoesNotFitError, match="4096-byte sectors"):
        fit(gpt_image(), profile(), Firmware.BIOS, disk)


@pytest.mark.parametrize("logical", [False, True])
def test_an_mbr_stays_for_bios(logical: bool) -> None:
    for size in (4 * GIB, 8 * GIB, 20 * GIB):
        disk = target(size)
        layout = fit(mbr_image(logical=logical), profile(), Firmware.BIOS, disk)
        check(layout, disk)
        assert (layout.table, layout.table_id) == ("mbr", "0xdeadbeef")
        assert by_purpose(layout, "root").part_uuid == "deadbeef-01"
        assert by_purpose(layout, "root").flags == ("boot",)
        if logical:
            assert (by_purpose(layout, "swap").number, by_purpose(layout, "home").number) == (5, 6)
            assert by_purpose(layout, "extended").number == 2


@pytest.mark.parametrize("logical", [False, True])
@pytest.mark.adapts("B5", "B12", "T1")
def test_an_mbr_becomes_gpt_for_uefi_unless_files_name_its_identities(logical: bool) -> None:
    disk = target(8 * GIB)
    layout = fit(mbr_image(logical=logical), profile(), Firmware.UEFI, disk)
    check(layout, disk)
    assert layout.table == "gpt"
    assert by_purpose(layout, "root").type == LINUX
    assert by_purpose(layout, "esp").type == ESP
    assert by_purpose(layout, "root").flags == ()
    assert any("became GPT" in note for note in layout.notes)
    kept = fit(mbr_image(logical=logical), profile(partuuid=True), Firmware.UEFI, disk)
    check(kept, disk)
    assert kept.table == "mbr"
    assert by_purpose(kept, "root").part_uuid == "deadbeef-01"
    assert by_purpose(kept, "esp").type == ESP_MBR
    assert by_purpose(kept, "esp").number <= 4


def test_an_mbr_reaches_two_tebibytes_and_no_further() -> None:
    disk = target(3 << 40)
    layout = fit(mbr_image(), profile(), Firmware.BIOS, disk)
    check(layout, disk)
    assert layout.table == "mbr"
    assert max(p.start_bytes + p.size_bytes for p in layout.partitions) <= 2 << 40
    assert any("only the first" in note for note in layout.notes)


def test_partitions_of_unknown_content_stay_only_where_there_is_room() -> None:
    source = gpt_source(20 * GIB)
    other = Partition(5, 12 * GIB, 2 * GIB, "de94bba4-06d1-4d40-a16a-bfd50179d6ac", guid(5), "recovery")
    source = replace(source, partitions=(*source.partitions, other))
    image = manifest(source, (2, "/", GIB), (3, "/srv", 100 * MIB))
    roomy = fit(image, profile(), Firmware.BIOS, target(20 * GIB))
    assert [p.part_uuid for p in roomy.partitions if p.number == 5] == [guid(5)]
    tight = fit(image, profile(), Firmware.BIOS, target(4 * GIB))
    check(tight, target(4 * GIB))
    assert 5 not in [p.number for p in tight.partitions]
    assert any("partition 5" in note for note in tight.notes)


def test_volumes_of_a_second_disk_come_along() -> None:
    second = Disk("vdb", 5 * GIB, 512, 512, table=TableKind.GPT, table_id=guid(9), partitions=(
        Partition(1, MIB, 4 * GIB, LINUX, guid(50), "data", (), fs("xfs", 4 * GIB, 50)),
    ))  # fmt: skip
    one = gpt_image()
    two = manifest(second, (1, "/data", 300 * MIB))
    image = replace(one, disks=(gpt_source(), second), volumes=(*one.volumes, *two.volumes))
    layout = fit(image, profile(), Firmware.BIOS, target(20 * GIB))
    check(layout, target(20 * GIB))
    assert by_purpose(layout, "data").part_uuid == guid(50)
    assert layout.partitions[-1].purpose == "data"


def test_the_tree_of_a_directory_gets_a_disk_of_its_own() -> None:
    volume = Volume("root", "tree", FileSystem("overlay"), ObjectRef("0", 0), 500, 50 * MIB, ())
    image = Manifest(1, "c", "20260101T000000Z", "", "c", ProfileRef("", "ab", ""), (), (volume,), ())
    layout = fit(image, profile(kernel=False), Firmware.UEFI, target(4 * GIB))
    check(layout, target(4 * GIB))
    assert layout.volumes == {"root": 1}
    assert layout.filesystems[1].kind == "ext4"
    assert layout.filesystems[1].mountpoint == "/"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"filesystem": FileSystem("ntfs")}, "ntfs"),
        ({"disk": "", "partition": 0}, "LVM, RAID"),
        ({"partition": 3}, "share partition 3"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is_written(change: dict[str, object], said: str) -> None:
    image = gpt_image()
    root = replace(image.volumes[0], **change)  # type: ignore[arg-type]
    with pytest.raises(RefusedError, match=said):
        fit(replace(image, volumes=(root, *image.volumes[1:])), profile(), Firmware.BIOS, target(10 * GIB))


KINDS = ("ext4", "xfs", "btrfs", "vfat", "swap", "")


@st.composite
def sources(draw: st.DrawFn) -> Manifest:
    """Disks as they occur, partitions anywhere, of any kind, used to any degree."""
    mbr = draw(st.booleans())
    count = draw(st.integers(1, 4 if mbr else 9))
    at, parts, mounts = draw(st.integers(1, 5)) * MIB + draw(st.sampled_from([0, 512, 63 * 512])), [], []
    for number in draw(st.permutations(range(1, count + 1))):
        kind = "ext4" if number == 1 else draw(st.sampled_from(KINDS))
        size = draw(st.integers(300, 4000)) * MIB + draw(st.integers(0, 2000)) * 512
        holds = fs(kind, size, number) if kind else None
        named = "0x83" if mbr else LINUX
        parts.append(Partition(number, at, size, named, f"deadbeef-{number:02x}" if mbr else guid(number),
                               holds=holds))  # fmt: skip
        if kind and kind != "swap" and (number == 1 or draw(st.booleans())):
            mounts.append((number, "/" if number == 1 else f"/m{number}", draw(st.integers(0, size * 3 // 4))))
        at += size + draw(st.integers(0, 100)) * MIB
    disk = Disk("sda", at + 40 * 512, 512, 512, role="boot", table=TableKind.MBR if mbr else TableKind.GPT,
                table_id="0xdeadbeef" if mbr else TABLE, partitions=tuple(parts))  # fmt: skip
    return manifest(disk, *mounts, entries=draw(st.integers(0, 20000)))


@settings(deadline=None, max_examples=400)
@given(
    sources(),
    st.integers(64, 60_000),
    st.integers(0, 4095),
    st.sampled_from([512, 4096]),
    st.sampled_from(list(Firmware)),
    st.booleans(),
)
def test_any_source_on_any_disk(
    image: Manifest, mib: int, odd: int, sector: int, firmware: Firmware, partuuid: bool
) -> None:
    disk = target(mib * MIB + odd * sector, sector)
    source = image.disks[0]
    try:
        layout = fit(image, profile(partuuid=partuuid), firmware, disk)
    except DoesNotFitError:
        return
    check(layout, disk)
    originals = {part.number: part for part in source.partitions}
    for volume in image.volumes:
        number = layout.volumes[volume.id]
        part = next(p for p in layout.partitions if p.number == number)
        assert number == volume.partition
        if layout.table == source.table:
            assert part.part_uuid == originals[number].part_uuid
        assert layout.filesystems[number].uuid == volume.filesystem.uuid
        smallest = minimum_bytes(replace(volume.filesystem), 0)
        assert part.size_bytes >= min(smallest, originals[number].size_bytes, volume.filesystem.used_bytes)
    if layout.table == source.table:
        assert layout.table_id == source.table_id
    if firmware is Firmware.UEFI:
        assert any(p.type in (ESP, ESP_MBR) for p in layout.partitions)
    if firmware is Firmware.BIOS and layout.table == "gpt":
        assert any(p.type == BIOS_BOOT for p in layout.partitions)


def test_files_that_were_compressed_are_told() -> None:
    image = gpt_image()
    dense = replace(image.volumes[1], filesystem=replace(image.volumes[1].filesystem, kind="btrfs"))
    dense = replace(dense, content_bytes=5 * GIB)
    layout = fit(replace(image, volumes=(image.volumes[0], dense)), profile(), Firmware.BIOS, target(10 * GIB))
    assert [note for note in layout.notes if note.startswith("the files of /srv are 5.0 GiB")]
    assert not [note for note in fit(image, profile(), Firmware.BIOS, target(10 * GIB)).notes if "compressed" in note]


@pytest.mark.adapts("B5", "T1")
@pytest.mark.parametrize("size", [8 * GIB, 20 * GIB])
def test_an_xfs_smaller_than_mkfs_makes_today_grows_to_what_it_makes(size: int) -> None:
    """mkfs.xfs refuses less than 300 MiB since xfsprogs 5.19, and it would do so when the disk is erased already."""
    boot = Partition(1, MIB, 256 * MIB, "0x83", "deadbeef-01", "", ("boot",), fs("xfs", 256 * MIB, 1))
    root = Partition(2, 257 * MIB, 7 * GIB, "0x83", "deadbeef-02", "", (), fs("xfs", 7 * GIB, 2))
    source = Disk("sda", 8 * GIB, 512, 512, role="boot", table=TableKind.MBR, table_id="0xdeadbeef",
                  partitions=(boot, root))  # fmt: skip
    layout = fit(manifest(source, (1, "/boot", 60 * MIB), (2, "/", GIB)), profile(), Firmware.BIOS, target(size))
    check(layout, target(size))
    assert by_purpose(layout, "boot").size_bytes == 300 * MIB
    assert "/boot grows from 256.0 MiB to 300.0 MiB" in layout.notes


@pytest.mark.parametrize(
    ("gpt", "mbr"),
    [(LINUX, "0x83"), (SWAP, "0x82"), (ESP, "0xef"), (BASIC_DATA, "0x7"), (guid(1), "0x83"), (LINUX.upper(), "0x83"),
     ("e6d6d379-f507-44c2-a23c-238f2a3df928", "0x8e"), ("a19d880f-05fc-4d3b-a006-743f0f84911e", "0xfd")],
)  # fmt: skip
def test_types_of_a_gpt_in_an_mbr(gpt: str, mbr: str) -> None:
    assert type_in_mbr(gpt) == type_in_mbr(mbr) == mbr
    if gpt.lower() not in (guid(1),):
        assert type_in_gpt(mbr) == gpt.lower()
