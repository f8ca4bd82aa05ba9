"""What lvm, mdadm and cryptsetup print becomes values. Their words are those of Debian 12, as they printed them."""

from __future__ import annotations

import json

import pytest

from agent.errors import RefusedError
from agent.model.profile import Profile
from agent.model.profile_xml import dump_profile, load_profile
from agent.model.storage import Disk, FileSystem, Luks, Partition, Stack, VolumeGroup
from agent.model.tree import MemoryTree
from agent.probe.stack import LvmReport, array_of, luks_of, split_mapped, volume_group
from agent.probe.stack_open import Places, active_members, groups_on, refuse_missing_members, told_by
from agent.probe.stack_source import crypttab_names
from agent.process import Completed

DETAIL = """MD_LEVEL=raid1
MD_DEVICES=2
MD_METADATA=1.2
MD_UUID=a3ba06fe:5cfe7bf4:e2581feb:df9a4a6a
MD_NAME=stacks:0
MD_DEVICE_dev_vdb_ROLE=0
"""
EXAMINED = """/dev/vdb:
          Magic : a92b4efc
        Version : 1.2
     Array UUID : a3ba06fe:5cfe7bf4:e2581feb:df9a4a6a
           Name : stacks:0  (local to host stacks)
     Raid Level : raid1
   Raid Devices : 2

 Avail Dev Size : 2093056 sectors (1022.00 MiB 1071.64 MB)
    Data Offset : 4096 sectors
   Super Offset : 8 sectors
Internal Bitmap : 8 sectors from superblock
     Chunk Size : 512K
         Layout : near=2
"""
LUKS1 = """LUKS header information for /dev/vdb

Version:       	1
Cipher name:   	aes
Cipher mode:   	xts-plain64
Hash spec:     	sha256
Payload offset:	4096
MK bits:       	512
MK iterations: 	1000
UUID:          	9f55640a-02ec-4e23-8aff-93f37dbd9b4d

Key Slot 0: ENABLED
	Iterations:         	1000
Key Slot 1: DISABLED
Key Slot 2: ENABLED
"""
LUKS2 = """LUKS header information
Version:       	2
Epoch:         	3
UUID:          	92808176-dd16-40d6-b4a8-d5c85b231d92
Label:         	(no label)
Subsystem:     	(no subsystem)

Data segments:
  0: crypt
	offset: 16777216 [bytes]
"""


def header(*tokens: tuple[str, list[str]]) -> str:
    slot = {"type": "luks2", "key_size": 64, "kdf": {"type": "argon2id"}}
    segment = {"type": "crypt", "offset": "16777216", "encryption": "aes-xts-plain64", "sector_size": 512}
    named = {str(index): {"type": kind, "keyslots": slots} for index, (kind, slots) in enumerate(tokens)}
    reencrypt = {"type": "reencrypt", "key_size": 1}
    slots = {"0": slot, "1": slot, "5": reencrypt}
    return json.dumps({"keyslots": slots, "tokens": named, "segments": {"0": segment}})


def test_an_array_is_read_from_what_mdadm_tells() -> None:
    found = array_of(DETAIL, EXAMINED, "md0", ["vdb:1", "vda:1"], (FileSystem("ext4"), 1071644672))
    assert (found.uuid, found.level, found.name, found.devices, found.metadata) == (
        "a3ba06fe:5cfe7bf4:e2581feb:df9a4a6a", "raid1", "stacks:0", 2, "1.2",
    )  # fmt: skip
    assert (found.members, found.offset_bytes, found.chunk_bytes, found.layout, found.bitmap) == (
        ("vda:1", "vdb:1"), 2 << 20, 512 << 10, "near=2", True,
    )  # fmt: skip


def examined(state: str, events: str) -> dict[str, str]:
    return told_by(
        EXAMINED + f"         Events : {events}\n    Array State : {state} ('A' == active, '.' == missing)\n"
    )


