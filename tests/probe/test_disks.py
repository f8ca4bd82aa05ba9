"""Disks as they are read: real tables and file systems on loop devices, and what sysfs says of real hardware."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from agent.errors import RefusedError
from agent.model.storage import ChainLink, TableKind
from agent.probe.blocks import Choice
from agent.probe.disks import model, read_disk, serial, transport, wwn
from agent.probe.filesystems import plain, unclean
from agent.probe.hardware import chain_of
from agent.probe.mounts import disks_below, fstab_entries, holder_text, read_mounts, read_swaps, unescaped
from agent.probe.source import directory_source, offline_source
from agent.process import run
from tests.probe.loop import LoopDisk, loop_disk, mounted
from tests.probe.machine_tree import MachineTree

MIB = 1 << 20
GPT = """label: gpt
label-id: 11111111-2222-4333-8444-0123456789AB
size=1MiB, type=21686148-6449-6E6F-744E-656564454649, name=bios
size=64MiB, type=linux, uuid=AAAAAAAA-BBBB-4CCC-8DDD-000000000002, name="the root", attrs="RequiredPartition GUID:60"
size=320MiB, type=linux, uuid=AAAAAAAA-BBBB-4CCC-8DDD-000000000003
size=120MiB, type=linux
size=8MiB, type=swap
"""
MBR = """label: dos
label-id: 0xCAFE0123
size=16MiB, type=83, bootable
size=16MiB, type=82
"""
ROOT_UUID = "0b0b0b0b-0001-4001-8001-000000000001"
XFS_UUID = "0b0b0b0b-0002-4002-8002-000000000002"
BTRFS_UUID = str(uuid.uuid4())  # mkfs.btrfs refuses one that another run of the tests has attached
SWAP_UUID = "0b0b0b0b-0004-4004-8004-000000000004"


def make_filesystems(disk: LoopDisk) -> None:
    run(["mkfs.ext4", "-q", "-U", ROOT_UUID, "-L", "a root", "-O", "metadata_csum_seed", disk.part(2)])
    run(["mkfs.xfs", "-q", "-m", f"uuid={XFS_UUID}", "-L", "data", disk.part(3)])
    run(["mkfs.btrfs", "-q", "-U", BTRFS_UUID, disk.part(4)])
    run(["mkswap", "-q", "-U", SWAP_UUID, disk.part(5)])


@pytest.mark.root
def test_a_gpt_disk_with_four_kinds(tmp_path: Path) -> None:
    with loop_disk(tmp_path / "disk", 540 * MIB, GPT) as loop:
        make_filesystems(loop)
        disk = read_disk(loop.name)
        assert (disk.size_bytes, disk.logical_sector_bytes, disk.table) == (540 * MIB, 512, TableKind.GPT)
        assert disk.table_id == "11111111-2222-4333-8444-0123456789ab"
        assert [part.number for part in disk.partitions] == [1, 2, 3, 4, 5]
        root = disk.partitions[1]
        assert (root.start_bytes, root.size_bytes) == (2 * MIB, 64 * MIB)
        assert root.part_uuid == "aaaaaaaa-bbbb-4ccc-8ddd-000000000002"
        assert root.type == "0fc63daf-8483-4772-8e79-3d69d8477de4"
        assert (root.part_label, root.flags) == ("the root", ("RequiredPartition", "GUID:60"))
        assert disk.partitions[0].holds is None
        ext, xfs, btrfs, swap = (part.holds for part in disk.partitions[1:])
        assert ext and xfs and btrfs and swap
        assert (ext.kind, ext.uuid, ext.label, ext.size_bytes) == ("ext4", ROOT_UUID, "a root", 64 * MIB)
        assert {"metadata_csum_seed", "extent", "has_journal"} <= set(ext.features)
        assert 0 < ext.used_bytes < 16 * MIB and ext.inodes > 1000 and ext.block_bytes in (1024, 4096)
        assert (xfs.kind, xfs.uuid, xfs.label, xfs.block_bytes) == ("xfs", XFS_UUID, "data", 4096)
        assert {"crc=1", "ftype=1"} <= set(xfs.features) and 0 < xfs.used_bytes < 100 * MIB
        assert (btrfs.kind, btrfs.uuid, btrfs.size_bytes) == ("btrfs", BTRFS_UUID, 120 * MIB)
        assert "extended_iref" in btrfs.features and 0 < btrfs.used_bytes < 16 * MIB
        assert (swap.kind, swap.uuid) == ("swap", SWAP_UUID)
        assert disk.in_use == ()


@pytest.mark.root
def test_mounts_and_swap_are_uses(tmp_path: Path) -> None:
    with loop_disk(tmp_path / "disk", 540 * MIB, GPT) as loop:
        make_filesystems(loop)
        with mounted(loop.part(2), tmp_path / "a b") as one, mounted(loop.part(4), tmp_path / "btrfs") as other:
            (one / "file").write_bytes(b"x" * 5 * MIB)
            run(["sync", "-f", one])
            disk = read_disk(loop.name)
            assert disk.in_use == (f"mounted on {one}", f"mounted on {other}")
            ext = disk.partitions[1].holds
            assert ext and ext.mountpoint == str(one) and ext.used_bytes > 5 * MIB
            assert "needs_recovery" not in ext.features
            assert unclean(loop.part(2), "ext4")  # its journal is open now


@pytest.mark.root
@pytest.mark.parametrize(("number", "kind"), [(2, "ext4"), (3, "xfs"), (4, "btrfs")])
def test_journals_with_open_changes(tmp_path: Path, number: int, kind: str) -> None:
    with loop_disk(tmp_path / "disk", 540 * MIB, GPT) as loop:
        make_filesystems(loop)
        with mounted(loop.part(number), tmp_path / "mnt") as where:
            with (where / "file").open("wb") as file:
                file.write(b"x" * 100_000)
                file.flush()
                os.fsync(file.fileno())
            assert unclean(loop.part(number), kind)
        assert unclean(loop.part(number), kind) == ""


@pytest.mark.root
def test_an_mbr_disk_with_large_sectors(tmp_path: Path) -> None:
    with loop_disk(tmp_path / "disk", 40 * MIB, MBR, sector=4096) as loop:
        disk = read_disk(loop.name)
        assert (disk.table, disk.table_id, disk.logical_sector_bytes) == (TableKind.MBR, "0xcafe0123", 4096)
        one, two = disk.partitions
        assert (one.type, one.part_uuid, one.flags) == ("0x83", "cafe0123-01", ("boot",))
        assert (two.type, two.part_uuid, two.size_bytes, two.flags) == ("0x82", "cafe0123-02", 16 * MIB, ())


@pytest.mark.root
def test_whole_disk_and_blank_disk(tmp_path: Path) -> None:
    with loop_disk(tmp_path / "disk", 16 * MIB) as loop:
        blank = read_disk(loop.name)
        assert (blank.table, blank.holds, blank.partitions) == (TableKind.NONE, None, ())
        run(["mkfs.ext4", "-q", loop.node])
        holds = read_disk(loop.name).holds
        assert holds and holds.kind == "ext4"


def plant_system(root: Path) -> None:
    (root / "etc").mkdir()
    (root / "srv").mkdir()
    (root / "etc/os-release").write_text("ID=debian\nVERSION_ID=12\n")
    (root / "etc/hostname").write_text("web1\n")
    (root / "etc/fstab").write_text(
        f"UUID={ROOT_UUID} / ext4 errors=remount-ro 0 1\n"
        f"UUID={XFS_UUID} /srv xfs noatime 0 2\n"
        f"UUID={SWAP_UUID} none swap sw,pri=5 0 0\n"
        "/dev/sdz9 /elsewhere ext4 defaults 0 2\nproc /proc proc defaults 0 0\n"
    )


@pytest.mark.root
def test_a_system_on_a_disk_that_does_not_run(tmp_path: Path) -> None:
    with loop_disk(tmp_path / "disk", 540 * MIB, GPT) as loop:
        make_filesystems(loop)
        with mounted(loop.part(2), tmp_path / "make") as root:
            plant_system(root)
        with mounted(loop.part(3), tmp_path / "make") as srv:
            (srv / "page").write_text("hello")
        before = run(["sha256sum", tmp_path / "disk"]).stdout
        with offline_source(loop.name, "web1", tmp_path / "mnt") as source:
            assert [(v.id, v.filesystem.mountpoint, v.partition) for v in source.volumes] == [
                ("root", "/", 2),
                ("srv", "/srv", 3),
                ("part-4", "", 4),  # named by no fstab, so by its blocks
            ]
            assert (source.volumes[1].path / "page").read_text() == "hello"
            assert source.hostname == "web1" and source.profile.os.id == "debian"
            (disk,) = source.disks
            assert (disk.name, disk.role, disk.in_use) == (loop.name, "boot", ())
            held = {part.number: part.holds for part in disk.partitions}
            assert held[2] and (held[2].mountpoint, held[2].options) == ("/", "errors=remount-ro")
            assert held[3] and (held[3].mountpoint, held[3].options) == ("/srv", "noatime")
            assert held[5] and held[5].options == "sw,pri=5"
            with pytest.raises(OSError, match="Read-only"):
                (source.volumes[0].path / "x").write_text("")
        choice = Choice(frozenset({f"{loop.name}p4"}), frozenset({f"{loop.name}p3"}))
        with offline_source(loop.name, "web1", tmp_path / "mnt", choice) as source:
            assert [(v.id, v.whole) for v in source.volumes] == [("root", False), ("part-3", True)]
            assert [each.path for each in source.left_out] == [str(loop.part(4))]
        assert read_mounts_below(tmp_path) == []
        assert run(["sha256sum", tmp_path / "disk"]).stdout == before


DATA = """label: gpt
size=320MiB, type=linux, uuid=AAAAAAAA-BBBB-4CCC-8DDD-000000000013
size=8MiB, type=linux
"""


@pytest.mark.root
def test_a_system_on_two_disks_that_does_not_run(tmp_path: Path) -> None:
    """What fstab mounts of the second comes as files, with its options; what both have by the same number, too."""
    with loop_disk(tmp_path / "one", 540 * MIB, GPT) as one, loop_disk(tmp_path / "two", 340 * MIB, DATA) as two:
        run(["mkfs.ext4", "-q", "-U", ROOT_UUID, one.part(2)])
        run(["mkfs.xfs", "-q", "-m", f"uuid={XFS_UUID}", two.part(1)])
        with mounted(one.part(2), tmp_path / "make") as root:
            plant_system(root)
        with mounted(two.part(1), tmp_path / "make") as srv:
            (srv / "page").write_text("hello")
        with offline_source(one.name, "web1", tmp_path / "mnt", also=(two.name,)) as source:
            assert [(v.id, v.disk, v.partition) for v in source.volumes] == [
                ("root", one.name, 2), ("srv", two.name, 1), ("part-3", one.name, 3), ("part-4", one.name, 4),
                ("part-5", one.name, 5), ("part-2", two.name, 2),
            ]  # fmt: skip
            assert (source.volumes[1].path / "page").read_text() == "hello"
            assert [(disk.name, disk.role) for disk in source.disks] == [(one.name, "boot"), (two.name, "")]
            held = source.disks[1].partitions[0].holds
            assert held and (held.mountpoint, held.options) == ("/srv", "noatime")
        with offline_source(one.name, "web1", tmp_path / "mnt") as source:
            assert [disk.name for disk in source.disks] == [one.name]
        with (
            pytest.raises(RefusedError, match="expected one, for an image of several disks"),
            offline_source(two.name, "web1", tmp_path / "mnt", also=(two.name,)),
        ):
            pass
        assert read_mounts_below(tmp_path) == []


@pytest.mark.root
def test_an_open_journal_is_refused_and_nothing_stays_mounted(tmp_path: Path) -> None:
    with loop_disk(tmp_path / "disk", 540 * MIB, GPT) as loop:
        make_filesystems(loop)
        with mounted(loop.part(2), tmp_path / "make") as root:
            plant_system(root)
        run(["debugfs", "-w", "-R", "feature needs_recovery", loop.part(2)])
        with (
            pytest.raises(RefusedError, match="not unmounted cleanly"),
            offline_source(loop.name, "web1", tmp_path / "mnt"),
        ):
            pass
        assert read_mounts_below(tmp_path) == []


@pytest.mark.root
def test_a_disk_without_a_system_is_taken_by_its_blocks(tmp_path: Path) -> None:
    with loop_disk(tmp_path / "disk", 540 * MIB, GPT) as loop:
        make_filesystems(loop)
        with offline_source(loop.name, "web1", tmp_path / "mnt") as source:
            assert [(v.kind, v.partition) for v in source.volumes] == [("blocks", number) for number in (1, 2, 3, 4)]
            assert read_mounts_below(tmp_path) == []
        run(["debugfs", "-w", "-R", "feature needs_recovery", loop.part(2)])
        whole = Choice(whole=frozenset({f"{loop.name}p2"}))
        with offline_source(loop.name, "web1", tmp_path / "mnt", whole) as source:
            assert [volume.partition for volume in source.volumes if volume.whole] == [2], "it is not looked into"
        assert read_mounts_below(tmp_path) == []


def read_mounts_below(folder: Path) -> list[str]:
    return [mount.mountpoint for mount in read_mounts() if mount.mountpoint.startswith(str(folder))]


# --- sysfs of real hardware -----------------------------------------------------------------------------------------


@pytest.mark.adapts("D4", "T1")
def test_an_nvme_disk(tmp_path: Path) -> None:
    machine = MachineTree(tmp_path)
    machine.device("pci0000:00/0000:00:03.0", modalias="pci:v00001B36d00000010", driver="nvme", module="nvme")
    machine.device("pci0000:00/0000:00:03.0/nvme/nvme0", serial="S4X  ", model="Samsung SSD 980 PRO 1TB")
    machine.block("pci0000:00/0000:00:03.0/nvme/nvme0/nvme0n1", device="..", wwid="eui.002538b411b2cee8")
    disk = tmp_path / "sys/class/block/nvme0n1"
    assert transport(disk) == "nvme"
    assert (model(disk), serial(disk), wwn(disk)) == ("Samsung SSD 980 PRO 1TB", "S4X", "eui.002538b411b2cee8")
    assert chain_of(disk, tmp_path) == (ChainLink("pci:v00001B36d00000010", "nvme"),)


@pytest.mark.adapts("D4", "T1")
def test_an_nvme_disk_that_several_controllers_reach(tmp_path: Path) -> None:
    """Its place in sysfs is below no bus; the first controller that works says what it needs."""
    machine = MachineTree(tmp_path)
    for number, state in enumerate(("dead", "live")):
        bus = f"pci0000:00/0000:0{number}:00.0"
        machine.device(bus, modalias=f"pci:v{number}", driver="nvme", module="nvme" if number == 0 else "")
        machine.device(f"{bus}/nvme/nvme{number}", state=f"{state}\n")
        machine.link(f"sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme{number}",
                     str(tmp_path / f"sys/devices/{bus}/nvme/nvme{number}"))  # fmt: skip
    machine.block("virtual/nvme-subsystem/nvme-subsys0/nvme0n1")
    assert chain_of(tmp_path / "sys/class/block/nvme0n1", tmp_path) == (ChainLink("pci:v1", "nvme"),)


def test_a_sata_disk_behind_ahci(tmp_path: Path) -> None:
    machine = MachineTree(tmp_path)
    machine.device("pci0000:00/0000:00:1f.2", modalias="pci:v00008086d00002922", driver="ahci", module="ahci")
    scsi = "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0"
    machine.device(scsi, modalias="scsi:t-0x00", driver="sd", vendor="ATA     ", model="WDC WD10EZEX-08W",
                   vpd_pg80=b"\0\x80\0\x14     WD-WCC6Y1234567", wwid="naa.50014ee2b7d3a1c5")  # fmt: skip
    machine.block(f"{scsi}/block/sda", device="../..")
    disk = tmp_path / "sys/class/block/sda"
    assert (transport(disk), model(disk)) == ("ata", "WDC WD10EZEX-08W")
    assert (serial(disk), wwn(disk)) == ("WD-WCC6Y1234567", "0x50014ee2b7d3a1c5")
    assert chain_of(disk, tmp_path) == (
        ChainLink("pci:v00008086d00002922", "ahci"),
        ChainLink("scsi:t-0x00", "sd_mod"),
    )


@pytest.mark.adapts("D4", "T1")
def test_a_virtio_disk_and_its_child(tmp_path: Path) -> None:
    machine = MachineTree(tmp_path)
    machine.device("pci0000:00/0000:00:04.0", modalias="pci:v00001AF4d00001001", driver="virtio-pci")
    machine.device("pci0000:00/0000:00:04.0/virtio1", modalias="virtio:d00000002v00001AF4", driver="virtio_blk",
                   vendor="0x1af4", subsystem="bus/virtio")  # fmt: skip
    machine.block("pci0000:00/0000:00:04.0/virtio1/block/vda", device="../..", serial="SOURCE-1")
    disk = tmp_path / "sys/class/block/vda"
    assert (transport(disk), model(disk), serial(disk), wwn(disk)) == ("virtio", "", "SOURCE-1", "")
    assert [link.driver for link in chain_of(disk, tmp_path)] == ["virtio_pci", "virtio_blk"]


def test_a_usb_stick_has_the_serial_of_its_usb_device(tmp_path: Path) -> None:
    machine = MachineTree(tmp_path)
    machine.device("pci0000:00/0000:00:14.0/usb1/1-2", idVendor="0781", serial="4C530001")
    scsi = "pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/host6/target6:0:0/6:0:0:0"
    machine.device(scsi, vendor="SanDisk", model="Ultra", vpd_pg80=b"\0\x80\0\x04XXXX")
    machine.block(f"{scsi}/block/sdb", device="../..")
    disk = tmp_path / "sys/class/block/sdb"
    assert (transport(disk), model(disk), serial(disk)) == ("usb", "SanDisk Ultra", "4C530001")


def test_a_stack_lies_on_its_disks(tmp_path: Path) -> None:
    machine = MachineTree(tmp_path)
    machine.block("pci0000:00/0000:00:04.0/virtio1/block/vda")
    machine.block("pci0000:00/0000:00:04.0/virtio1/block/vda/vda3", partition="3")
    machine.block("virtual/block/dm-0", **{"dm/name": "vg0-root", "dm/uuid": "LVM-abc"})
    machine.text("sys/devices/virtual/block/dm-0/slaves/vda3/x", "")
    assert disks_below(tmp_path, "dm-0") == {"vda"}
    assert disks_below(tmp_path, "vda3") == disks_below(tmp_path, "vda") == {"vda"}
    assert disks_below(tmp_path, "") == frozenset()
    assert holder_text(tmp_path, "dm-0") == "LVM vg0-root"


# --- texts ----------------------------------------------------------------------------------------------------------


def test_mountinfo_with_blanks_covered_mounts_and_bind_mounts(tmp_path: Path) -> None:
    machine = MachineTree(tmp_path)
    machine.block("pci0000:00/virtio1/block/vda", number="254:0")
    machine.block("pci0000:00/virtio1/block/vda/vda1", number="254:1", partition="1")
    machine.text("proc/self/mountinfo", (
        "1 0 254:1 / / rw - ext4 /dev/root rw\n"
        "2 1 0:20 / /proc rw - proc proc rw\n"
        "3 1 254:1 /srv /mnt/a\\040b rw shared:1 - ext4 /dev/root rw\n"
        "4 1 0:21 / /over rw - tmpfs tmpfs rw\n"
        "5 1 254:0 / /over rw - xfs /dev/vda rw\n"
    ))  # fmt: skip
    found = {mount.mountpoint: (mount.device, mount.root, mount.kind) for mount in read_mounts(tmp_path)}
    assert found == {
        "/": ("vda1", "/", "ext4"),
        "/proc": ("", "/", "proc"),
        "/mnt/a b": ("vda1", "/srv", "ext4"),
        "/over": ("vda", "/", "xfs"),
    }


def test_swaps(tmp_path: Path) -> None:
    MachineTree(tmp_path).text("proc/swaps", "Filename Type Size Used Priority\n/dev/vda3 partition 1 0 -2\n")
    assert read_swaps(tmp_path) == {"vda3"}


def test_escapes_of_the_kernel_fstab_and_blkid() -> None:
    assert unescaped("/a\\040b\\134c") == "/a b\\c"
    assert plain("a\\x20b\\x5cc") == "a b\\c"
    (entry,) = fstab_entries("# comment\nUUID=1 /a\\040b ext4\n")
    assert (entry.device, entry.mountpoint, entry.options) == ("UUID=1", "/a b", "defaults")


def test_a_directory_is_one_volume(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hostname").write_text("box\n")
    source = directory_source(tmp_path, "box")
    (volume,) = source.volumes
    assert (volume.id, volume.disk, volume.partition, volume.path) == ("root", "", 0, tmp_path)
    assert volume.filesystem.mountpoint == "/" and source.hostname == "box" and source.disks == ()
