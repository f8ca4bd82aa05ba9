"""diff, plan and restore: everything is decided and said, and nothing is written before consent."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from lxml import etree

from agent.model.profile import Status
from agent.model.profile_xml import dump_profile, load_profile
from agent.probe.disks import NO_DISK
from agent.restore.preflight import MEMORY_FLOOR_BYTES
from tests.commands.machine import CONTROLLER, DISK, MAC, SERIAL, isolated
from tests.commands.program import FROM_SOURCE, Regraft
from tests.commands.system import MACHINES, publish_machine
from tests.restore.loop_disk import loop_disk

OTHER = MACHINES / "qemu-q35-ovmf-nvme-e1000e.xml"
SAME = MACHINES / "qemu-i440fx-virtio-bios-debian.xml"
SIZE_BYTES = 4 << 30


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A depot with the image ``web1`` of a whole machine, which nothing here changes."""
    folder = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGRAFT_HOME", str(folder / "home"))
        Regraft(FROM_SOURCE, folder / "home")("depot", "init", folder / "depot")
        publish_machine(folder / "depot", folder)
    yield folder / "depot"
    shutil.rmtree(folder)


@pytest.mark.adapts("B4", "B12", "N1", "T1")
def test_what_is_left_of_a_dead_machine_is_enough(regraft: Regraft, depot: Path, tmp_path: Path) -> None:
    """Its files and nothing else. What cannot be known is said, and a plan is made all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGRAFT_HOME", str(regraft.home))
        publish_machine(depot, tmp_path)
    (modules,) = (tmp_path / "root/lib/modules").iterdir()
    with (modules / "modules.alias").open("a") as aliases, (modules / "modules.dep").open("a") as dependencies:
        for alias, module in (("pci:v00001AF4d*", "pci"), ("virtio:d00000001v*", "net"), ("virtio:d00000002v*", "blk")):
            aliases.write(f"alias {alias} virtio_{module}\n")
            dependencies.write(f"kernel/x/virtio_{module}.ko:\n")
    for tool in ("usr/sbin/update-initramfs", "etc/initramfs-tools/modules"):
        (tmp_path / "root" / tool).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / tool).write_text("")
    with tarfile.open(tmp_path / "dead.tar", "w") as archive:
        archive.add(tmp_path / "root", ".")
    at = ("--depot", depot)
    regraft("import", tmp_path / "dead.tar", "--name", "dead", *at)
    (path,) = (depot / "machines/dead/profiles").glob("*.xml")
    profile = load_profile(path.read_bytes())
    assert {name: profile.status(name) for name in ("platform", "devices", "storage")} == dict.fromkeys(
        ("platform", "devices", "storage"), Status.UNAVAILABLE
    )
    assert profile.status("network") is Status.PARTIAL and not profile.devices
    # Like the old one: everything fits.
    same = ("--target", alone(SAME, tmp_path), "--disk", "name=vda")
    told = regraft("plan", "dead", *same, *at).stdout
    assert "interface ens3 moves to card" in told and "install boot loader for BIOS" in told
    assert "what the image's machine started by is not known" in told
    # Unlike it: stopped by the drivers that its kernel lacks, and by nothing else.
    refusal = regraft("plan", "dead", "--target", OTHER, "--disk", "serial=TARGET-0001", *at, code=12).stderr
    assert "2 differences stand in the way" in refusal and "has no nvme" in refusal and "has no e1000e" in refusal


def alone(machine: Path, folder: Path) -> Path:
    """The profile of a machine that runs from nothing, so that its disk may be written."""
    profile = load_profile(machine.read_bytes())
    disks = tuple(replace(disk, in_use=(), boot_medium=False) for disk in profile.disks)
    (folder / "alone.xml").write_bytes(dump_profile(replace(profile, disks=disks)))
    return folder / "alone.xml"


# --- a target that is far away ------------------------------------------------------------------------------------


def test_differences_are_told_in_every_form(regraft: Regraft, published: Path) -> None:
    words = ("diff", "web1", OTHER, "--disk", "serial=TARGET-0001", "--depot", published)
    items = regraft.json(*words)["items"]
    assert {"firmware", "loader", "device", "nic", "disk", "mount"} <= {item["kind"] for item in items}
    document = etree.fromstring(regraft(*words, "--xml").stdout.encode())
    assert [each.get("id") for each in document.iter("{*}item")] == [item["id"] for item in items]
    table = regraft(*words).stdout
    assert all(f" {item['id']} " in table for item in items) and "BLOCKED" in table


@pytest.mark.adapts("D1", "T5")
def test_a_plan_that_would_not_boot_is_shown_and_refused(regraft: Regraft, published: Path) -> None:
    words = ("plan", "web1", "--target", OTHER, "--disk", "serial=TARGET-0001", "--depot", published)
    done = regraft(*words, code=12)
    assert "ERASE nvme0n1: QEMU NVMe Ctrl serial TARGET-0001, 6,442,450,944 bytes" in done.stdout
    assert "KEEP-0001" in done.stdout  # the other disk stays as it is
    assert "nvme" in done.stderr and "regraft component add" in done.stderr
    told = regraft.json(*words, code=12)  # the plan and its error are one document
    assert told["error"]["code"] == "refused" and told["result"]["plan"]["disk"]["serial"] == "TARGET-0001"


@pytest.mark.parametrize(
    ("target", "selector", "said"),
    [
        (OTHER, "only-eligible", ("2 disks match", "TARGET-0001 6.0 GiB nvme: matches", "KEEP-0001")),
        (OTHER, "serial=NO-SUCH", ("no disk matches", "nvme0n1", "is not serial=NO-SUCH", "KEEP-0001")),
        (OTHER, "name=vda", ("no disk matches",)),
        (SAME, "serial=SOURCE-0001", ("SOURCE-0001", "is what this system runs from")),
    ],
)
@pytest.mark.adapts("B0", "T1")
def test_exactly_one_disk_must_be_left(
    regraft: Regraft, published: Path, target: Path, selector: str, said: tuple[str, ...]
) -> None:
    words = ("plan", "web1", "--target", target, "--disk", selector, "--depot", published)
    message = regraft.refused(*words, code=11, name="disk-selection")
    assert selector in message and all(part in message for part in (*said, "expected exactly one"))


def test_a_disk_that_is_too_small_is_told_with_sizes(regraft: Regraft, published: Path, tmp_path: Path) -> None:
    small = OTHER.read_text().replace('size-bytes="2147483648"', 'size-bytes="67108864"')
    (tmp_path / "target.xml").write_text(small)
    words = ("plan", "web1", "--target", tmp_path / "target.xml", "--disk", "serial=KEEP-0001", "--depot", published)
    message = regraft.refused(*words, code=13, name="does-not-fit")
    assert "sda" in message and "64.0 MiB" in message


def test_a_selector_that_is_none_and_a_target_that_is_none(regraft: Regraft, published: Path, tmp_path: Path) -> None:
    words = ("plan", "web1", "--target", OTHER, "--disk", "biggest", "--depot", published)
    assert "‘biggest’" in regraft.refused(*words, code=2, name="usage")
    (tmp_path / "target.xml").write_bytes(SAME.read_bytes()[:-200])
    regraft.refused("diff", "web1", tmp_path / "target.xml", "--depot", published, code=22, name="damaged")


# --- this machine -------------------------------------------------------------------------------------------------


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Path]:
    """A loop device with something on it; at the end that is still all there is."""
    with loop_disk(tmp_path, SIZE_BYTES) as disk:
        node = Path("/dev") / disk.name
        with node.open("r+b") as file:
            file.write(b"somebody's data" * 1000)
        before = digest_of(tmp_path / "disk-512.img")
        yield node
        assert digest_of(tmp_path / "disk-512.img") == before


def digest_of(path: Path) -> str:
    """Of the first and the last 64 MiB: what a table, a file system or an erased signature would change."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        for start in (0, SIZE_BYTES - (64 << 20)):
            file.seek(start)
            found.update(file.read(64 << 20))
    found.update(str(path.stat().st_blocks).encode())
    return found.hexdigest()


