"""The whole way, end to end: what ``make demo`` shows, its negative control, and a capture through the PE."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest

from tests.lab.coming_up import Seen, seen_of
from tests.lab.demo import ISO, Demo, negative_control, target_machine, tell
from tests.lab.machine import Disk, Machine, Nic, Smbios
from tests.lab.proof import Check, prove_running
from tests.lab.serving import serving
from tests.lab.source import cached_source
from tests.lab.story import Restored, RestoreOrder, capture_disk, manifest, restore

pytestmark = [pytest.mark.machine, pytest.mark.frozen, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """Told once; its depot and disks serve the tests that follow."""
    yield tell(tmp_path_factory.mktemp("demo"), negative=False, bench=False)


@pytest.mark.adapts("B1", "B3", "B5", "B12", "B13", "D1", "N1", "T2", "T3", systems=("Debian 12",))
def test_every_proof_of_the_demo_holds(demo: Demo) -> None:
    failed = [f"{check.name}: {check.found}" for check in demo.checks if not check.good]
    assert not failed
    assert len(demo.checks) >= 11


def test_the_report_accounts_for_the_restore(demo: Demo) -> None:
    report = demo.report
    assert report["result"] == "restored-and-verified"
    assert report["mismatches"] == 0
    assert report["peak_memory_bytes"] < 300 << 20
    assert report["bytes_read_back"] > 0
    assert all(item["handled_by"] for item in report["difference"] if item["tier"] == "must")
    assert any(item["kind"].startswith("nic") or "net" in item["kind"] for item in report["difference"])


@pytest.fixture(scope="module")
def beside(demo: Demo) -> Iterator[ThreadPoolExecutor]:
    """What needs the demo's image alone, one after the other, beside what is made of its result: an emulated target has
    one processor."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture(scope="module")
def unadapted(demo: Demo, beside: ThreadPoolExecutor) -> Future[Check]:
    """The negative control, under way."""
    return beside.submit(negative_control, demo, cached_source())


@pytest.fixture(scope="module")
def cloned(demo: Demo, beside: ThreadPoolExecutor, unadapted: Future[Check]) -> Future[Cloned]:
    """The clone, under way after it."""
    return beside.submit(clone, demo)


@dataclass(frozen=True, slots=True)
class Cloned:
    result: Restored
    seen: Seen | None  # of its first boot, None where it was not restored


def clone(demo: Demo) -> Cloned:
    """Onto a third machine, by BIOS behind a RAID controller, beside the one that it is a clone of."""
    out = demo.out / "clone"
    out.mkdir()
    machine = Machine(
        name="clone",
        disks=(Disk("megasas", size_bytes=12 << 30, serial="MEGA0001"),),
        nics=(Nic("rtl8139", "52:54:00:99:00:02"),),
        smbios=Smbios("Third Vendor", "Server 3", "CLN-0001", "7b1f6c1e-8c3a-4b59-9a55-1f2e3d4c5b6a"),
    )
    with serving(demo.out / "depot", out) as served:
        result = restore(RestoreOrder(demo.image, machine, ISO, out, mode="clone"), served)
    return Cloned(result, seen_of(machine, out, cached_source().key, "clone-boot", 420) if result.good else None)


@pytest.fixture(scope="module")
def captured_again(demo: Demo, unadapted: Future[Check]) -> str:
    """The restored disk, which boots by UEFI now, captured on its own machine without running its system."""
    out = demo.out / "again"
    disk = Disk("nvme", path=demo.out / "disk0-nvme.img", serial="NVME0001")
    with serving(out / "depot", out) as served:
        return capture_disk(replace(target_machine(out), disks=(disk,)), "again", ISO, out, served)


def test_a_disk_is_captured_without_running_its_system(demo: Demo, captured_again: str) -> None:
    found = manifest(demo.out / "again/depot", captured_again)
    mounts = {volume["filesystem"]["mountpoint"] for volume in found["volumes"]}
    assert mounts == {"/", "/srv", "/boot/efi"}
    assert not found["unreadable"]


@pytest.mark.long
def test_what_was_restored_is_restored_again_and_boots_by_bios(demo: Demo, captured_again: str) -> None:
    """From UEFI to BIOS, and an adapted system is adapted anew: parallel SCSI, another card, the same machine still."""
    out = demo.out / "back"
    machine = Machine(
        name="back",
        disks=(Disk("lsi53c895a", size_bytes=8 << 30, serial="PARALLEL0001"),),
        nics=(Nic("pcnet", "52:54:00:99:00:03"),),
        smbios=Smbios("Third Vendor", "Old Server", "BCK-0001", "7b1f6c1e-8c3a-4b59-9a55-1f2e3d4c5b6b"),
    )
    with serving(demo.out / "again/depot", out) as served:
        result = restore(RestoreOrder(captured_again, machine, ISO, out), served)
    assert result.good, result.job["message"]
    assert demo.facts is not None
    checks, _ = prove_running(machine, out, cached_source().key, demo.facts, "back")
    assert not [f"{check.name}: {check.found}" for check in checks if not check.good]


@pytest.mark.adapts("B3", "D1", "T5", systems=("Debian 12",))
def test_without_adaptation_it_does_not_come_up(unadapted: Future[Check]) -> None:
    check = unadapted.result()
    assert check.good, check.found


@pytest.mark.long
@pytest.mark.adapts("B1", "B14", "D1", "I1", "T3", systems=("Debian 12",))
def test_a_clone_on_bios_and_a_raid_controller_has_an_identity_of_its_own(demo: Demo, cloned: Future[Cloned]) -> None:
    found = cloned.result()
    assert found.result.good, found.result.job["message"]
    assert found.seen is not None and found.seen.up, found.seen and found.seen.words
    assert demo.facts is not None
    assert {"/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key"} <= set(found.result.report["changed_paths"])
