"""Several disks: which receives what, what is a tie, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.errors import DiskSelectionError, RefusedError, UsageError
from agent.model.disk_layouts import layouts_of
from agent.model.grow import parse_grow
from agent.model.image import Manifest, ObjectRef, Volume
from agent.model.partition_types import LINUX, is_esp
from agent.model.profile import Firmware
from agent.model.spread import Spread, Wish, chosen_disks, parse_map, spread
from agent.model.storage import Disk, Partition, TableKind
from tests.model.test_layout import GIB, MIB, check, fs, gpt_image, guid, mbr_image, profile

DATA_TABLE = "9c0e2f7a-6f3d-4b3a-9c55-0a50c4b0a100"


def data_disk(name: str, size: int, number: int) -> tuple[Disk, Volume]:
    held = replace(fs("xfs", size - 4 * MIB, number), mountpoint=f"/data{number}", used_bytes=GIB)
    part = Partition(1, MIB, size - 4 * MIB, LINUX, guid(number), "", (), held)
    disk = Disk(name, size, 512, 512, table=TableKind.GPT, table_id=DATA_TABLE, partitions=(part,))
    return disk, Volume(f"data{number}", "tree", held, ObjectRef("0", 0), 100, GIB, (), name, 1)


def two_disk_image(*sizes: int) -> Manifest:
    """The demo's disk, and data disks of these sizes."""
    image = gpt_image()
    more = [data_disk(f"vd{chr(ord('b') + n)}", size, 50 + n) for n, size in enumerate(sizes)]
    disks, volumes = [disk for disk, _ in more], [volume for _, volume in more]
    return replace(image, disks=(*image.disks, *disks), volumes=(*image.volumes, *volumes))


def target(name: str, size: int) -> Disk:
    return Disk(name, size, 512, 512, serial=f"S-{name}")


A, B, C = target("nvme0n1", 20 * GIB), target("nvme1n1", 30 * GIB), target("nvme2n1", 30 * GIB)


def layouts(found: Spread, wish: Wish = Wish()) -> dict[str, dict[str, int]]:  # noqa: B008 - a frozen value
    """Volumes by disk; every layout is checked."""
    made = layouts_of(found, profile(), Firmware.UEFI, wish)
    for disk, layout in made:
        check(layout, disk)
    identities = [layout.table_id for _, layout in made] + [
        p.part_uuid for _, layout in made for p in layout.partitions
    ]
    assert len(set(identities)) == len(identities), "two disks never have the same identity"
    return {disk.name: dict(layout.volumes) for disk, layout in made}


@pytest.mark.adapts("B0", "T1")
def test_one_disk_receives_everything() -> None:
    found = spread(two_disk_image(12 * GIB), (B,), Wish())
    assert not found.ties and not found.notes
    assert set(layouts(found)["nvme1n1"]) == {"root", "srv", "data50"}


@pytest.mark.adapts("B0", "T1")
def test_two_disks_go_to_two_by_size() -> None:
    found = spread(two_disk_image(29 * GIB), (A, B), Wish())
    assert {name: disk.name for name, disk in found.receives.items()} == {"vda": "nvme0n1", "vdb": "nvme1n1"}
    assert found.ties == () and len(found.notes) == 2
    assert {name: set(volumes) for name, volumes in layouts(found).items()} == {
        "nvme0n1": {"root", "srv"}, "nvme1n1": {"data50"},
    }  # fmt: skip


@pytest.mark.adapts("B0", "T1")
def test_only_the_first_disk_is_made_to_boot() -> None:
    made = layouts_of(spread(two_disk_image(29 * GIB), (A, B), Wish()), profile(), Firmware.UEFI, Wish())
    assert [any(part.purpose == "esp" for part in layout.partitions) for _, layout in made] == [True, False]


@pytest.mark.adapts("B0", "T1")
def test_two_equal_disks_are_a_tie_that_is_told() -> None:
    found = spread(two_disk_image(29 * GIB), (A, B, C), Wish(maps=(parse_map("/srv=name=nvme2n1"),)))
    assert found.ties == (), "the other is spoken for"
    image = two_disk_image(29 * GIB, 28 * GIB)
    found = spread(image, (A, B, C), Wish())
    assert len(found.ties) == 1
    assert "disk vdb of the image (29.0 GiB) goes to nvme1n1 (serial S-nvme1n1), and nvme2n1" in found.ties[0]
    mapped = spread(image, (A, B, C), Wish(maps=(parse_map("vdb=serial=S-nvme2n1"),)))
    assert mapped.ties == ()
    assert {name: disk.name for name, disk in mapped.receives.items()} == {
        "vda": "nvme0n1", "vdb": "nvme2n1", "vdc": "nvme1n1",
    }  # fmt: skip