@pytest.mark.root
@pytest.mark.parametrize("erase", [(), ("--erase", SERIAL)])
@pytest.mark.adapts("B0", "T1")
def test_this_machines_own_disks_are_never_taken(
    regraft: Regraft, published: Path, loop: Path, erase: tuple[str, ...]
) -> None:
    words = ("restore", "web1", "--disk", f"name={loop.name}", *erase)
    told = regraft(*words, "--depot", published, code=11).stderr
    assert "nothing was written" in told and "no disk matches" in told
    disks = [path.name for path in Path("/sys/block").iterdir() if not NO_DISK.fullmatch(path.name)]
    listed = [line.split()[0] for line in told.splitlines() if f"is not name={loop.name}" in line]
    assert listed == sorted(disks) or "has no disks" in told


@pytest.fixture
def machine(regraft: Regraft, loop: Path, tmp_path: Path) -> Regraft:
    """The program on a machine whose only disk is the loop device."""
    return Regraft(regraft.program, regraft.home, isolated(tmp_path, loop))


@pytest.mark.root
def test_a_machine_is_described(machine: Regraft) -> None:
    profile = load_profile(machine("profile", "--name", "here").stdout.encode())
    (disk,) = profile.disks
    assert (disk.name, disk.serial, disk.size_bytes, disk.transport) == (DISK, SERIAL, SIZE_BYTES, "ata")
    assert [link.modalias for link in disk.chain] == [CONTROLLER, "scsi:t-0x00"]
    assert [nic.mac for nic in profile.network.nics] == [MAC]
    assert profile.platform.memory_bytes > MEMORY_FLOOR_BYTES and profile.machine == "here"


@pytest.mark.root
def test_without_consent_the_plan_is_shown_and_nothing_is_written(
    machine: Regraft, published: Path, tmp_path: Path
) -> None:
    words = ("--disk", "only-eligible", "--depot", published)
    told = machine("restore", "web1", *words).stdout
    assert f"ERASE {DISK}: TEST DISK serial {SERIAL}, {SIZE_BYTES:,} bytes" in told
    assert told.rstrip().endswith(f"Nothing was written. To ERASE this disk: --erase {SERIAL}")
    here = machine.json("restore", "web1", *words)["plan"]
    # The same decisions away from here, from this machine's profile.
    machine("profile", "--name", "target", "-o", tmp_path / "target.xml")
    away = machine.json("plan", "web1", "--target", tmp_path / "target.xml", *words)["plan"]
    assert away["disk"] == here["disk"] and away["disk"]["serial"] == SERIAL
    assert away["steps"] == here["steps"] and len(here["steps"]) > 10


@pytest.mark.root
@pytest.mark.parametrize("wrong", [f"{SERIAL} ", SERIAL.lower(), DISK, f"/dev/{DISK}", ""])
@pytest.mark.adapts("B0", "T1")
def test_consent_to_another_disk_is_refused(machine: Regraft, published: Path, wrong: str) -> None:
    words = ("restore", "web1", "--disk", f"serial={SERIAL}", "--erase", wrong, "--depot", published)
    done = machine(*words, code=12)
    assert f"‘{wrong}’" in done.stderr and f"‘{SERIAL}’" in done.stderr and "nothing was written" in done.stderr
