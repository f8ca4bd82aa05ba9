"""A disk of Windows, captured and restored as a whole: every used block, every identity, and what grows."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.console.recorder import Recorder
from agent.depot.catalogue import LoadedImage, find_image
from agent.depot.local import LocalDepot
from agent.depot.signing import trusted_keys
from agent.errors import DoesNotFitError, ReadBackError, RefusedError
from agent.image.capture import capture_image
from agent.model.image import ImageRef
from agent.model.plan import FitFilesystem, Plan, VerifyBlocks, WriteBlocks, WriteBootCode
from agent.model.profile import Firmware, Platform, Profile
from agent.probe.blocks import Choice
from agent.probe.disks import read_disk
from agent.probe.restored import node_of_volume
from agent.probe.source import offline_source
from agent.process import run
from agent.restore.prepare import RestoreRequest, prepare
from agent.restore.run import Execution
from tests.image.source_tree import no_events
from tests.probe.loop import LoopDisk, loop_disk, mounted
from tests.restore.windows_disk import (
    BOOT_CODE,
    DISK_GUID,
    GPT,
    MIB,
    SIGNATURE,
    blob,
    ntfs,
    read_range,
    windows_gpt,
    windows_mbr,
)

pytestmark = pytest.mark.root
QUIET = Recorder([])


@pytest.fixture
def depot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalDepot:
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "home"))
    return LocalDepot.init(tmp_path / "depot")


def capture(depot: LocalDepot, disk: LoopDisk, tmp_path: Path, choice: Choice | None = None) -> LoadedImage:
    with offline_source(disk.name, "win", tmp_path / "source", choice or Choice()) as source:
        result = capture_image(source, depot, no_events, jobs=2)
    assert not result.warnings
    return find_image(depot, trusted_keys(depot, ()), result.ref)


@contextmanager
def target_disk(tmp_path: Path, size_bytes: int) -> Iterator[LoopDisk]:
    """A disk full of old data, and an old EFI system partition where the new one comes."""
    with loop_disk(tmp_path / "target.img", size_bytes) as disk:
        with disk.node.open("r+b", buffering=0) as device:
            for _ in range(size_bytes // MIB):
                device.write(b"\xaa" * MIB)
        yield disk


def planned(depot: LocalDepot, disk: LoopDisk, firmware: Firmware = Firmware.UEFI) -> Plan:
    machine = Profile("t", "2026-01-01T00:00:00Z", platform=Platform(firmware=firmware))
    machine = replace(machine, disks=(read_disk(disk.name),))
    request = RestoreRequest(image=ImageRef("win"), target=machine, selector=f"name={disk.name}")
    return prepare(depot, trusted_keys(depot, ()), request).plan


def restore(depot: LocalDepot, loaded: LoadedImage, plan: Plan, tmp_path: Path) -> Execution:
    execution = Execution(plan, loaded, depot, QUIET, tmp_path / "root")
    execution.run()
    return execution


def table(disk: LoopDisk) -> dict[str, Any]:
    found = msgspec.json.decode(run(["sfdisk", "--json", disk.node]).stdout)["partitiontable"]
    for part in found["partitions"]:
        part["node"] = part["node"].removeprefix(str(disk.node))
    return {"id": found["id"], "label": found["label"], "partitions": found["partitions"]}


def used(node: Path, program: str, folder: Path) -> list[tuple[int, int]]:
    told = folder / "map"
    run([f"partclone.{program}", "-D", "-q", "-s", node, "-O", told, "-L", folder / "log"])
    rows = [line.split() for line in told.read_text().splitlines() if not line.startswith("#")]
    return [(int(row[0], 16), int(row[1], 16)) for row in rows[1:] if row[2] == "+"]


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def assert_same_blocks(source: Path, target: Path, program: str, folder: Path) -> None:
    run(["blockdev", "--flushbufs", target])
    found = used(source, program, folder)
    assert sum(size for _, size in found) > MIB
    for at, size in found:
        assert read_range(source, at, size) == read_range(target, at, size), f"{target} at {at:,}"


def test_a_disk_of_the_same_size_is_the_same_in_every_used_block(depot: LocalDepot, tmp_path: Path) -> None:
    with windows_gpt(tmp_path) as source, target_disk(tmp_path, 128 * MIB) as target:
        before = digest_of(tmp_path / "windows.img")
        loaded = capture(depot, source, tmp_path)
        assert digest_of(tmp_path / "windows.img") == before, "a capture writes nothing to its source"
        plan = planned(depot, target)
        assert not [step for step in plan.steps if isinstance(step, FitFilesystem)]
        done = restore(depot, loaded, plan, tmp_path).done
        assert done.mismatches == 0 and done.bytes_read_back > 30 * MIB
        assert table(target) == table(source)
        assert table(target)["id"].lower() == DISK_GUID
        assert [part.get("attrs", "") for part in table(target)["partitions"]] == [
            "GUID:63", "", "", "RequiredPartition GUID:63",
        ]  # fmt: skip
        for number, program in ((1, "fat"), (3, "ntfs"), (4, "ntfs")):
            assert_same_blocks(source.part(number), target.part(number), program, tmp_path)
        assert not any(read_range(target.part(2), 0, 16 * MIB)), "the reserved partition was zero, and is"
        free = 48 * MIB
        assert b"\xaa" * 4096 in read_range(target.part(3), free, 8 * MIB), "free clusters are not written"
        for volume in loaded.manifest.blocks:
            assert node_of_volume([read_disk(target.name)], loaded.manifest, volume) == target.part(volume.partition)
        refused = pytest.raises(DoesNotFitError, match="67,108,864 bytes of it: a volume of blocks cannot shrink")
        with loop_disk(tmp_path / "small.img", 100 * MIB) as small, refused:
            planned(depot, small)


def test_on_a_larger_disk_windows_grows_and_recovery_moves(depot: LocalDepot, tmp_path: Path) -> None:
    with windows_gpt(tmp_path) as source, target_disk(tmp_path, 160 * MIB) as target:
        loaded = capture(depot, source, tmp_path)
        plan = planned(depot, target)
        assert any("Windows checks a file system" in warning for warning in plan.warnings)
        restore(depot, loaded, plan, tmp_path)
        old, new = table(source)["partitions"], table(target)["partitions"]
        assert [part["start"] for part in new[:3]] == [part["start"] for part in old[:3]]
        assert new[2]["size"] - old[2]["size"] == new[3]["start"] - old[3]["start"] >= 30 * MIB // 512
        assert new[3]["size"] == old[3]["size"]
        size = int(run(["blockdev", "--getsize64", target.part(3)]).stdout)
        told = run(["ntfsresize", "--info", "--force", target.part(3)]).stdout
        volume = int(told.split("Current volume size: ")[1].split()[0])
        assert size - MIB < volume <= size, told
        content = subprocess.run(["ntfscat", "-f", target.part(3), "/files"], capture_output=True, check=True).stdout
        assert content == (tmp_path / "files").read_bytes()
        # What a boot sector says of the partition's place follows it, and so does its copy at the end.
        moved = new[3]["start"].to_bytes(4, "little")
        assert read_range(target.part(4), 28, 4) == read_range(target.part(4), 20 * MIB - 512 + 28, 4) == moved
        assert read_range(target.part(1), 28, 4) == (2048).to_bytes(4, "little")


def spoil(node: Path) -> None:
    with node.open("r+b") as device:
        device.write(b"spoiled")


def test_an_mbr_keeps_signature_and_boot_code_which_comes_last(
    depot: LocalDepot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with windows_mbr(tmp_path) as source, target_disk(tmp_path, 100 * MIB) as target:
        loaded = capture(depot, source, tmp_path)
        plan = planned(depot, target, Firmware.BIOS)
        assert isinstance(plan.steps[-1], WriteBootCode)
        with monkeypatch.context() as failing:
            failing.setattr("agent.restore.run.drop_page_cache", lambda: spoil(target.part(2)))
            with pytest.raises(ReadBackError, match="volume part-2: 1 entries"):
                restore(depot, loaded, plan, tmp_path)
        assert not any(read_range(target.node, 0, 440)), "what reads back wrong does not boot"
        restore(depot, loaded, plan, tmp_path)
        assert read_range(target.node, 0, 446) == read_range(source.node, 0, 446)
        assert read_range(target.node, 0, 440) == BOOT_CODE
        assert table(target)["id"] == SIGNATURE
        assert table(target) == table(source)
        for number in (1, 2):
            assert_same_blocks(source.part(number), target.part(number), "ntfs", tmp_path)


def test_a_restore_that_was_cut_continues_and_does_not_start_windows_before(
    depot: LocalDepot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with windows_gpt(tmp_path) as source, target_disk(tmp_path, 160 * MIB) as target:
        loaded = capture(depot, source, tmp_path)
        plan = planned(depot, target)
        restore(depot, loaded, plan, tmp_path)
        with monkeypatch.context() as cut:

            def stop(*_: object) -> None:
                raise KeyboardInterrupt

            cut.setattr("agent.restore.run.verify_blocks", stop)
            with pytest.raises(KeyboardInterrupt):
                restore(depot, loaded, plan, tmp_path)
        assert not run(["blkid", "-p", "-o", "value", "-s", "TYPE", target.part(1)], accept=(0, 2)).stdout.strip()
        again = restore(depot, loaded, plan, tmp_path).done
        assert again.bytes_written < 10 * MIB, "most was there and right"
        assert again.mismatches == 0
        assert_same_blocks(source.part(1), target.part(1), "fat", tmp_path)


LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"


def test_beside_a_linux_the_other_partitions_come_along(depot: LocalDepot, tmp_path: Path) -> None:
    script = GPT + f"5 : start=247808, size=81920, type={LINUX}, uuid=11111111-2222-4333-8444-000000000005\n"
    with loop_disk(tmp_path / "dual.img", 170 * MIB, script) as disk:
        run(["mkfs.vfat", disk.part(1)])
        ntfs(disk.part(3), 75776, "Windows", blob(tmp_path, "files", MIB), "files")
        run(["mkfs.ext4", "-q", disk.part(5)])
        with mounted(disk.part(5), tmp_path / "mnt") as root:
            (root / "etc").mkdir()
            (root / "etc/os-release").write_text("ID=debian\n")
            (root / "etc/fstab").write_text("/dev/sda5 / ext4 defaults 0 1\n")
        with pytest.raises(Exception, match="sdz9 is no partition that is captured"):
            capture(depot, disk, tmp_path, Choice(without=frozenset({"sdz9"})))
        choice = Choice(frozenset({f"{disk.name}p4"}), frozenset({f"{disk.name}p3"}))
        manifest = capture(depot, disk, tmp_path, choice).manifest
        assert [(v.id, v.kind, v.filesystem.kind) for v in manifest.volumes] == [
            ("root", "tree", "ext4"), ("part-2", "blocks", ""), ("part-3", "blocks", "ntfs"),
        ]  # fmt: skip
        assert manifest.volumes[2].filesystem.used_bytes == 64 * MIB, "as asked for, the whole of it"
        assert [(each.path, each.reason) for each in manifest.excluded if "/dev/" in each.path] == [
            (f"/dev/{disk.name}p1", "an EFI system partition that the system does not mount: it is made anew"),
            (f"/dev/{disk.name}p4", "left out by the call"),
        ]
        with target_disk(tmp_path, 170 * MIB) as target:
            plan = planned(depot, target)
            kinds = [type(step) for step in plan.steps]
            assert kinds.count(WriteBlocks) == kinds.count(VerifyBlocks) == 2
            loaded = find_image(depot, trusted_keys(depot, ()), manifest.ref)
            assert restore(depot, loaded, plan, tmp_path).done.mismatches == 0
            run(["blockdev", "--flushbufs", target.part(3)])
            assert read_range(target.part(3), 0, 64 * MIB) == read_range(disk.part(3), 0, 64 * MIB)
            with mounted(target.part(5), tmp_path / "mnt") as root:
                assert (root / "etc/os-release").read_text() == "ID=debian\n"


def test_linux_stacks_are_not_taken_for_disks_without_a_system(depot: LocalDepot, tmp_path: Path) -> None:
    with loop_disk(tmp_path / "luks.img", 40 * MIB, "label: gpt\nsize=20480\nsize=20480\n") as disk:
        with disk.part(1).open("r+b", buffering=0) as device:
            device.write(b"LUKS\xba\xbe\x00\x01" + bytes(4088))
        with pytest.raises(RefusedError, match=r"is LUKS .* and its header cannot be read"):
            capture(depot, disk, tmp_path)