@pytest.mark.adapts("B0", "T1")
def test_three_disks_go_to_two() -> None:
    found = spread(two_disk_image(6 * GIB, 8 * GIB), (A, B), Wish())
    assert {name: disk.name for name, disk in found.receives.items()} == {
        "vda": "nvme0n1", "vdc": "nvme1n1", "vdb": "nvme0n1",
    }  # fmt: skip
    assert {name: set(volumes) for name, volumes in layouts(found).items()} == {
        "nvme0n1": {"root", "srv", "data50"}, "nvme1n1": {"data51"},
    }  # fmt: skip


@pytest.mark.adapts("B0", "T1")
@pytest.mark.adapts("B5", "T1")
def test_one_disk_goes_to_two_as_mapped() -> None:
    wish = Wish(parse_grow("/srv"), (), (parse_map("/srv=name=nvme1n1"),))
    found = spread(gpt_image(), (A, B), wish)
    assert found.notes[-1] == "volume srv (/srv) goes to nvme1n1 (serial S-nvme1n1), as mapped"
    assert layouts(found, wish) == {"nvme0n1": {"root": 2}, "nvme1n1": {"srv": 3}}
    made = {disk.name: layout for disk, layout in layouts_of(found, profile(), Firmware.UEFI, wish)}
    srv = next(part for part in made["nvme1n1"].partitions if part.purpose == "srv")
    assert srv.part_uuid == guid(3) and srv.size_bytes > 29 * GIB, "its identity is kept, and it grows"


@pytest.mark.adapts("B0", "T1")
def test_the_booting_disk_may_be_mapped_to_the_disk_that_is_named_second() -> None:
    """It is the first of the plan then: boot partitions, boot entry and loader go where the system is."""
    wish = Wish(maps=(parse_map("vda=name=nvme1n1"),))
    found = spread(two_disk_image(8 * GIB), (A, B), wish)
    assert {name: set(volumes) for name, volumes in layouts(found, wish).items()} == {
        "nvme0n1": {"data50"}, "nvme1n1": {"root", "srv"},
    }  # fmt: skip
    (first, boots), (_, data) = layouts_of(found, profile(), Firmware.UEFI, wish)
    assert first == B
    assert boots.boots and "/boot/efi" in {made.mountpoint for made in boots.filesystems.values()}
    assert not data.boots and not any(is_esp(part.type) for part in data.partitions)


@pytest.mark.adapts("B5", "T1")
def test_volumes_of_a_gpt_disk_come_onto_an_mbr_with_types_that_it_has() -> None:
    """Also those of a whole disk, which has no table; attributes of a GPT stay behind."""
    disk, volume = data_disk("vdb", 3 * GIB, 50)
    part = replace(disk.partitions[0], flags=("RequiredPartition", "GUID:60"))
    bare = Disk("vdc", 2 * GIB, 512, 512)
    whole = replace(volume, id="bare", disk="vdc", partition=0,
                    filesystem=replace(volume.filesystem, mountpoint="/bare", uuid=guid(77)))  # fmt: skip
    image = mbr_image()
    image = replace(image, disks=(*image.disks, replace(disk, partitions=(part,)), bare),
                    volumes=(*image.volumes, volume, whole))  # fmt: skip
    made = layouts_of(spread(image, (B,), Wish()), profile(), Firmware.BIOS, Wish())
    layout = made[0][1]
    check(layout, B)
    assert layout.table == "mbr"
    assert [(each.purpose, each.type, each.flags) for each in layout.partitions] == [
        ("root", "0x83", ("boot",)), ("data50", "0x83", ()), ("bare", "0x83", ()),
    ]  # fmt: skip


def test_a_disk_that_would_receive_nothing_is_not_erased() -> None:
    with pytest.raises(RefusedError, match=r"disk nvme1n1 \(serial S-nvme1n1\) would be erased, and nothing"):
        spread(gpt_image(), (A, B), Wish())


def test_mappings_that_name_nothing() -> None:
    with pytest.raises(UsageError, match="‘vdz’ is no disk or volume of the image; it has vda, root, srv"):
        spread(gpt_image(), (A, B), Wish(maps=(parse_map("vdz=name=nvme1n1"),)))
    with pytest.raises(DiskSelectionError):
        spread(gpt_image(), (A, B), Wish(maps=(parse_map("/srv=name=sdz"),)))
    for text in ("srv", "=name=a", "srv="):
        with pytest.raises(UsageError, match="mapping"):
            parse_map(text)


def test_a_disk_is_selected_once() -> None:
    with pytest.raises(UsageError, match="disk nvme0n1 is selected twice"):
        chosen_disks("name=nvme0n1", Wish(also=("serial=S-nvme0n1",)), (A, B))