def test_members_are_counted_as_the_newest_of_them_says() -> None:
    assert active_members([examined("AA", "17")]) == 2
    assert active_members([examined("AA", "17"), examined("A.", "19")]) == 1, "the older half knows of nothing"
    old = told_by("     Raid Devices : 2\n Active Devices : 2\n         Events : 0.30\n")
    assert active_members([old]) == 2


def test_a_mirror_with_only_its_older_half_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    said = EXAMINED + "         Events : 17\n    Array State : AA ('A' == active, '.' == missing)\n"
    monkeypatch.setattr("agent.probe.stack_open.run", lambda *_, **__: Completed(0, said, ""))
    told = r"array stacks:0 had 2 members when it ran last, and 1 of them is here: /dev/vdb1"
    with pytest.raises(RefusedError, match=told):
        refuse_missing_members(["vdb1"])
    refuse_missing_members(["vdb1", "vda1"])


def test_places_of_further_disks_are_places_of_their_own() -> None:
    first = Disk("vda", 9, 512, 512, partitions=(Partition(1, 1, 1, "", holds=FileSystem("ext4", "a")),))
    second = Disk("vdb", 9, 512, 512, partitions=(Partition(1, 1, 1, "", holds=FileSystem("vfat", "b")),))
    whole = Disk("vdc", 9, 512, 512, holds=FileSystem("xfs", "c"))
    places = Places(first, beside=(second, whole))
    numbers = {held.uuid: number for number, held in places.contents()}
    assert [places.on_disk(numbers[uuid]) for uuid in "abc"] == [(first, 1), (second, 1), (whole, 0)]
    assert len(set(numbers.values())) == 3


def test_a_luks1_header_is_read_from_its_text() -> None:
    found = luks_of(LUKS1, "", "vdb:1", "vdb1_crypt", (None, 5))
    assert (found.version, found.cipher, found.key_bytes, found.offset_bytes, found.passphrases, found.kdf) == (
        1, "aes-xts-plain64", 64, 2 << 20, 2, "pbkdf2",
    )  # fmt: skip


@pytest.mark.adapts("B10", "T1")
@pytest.mark.parametrize(
    ("tokens", "passphrases"),
    [
        ((), 2),
        ((("systemd-tpm2", ["0"]),), 1),
        ((("clevis", ["0"]), ("systemd-tpm2", ["1"])), 0),
        ((("systemd-tpm2", ["0"]), ("systemd-recovery", ["1"])), 1),
    ],
)
def test_key_slots_that_a_chip_opens_are_no_passphrases(
    tokens: tuple[tuple[str, list[str]], ...], passphrases: int
) -> None:
    found = luks_of(LUKS2, header(*tokens), "vdb:1", "x", (None, 0))
    assert (found.version, found.label, found.key_bytes, found.offset_bytes) == (2, "", 64, 16 << 20)
    assert found.passphrases == passphrases
    assert found.tokens == tuple(sorted({kind for kind, _ in tokens}))


def physical(**more: str) -> dict[str, str]:
    row = {
        "pv_name": "/dev/null", "pv_uuid": "P", "dev_size": "1073741824", "pe_start": "1048576", "vg_name": "t",
        "vg_uuid": "G", "vg_extent_size": "4194304", "vg_extent_count": "255", "vg_missing_pv_count": "0",
    }  # fmt: skip
    return row | more


def logical(**more: str) -> dict[str, str]:
    return {"vg_name": "t", "lv_name": "x", "lv_uuid": "L", "lv_size": "104857600", "lv_layout": "linear",
            "lv_role": "public", "lv_kernel_minor": "0"} | more  # fmt: skip


def test_a_group_is_read_from_the_rows_of_the_reports() -> None:
    rows = [
        logical(),
        logical(lv_name="s", lv_role="public,snapshot,thicksnapshot"),
        logical(lv_name="o", lv_role="public,origin,thickorigin"),
        logical(lv_name="p", lv_layout="thin,pool"),
    ]
    found = volume_group([physical()], ["vda:3"], rows, {"x": FileSystem("ext4")})
    assert (found.name, found.extent_bytes, found.extents, found.physical[0].on) == ("t", 4 << 20, 255, "vda:3")
    assert [volume.kind for volume in found.logical] == ["linear", "snapshot", "origin of a snapshot", "thin,pool"]
    assert found.logical[0].holds == FileSystem("ext4")


