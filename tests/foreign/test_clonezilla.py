"""A Clonezilla image directory, as ocs-sr leaves it, becomes an image: partitions, identities, and the machine."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest
import zstandard

from agent.model.profile import Firmware, Profile, Status
from agent.process import run
from tests.commands.program import Regraft
from tests.foreign.foreign_disk import SCRIPT, SRV, SWAP, TABLE, MadeDisk, fill
from tests.foreign.test_import import extracted, loops_of, of_root, profile_of
from tests.probe.loop import loop_disk

pytestmark = pytest.mark.root

DMI = """\
# dmidecode 3.4
Handle 0x0000, DMI type 0, 24 bytes
BIOS Information
\tVendor: EDK II
\tVersion: unknown

Handle 0x0001, DMI type 1, 27 bytes
System Information
\tManufacturer: Contoso
\tProduct Name: Server 9000
\tVersion: Not Specified
\tSerial Number: CT-000042
\tUUID: 0F9E8D7C-6B5A-4938-8271-605F4E3D2C1B
"""
PARTED = """\
Model: QEMU (scsi)
Disk /dev/sda: 262144s
Sector size (logical/physical): 512B/512B
Partition Table: gpt
"""
PIECE_BYTES = 1_000_000


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MadeDisk]:
    """The directory: the root partition by zstd in pieces, the other by gzip, swap by its identity only."""
    folder = tmp_path_factory.mktemp("clonezilla")
    image = folder / "2026-11-24-img"
    image.mkdir()
    made = MadeDisk(folder / "sda.raw")
    with loop_disk(made.file, 128 << 20, SCRIPT) as disk:
        fill(disk, folder, made)
        for number in (2, 3):
            node, image_file, log = disk.part(number), folder / f"part{number}", folder / "log"
            run(["partclone.ext4", "-c", "-s", node, "-O", image_file, "-L", log, "-F"])
        table = run(["sfdisk", "--dump", disk.node]).stdout.replace(f"{disk.node}p", "/dev/sda")
    (image / "sda-pt.sf").write_text(table.replace(f"{disk.node}", "/dev/sda"))
    (image / "sda-pt.parted").write_text(PARTED)
    packed = zstandard.compress((folder / "part2").read_bytes())
    for number, at in enumerate(range(0, len(packed), PIECE_BYTES)):
        piece = packed[at : at + PIECE_BYTES]
        (image / f"sda2.ext4-ptcl-img.zst.a{chr(ord('a') + number)}").write_bytes(piece)
    (image / "sda3.ext4-ptcl-img.gz").write_bytes(gzip.compress((folder / "part3").read_bytes()))
    (image / "swappt-sda4.info").write_text(f'UUID="{SWAP}"\nLABEL=""\n')
    (image / "disk").write_text("sda\n")
    (image / "parts").write_text("sda2 sda3\n")
    (image / "Info-dmi.txt").write_text(DMI)
    (image / "efi-nvram.dat").write_text("BootCurrent: 0001\n")
    assert (image / "sda2.ext4-ptcl-img.zst.ab").exists(), "more than one piece"
    return image, made


def test_it_becomes_the_machine_that_it_was(regraft: Regraft, saved: tuple[Path, MadeDisk], tmp_path: Path) -> None:
    image, made = saved
    before = sorted((path.name, path.stat().st_mtime_ns) for path in image.iterdir())
    regraft("import", image, "--name", "box")
    assert sorted((path.name, path.stat().st_mtime_ns) for path in image.iterdir()) == before
    manifest = regraft.json("show", "box")
    (disk,) = manifest["disks"]
    assert (disk["name"], disk["size_bytes"], disk["table_id"]) == ("sda", 128 << 20, TABLE.lower())
    assert [(v["id"], v["disk"], v["partition"]) for v in manifest["volumes"]] == [
        ("root", "sda", 2), ("srv", "sda", 3),
    ]  # fmt: skip
    assert manifest["volumes"][1]["filesystem"]["uuid"] == SRV
    assert (disk["partitions"][3]["holds"]["kind"], disk["partitions"][3]["holds"]["uuid"]) == ("swap", SWAP)
    assert of_root(extracted(regraft, "box", tmp_path / "out")) == of_root(made.trees["root"])
    assert (tmp_path / "out/srv/page.html").read_text() == "served"
    assert not loops_of(tmp_path)
    says_what_it_knows(profile_of(tmp_path / "depot", "box"))


def says_what_it_knows(profile: Profile) -> None:
    platform = profile.platform
    assert (platform.system_vendor, platform.product_name, platform.product_version) == ("Contoso", "Server 9000", "")
    assert (platform.system_serial, platform.firmware) == ("CT-000042", Firmware.UEFI)
    assert platform.system_uuid == "0f9e8d7c-6b5a-4938-8271-605f4e3d2c1b"
    assert profile.status("platform") == Status.PARTIAL and profile.status("devices") == Status.UNAVAILABLE


def copy_of(image: Path, folder: Path) -> Path:
    return Path(shutil.copytree(image, folder / "copy"))


def test_a_missing_piece_is_noticed_before_anything_is_made(
    regraft: Regraft, saved: tuple[Path, MadeDisk], tmp_path: Path
) -> None:
    copy = copy_of(saved[0], tmp_path)
    (copy / "sda2.ext4-ptcl-img.zst.aa").unlink()
    told = regraft.refused("import", copy, "--name", "box", code=12, name="refused")
    assert "the pieces of partition sda2 end in ab" in told


def test_damage_is_noticed(regraft: Regraft, saved: tuple[Path, MadeDisk], tmp_path: Path) -> None:
    copy = copy_of(saved[0], tmp_path)
    piece = copy / "sda3.ext4-ptcl-img.gz"
    content = gzip.decompress(piece.read_bytes())
    piece.write_bytes(gzip.compress(content[: len(content) // 2]))
    assert "partition sda3 of" in regraft("import", copy, "--name", "box", code=22).stderr
    piece.write_bytes(gzip.compress(content)[:-2000])
    told = regraft("import", copy, "--name", "box", code=22).stderr
    assert "the pieces of partition sda3 cannot be unpacked" in told
    assert regraft.json("images") == [] and not loops_of(tmp_path)


def test_what_cannot_be_rebuilt_is_said(regraft: Regraft, saved: tuple[Path, MadeDisk], tmp_path: Path) -> None:
    copy = copy_of(saved[0], tmp_path)
    (copy / "lvm_vg_dev.list").write_text("vg0 /dev/sda5 x\n")
    assert "holds LVM" in regraft.refused("import", copy, "--name", "box", code=12, name="refused")
    (copy / "lvm_vg_dev.list").unlink()
    (copy / "sdb1.ext4-ptcl-img.gz").write_bytes(b"")
    assert "the disks sda, sdb, expected one" in regraft.refused("import", copy, "--name", "b", code=2, name="usage")
    (copy / "sda3.ext4-ptcl-img.gz").rename(copy / "sda3.ext4-ptcl-img.lz4")
    told = regraft.refused("import", copy, "--name", "b", "--disk", "sda", code=12, name="refused")
    assert "partition sda3 is packed by lz4" in told


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ("", "there is no file of it"),
        ("sda3.ntfs-img.aa", "there is sda3.ntfs-img.aa"),  # ntfsclone
        ("sda3.aa", "there is sda3.aa"),  # partimage
        ("sda3.dd-img.aa", "there is sda3.dd-img.aa"),
    ],
)
def test_what_was_saved_and_has_no_image_is_refused_before_anything_is_made(
    regraft: Regraft, saved: tuple[Path, MadeDisk], tmp_path: Path, beside: str, said: str
) -> None:
    copy = copy_of(saved[0], tmp_path)
    (copy / "sda3.ext4-ptcl-img.gz").unlink()
    (copy / "sda3.info").write_text("what kind of file system it is")
    if beside:
        (copy / beside).write_bytes(b"")
    told = regraft.refused("import", copy, "--name", "box", code=12, name="refused")
    assert "partition sda3 of" in told and said in told and "sda3.info" not in told
    assert regraft.json("images") == [] and not loops_of(tmp_path)


def test_what_was_saved_must_be_known(regraft: Regraft, saved: tuple[Path, MadeDisk], tmp_path: Path) -> None:
    copy = copy_of(saved[0], tmp_path)
    (copy / "parts").write_text("sda2 sda3 sda4 sdb1\n")
    regraft("import", copy, "--name", "box")  # swap has its identity; another disk is not asked for
    (copy / "parts").unlink()
    told = regraft.refused("import", copy, "--name", "box", code=22, name="damaged")
    assert "has no file ‘parts’" in told


def test_a_partition_that_was_copied_whole(regraft: Regraft, saved: tuple[Path, MadeDisk], tmp_path: Path) -> None:
    copy = copy_of(saved[0], tmp_path)
    (copy / "sda3.ext4-ptcl-img.gz").unlink()
    content = saved[1].file.read_bytes()[66 << 20 : 106 << 20]
    (copy / "sda3.dd-ptcl-img.zst.aa").write_bytes(zstandard.compress(content))
    regraft("import", copy, "--name", "box")
    regraft("extract", "box", "/srv", "--to", tmp_path / "out")
    assert (tmp_path / "out/srv/page.html").read_text() == "served"
    (copy / "sda3.dd-ptcl-img.zst.aa").write_bytes(zstandard.compress(content[:-512]))
    told = regraft("import", copy, "--name", "box", code=22).stderr
    assert "the image of partition sda3 has 41,942,528 bytes expected 41,943,040" in told
