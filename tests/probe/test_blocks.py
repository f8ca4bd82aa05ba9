"""Which partitions are captured by their blocks, beside a running system, beside one that does not run, and alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import RefusedError
from agent.image.capture import SourceVolume
from agent.model.profile import SECTIONS, Address, Network, Nic, Profile, Status
from agent.model.storage import Disk, FileSystem
from agent.probe import source
from agent.probe.blocks import NO_CHOICE, Choice, blocks_of, boot_code
from agent.probe.disks import Surroundings, read_disk
from agent.probe.filesystems import read_filesystem
from agent.process import run
from tests.probe.loop import LoopDisk, loop_disk, mounted

pytestmark = pytest.mark.root
MIB = 1 << 20
BIOS_BOOT, ESP = "21686148-6449-6e6f-744e-656564454649", "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
SCRIPT = f"""\
label: gpt
start=2048, size=2048, type={BIOS_BOOT}
size=20480, type={ESP}
size=40960
size=20480
size=20480
size=20480
"""


def prepared(disk: LoopDisk) -> tuple[Disk, tuple[SourceVolume, ...]]:
    """BIOS boot, ESP, ext4 with the system, swap, LUKS, unknown content."""
    run(["mkfs.vfat", disk.part(2)])
    run(["mkfs.ext4", "-q", disk.part(3)])
    run(["mkswap", disk.part(4)])
    with disk.part(5).open("r+b", buffering=0) as device:
        device.write(b"LUKS\xba\xbe\x00\x01" + bytes(4088))
    root = SourceVolume("root", FileSystem("ext4", mountpoint="/"), Path("/"), disk.name, 3)
    return read_disk(disk.name), (root,)


def test_what_is_taken_and_what_stays_behind(tmp_path: Path) -> None:
    with loop_disk(tmp_path / "disk", 80 * MIB, SCRIPT) as loop:
        disk, trees = prepared(loop)
        for around in (None, Surroundings.of()):
            beside = blocks_of(disk, trees, NO_CHOICE, around)
            assert [volume.id for volume in beside.volumes] == ["part-6"], "the loader's places and swap are made anew"
            esp, luks = beside.left_out
            assert (esp.path, luks.path) == (str(loop.part(2)), str(loop.part(5)))
            assert "made anew" in esp.reason and "LUKS" in luks.reason
        alone = blocks_of(disk, (), Choice(whole=frozenset({f"{loop.name}p2"})))
        assert [(volume.partition, volume.whole) for volume in alone.volumes] == [
            (1, False), (2, True), (3, False), (6, False),
        ]  # fmt: skip


def test_what_runs_beside_must_be_unmounted_or_left_out(tmp_path: Path) -> None:
    with loop_disk(tmp_path / "disk", 80 * MIB, SCRIPT) as loop:
        disk, trees = prepared(loop)
        run(["mkfs.ext4", "-q", loop.part(6)])
        disk = read_disk(disk.name)
        with mounted(loop.part(6), tmp_path / "data"):
            around = Surroundings.of()
            with pytest.raises(RefusedError, match=f"is mounted on {tmp_path}/data") as caught:
                blocks_of(disk, trees, NO_CHOICE, around)
            assert f"--without {loop.name}p6" in caught.value.hint
            left = blocks_of(disk, trees, Choice(without=frozenset({f"{loop.name}p6"})), around)
            assert not left.volumes and len(left.left_out) == 3


def test_a_whole_disk_can_hold_one_thing(tmp_path: Path) -> None:
    with loop_disk(tmp_path / "disk", 20 * MIB) as loop:
        run(["mkfs.ntfs", "--quick", "--force", "--quiet", loop.node])
        disk = read_disk(loop.name)
        (volume,) = blocks_of(disk, (), NO_CHOICE).volumes
        assert (volume.id, volume.partition, volume.path) == ("disk", 0, loop.node)
        assert (volume.filesystem.kind, boot_code(disk)) == ("ntfs", ()), "a boot sector is not a disk's boot code"


def test_a_disk_without_a_system_has_no_addresses_and_no_software(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = Profile(
        "m", "", network=Network((Nic("52:54:00:aa:00:01", "eth0", addresses=(Address("10.0.0.5/24"),)),))
    )
    with loop_disk(tmp_path / "disk", 80 * MIB, "label: gpt\nsize=20480\n") as loop:
        disk = replace(read_disk(loop.name), in_use=())
        found = source.disk_source(disk, looking, NO_CHOICE)
        assert [nic.addresses for nic in found.profile.network.nics] == [()]
        assert {section.name for section in found.profile.sections} == set(SECTIONS)
        assert found.profile.status("software") is Status.UNAVAILABLE
        assert found.disks[0].role == "boot" and [volume.id for volume in found.volumes] == ["part-1"]


@pytest.mark.parametrize(
    ("make", "cluster", "size"),
    [
        (["mkfs.ntfs", "--quick", "--force", "--quiet"], 4096, 20 * MIB - 512),
        (["mkfs.ntfs", "--quick", "--force", "--quiet", "--cluster-size", "131072"], 131072, 20 * MIB - 512),
        (["mkfs.exfat", "-c", "8K"], 8192, 20 * MIB),
    ],
)
def test_cluster_and_size_as_the_boot_sector_tells(tmp_path: Path, make: list[str], cluster: int, size: int) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(20 * MIB)
    run([*make, image])
    known = read_filesystem(image, 20 * MIB)
    assert known is not None and known.uuid
    assert (known.block_bytes, known.size_bytes) == (cluster, size)