def test_hyphens_in_mapped_names_come_back() -> None:
    assert split_mapped("debian--vg-swap_1") == ("debian-vg", "-", "swap_1")
    assert split_mapped("vda3_crypt") == ("vda3_crypt", "", "")


def test_a_group_that_is_not_whole_is_refused_and_one_of_another_disk_is_left_alone() -> None:
    report = LvmReport((physical(pv_name="/dev/null"),), ())
    assert groups_on(report, frozenset({"vda3"})) == []
    assert groups_on(report, frozenset({"null"})) == ["t"]
    with pytest.raises(RefusedError, match="volume group t lacks 1 of its physical volumes"):
        groups_on(LvmReport((physical(vg_missing_pv_count="1"),), ()), frozenset({"null"}))


@pytest.mark.parametrize(
    "device",
    ["UUID=92808176-dd16-40d6-b4a8-d5c85b231d92", "/dev/disk/by-uuid/92808176-dd16-40d6-b4a8-d5c85b231d92",
     "PARTUUID=11111111-2222-4333-8444-000000000003", "/dev/sda3", "/dev/disk/by-id/ata-Disk_S3R1-part3",
     "/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part3"],
)  # fmt: skip
def test_a_mapping_is_called_as_crypttab_calls_it(device: str) -> None:
    tree = MemoryTree({"/etc/crypttab": f"# comment\nother UUID=1 none luks\nsda3_crypt {device} none luks\n".encode()})
    part = Partition(3, 0, 0, "", "11111111-2222-4333-8444-000000000003")
    disk = Disk("vdb", 1, 512, 512, serial="S3R1", by_path="pci-0000:00:1f.2-ata-1", partitions=(part,))
    stack = Stack((Luks("92808176-dd16-40d6-b4a8-d5c85b231d92", "vdb:3", name="regraft-92808176"),))
    assert [luks.name for luks in crypttab_names(stack, disk, tree).luks] == ["sda3_crypt"]


def test_a_line_that_only_has_the_number_of_the_partition_is_not_the_mappings_where_a_surer_one_is() -> None:
    """And one with a random key never is: restored under its name, the device would be taken for that swap."""
    uuid = "92808176-dd16-40d6-b4a8-d5c85b231d92"
    lines = f"swap /dev/sdb3 /dev/urandom swap\ndata /dev/sdc3 none luks\nhome UUID={uuid} none luks\n"
    disk = Disk("vdb", 1, 512, 512, partitions=(Partition(3, 0, 0, ""),))
    stack = Stack((Luks(uuid, "vdb:3", name="regraft-92808176"),))
    tree = MemoryTree({"/etc/crypttab": lines.encode()})
    assert [luks.name for luks in crypttab_names(stack, disk, tree).luks] == ["home"]
    tree = MemoryTree({"/etc/crypttab": b"swap /dev/sdb3 /dev/urandom swap\n"})
    assert [luks.name for luks in crypttab_names(stack, disk, tree).luks] == ["regraft-92808176"]


def test_a_stack_is_a_part_of_the_profile() -> None:
    array = array_of(DETAIL, EXAMINED, "md0", ["vdb:1"], (FileSystem("LVM2_member"), 7))
    group = volume_group([physical()], ["array:x"], [logical()], {"x": FileSystem("ext4", features=("extent",))})
    luks = luks_of(LUKS2, header(("clevis", ["0"])), "vda:3", "x", (None, 0))
    profile = Profile("m", "2026-01-01T00:00:00Z", stack=Stack((luks,), (array,), (group, VolumeGroup("e", "u"))))
    assert load_profile(dump_profile(profile)) == profile
