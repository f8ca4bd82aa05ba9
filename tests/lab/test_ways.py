"""The ways to a restore that the demo does not take: a depot on a USB disk, a plain web server and typed consent, a
machine that nobody knows and that waits. Each in the real PE, each with what a person sees and types there."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.depot.local import LocalDepot
from agent.model.plan import PlannedArray
from agent.restore import raid
from tests.depot.web_server import Plain, serve
from tests.lab.demo import ISO, pe_build
from tests.lab.inventory import differences, read_disk, read_tree
from tests.lab.machine import HOST, Disk, Machine, Nic, Smbios
from tests.lab.medium import configured
from tests.lab.programs import run
from tests.lab.running import RunningMachine
from tests.lab.serving import serving
from tests.lab.small import NAME, publish_small_system
from tests.lab.story import RESULT

pytestmark = [pytest.mark.machine, pytest.mark.timeout(1800)]

SERIAL = "WAYS0001"
PATIENCE_S = 300.0
ARRAYS = tuple(
    PlannedArray(uuid="a3ba06fe:5cfe7bf4:e2581feb:df9a4a6a", node="md77", devices=2, **words)
    for words in (
        {"level": "raid0", "chunk_bytes": 512 << 10, "name": "host:0"},
        {"level": "raid1", "name": "host:1", "offset_bytes": 2 << 20, "bitmap": True},
        {"level": "raid1", "metadata": "1.0"},
        {"level": "raid1", "metadata": "0.90"},
        {"level": "raid10", "chunk_bytes": 64 << 10, "layout": "near=2"},
        {"level": "raid10", "chunk_bytes": 64 << 10, "layout": "far=2", "bitmap": True},
        {"level": "raid10", "chunk_bytes": 64 << 10, "layout": "offset=2"},
    )
)


@pytest.fixture(scope="module", autouse=True)
def iso() -> Path:
    pe_build("iso", "--output", str(ISO))
    return ISO


@pytest.fixture
def depot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "home"))
    place = tmp_path / "stick" / "depot"
    LocalDepot.init(place)
    publish_small_system(place, tmp_path / "source")
    return place


def settings(depot: Path, where: str, **more: object) -> dict[str, object]:
    key = json.loads((depot / "depot.json").read_text())["public_key"]
    return {"depot": where, "trust": [key], "task": "restore", "on_success": "poweroff", "on_failure": "hold", **more}


@contextmanager
def booted(out: Path, values: Mapping[str, object], *more: Disk, firmware: str = "bios") -> Iterator[RunningMachine]:
    """A machine with a blank disk and the PE in its drive."""
    machine = Machine(
        name="ways",
        firmware=firmware,
        disks=(Disk("ahci", size_bytes=1 << 30, serial=SERIAL), *more),
        nics=(Nic("rtl8139", "52:54:00:99:00:09"),),
        memory_mib=768,
        smbios=Smbios("Ways", "One", "WAYS-1", "0b7d3f0e-53e2-4b0c-9a52-2f6f5d6f0e11"),
        medium=configured(ISO, out / "medium.iso", values),
    )
    with RunningMachine(machine, out, "ways") as vm:
        yield vm


def expect_restored(vm: RunningMachine) -> None:
    found = vm.console.expect(RESULT, timeout_s=PATIENCE_S)
    assert (found[1], found[3]) == ("restored-and-verified", "0"), vm.console.tail()
    vm.wait_end(120)


def same_files(source: Path, disk: Path) -> None:
    """What the one recipe of this restore wrote is the only difference."""
    rules = "/etc/udev/rules.d"
    ours = {"/etc", "/etc/udev", rules, f"{rules}/70-persistent-net.rules", "/lost+found"}
    unlike = differences(read_tree(source), read_disk(disk), ours, lambda path: path in ours or path.startswith("/var"))
    assert not unlike, "\n".join(map(str, unlike[:20]))


def takes_our_words(vm: RunningMachine) -> None:
    """The live system's mdadm makes every kind of array by the words that a restore gives it."""
    status, said = vm.command(
        "cd /tmp && truncate -s 64M a b && modprobe -a loop raid0 raid1 raid10 && "
        "for file in a b; do node=$(losetup -f) && losetup $node $file && echo $node; done",
        timeout_s=120,
    )
    assert status == 0, said
    members = [Path(line) for line in said.split() if line.startswith("/dev/loop")]
    for array in ARRAYS:
        nodes = members[: array.devices] if array.level != "raid1" else members[:1]
        made = shlex.join(map(str, raid.create_words(Path("/dev/md77"), array, nodes)))
        status, said = vm.command(f"{made} && mdadm --detail --export /dev/md77 && mdadm --stop /dev/md77", 120)
        assert status == 0, said
        assert f"MD_LEVEL={array.level}" in said and f"MD_UUID={array.uuid}" in said, said
        zeroed, said = vm.command(shlex.join(["mdadm", "--zero-superblock", *map(str, nodes)]), 60)
        assert zeroed == 0, said
    vm.command(shlex.join(["losetup", "-d", *map(str, members)]), 60)


def keeps_what_fat_has_in_another_case(vm: RunningMachine) -> None:
    """FAT finds a name in every case: what another system renamed so is still the image's file."""
    extract = "regraft extract fat --depot /tmp/fat/depot --to /tmp/fat/to --delete"
    for words in (
        "mkdir -p /tmp/fat/tree/EFI/BOOT /tmp/fat/to && echo loader > /tmp/fat/tree/EFI/BOOT/BOOTX64.EFI",
        "echo 'a long name' > /tmp/fat/tree/EFI/BOOT/loader.configuration",
        "regraft depot init /tmp/fat/depot",
        "regraft capture --root /tmp/fat/tree --name fat --depot /tmp/fat/depot",
        "cd /tmp/fat && truncate -s 40M disk && mkfs.vfat disk && mount -o loop disk to",
        extract,
        "cd /tmp/fat/to/EFI && mv BOOT x && mv x Boot && cd Boot && mv BOOTX64.EFI x && mv x bootx64.efi && touch new",
        f"cd / && {extract} --trust-metadata",
        f"touch /tmp/fat/to/EFI/newer && {extract}",
    ):
        status, said = vm.command(words, timeout_s=120)
        assert status == 0, said
    status, said = vm.command(
        "cd /tmp/fat/to && find EFI | sort && cat EFI/BOOT/*.EFI EFI/BOOT/*.efi; cd / && umount /tmp/fat/to", 60
    )
    listed = said.split()
    assert [each.lower() for each in listed[:4]] == [
        "efi",
        "efi/boot",
        "efi/boot/bootx64.efi",
        "efi/boot/loader.configuration",
    ], said
    assert "loader" in listed[4:], said


def test_from_a_depot_on_a_usb_disk(depot: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    stick = out / "stick.img"
    with stick.open("wb") as file:
        file.truncate(192 << 20)
    run(["mkfs.ext4", "-q", "-L", "DEPOT", "-d", depot.parent, stick])
    values = settings(depot, "label:DEPOT/depot", image=NAME, disk="only-eligible", unattended=True)
    with booted(out, values, Disk("usb", path=stick, serial="STICK0001")) as vm:
        expect_restored(vm)
    same_files(tmp_path / "source/root", out / "disk0-ahci.img")


def test_from_a_plain_web_server_with_typed_consent(depot: Path, tmp_path: Path) -> None:
    """The wrong word writes nothing and leaves a shell; from there the agent is started again."""
    out = tmp_path / "out"
    out.mkdir()
    with serve(Plain, depot) as (url, handler):
        where = f"http://{HOST}:{url.rstrip('/').rpartition(':')[2]}/"
        values = settings(depot, where, image=NAME, disk=f"serial={SERIAL}")
        with booted(out, values) as vm:
            vm.console.expect(rf"Type {SERIAL} to ERASE this disk", timeout_s=PATIENCE_S)
            vm.console.send("yes\n")
            found = vm.console.expect(RESULT.replace("RESULT", "RESULT failed"), timeout_s=60)
            assert found[1] == "refused"
            vm.console.expect("Press Enter for a shell", timeout_s=60)
            vm.console.send("\n")
            vm.console.expect(r"regraft-pe:.*# ", timeout_s=60)
            status, said = vm.command("blkid /dev/sda", timeout_s=60)
            assert status != 0, f"something was written without consent: {said}"
            assert "firmware_disks=:hd0" in vm.command("cat /proc/cmdline")[1].split()
            vm.console.send("regraft agent\n")
            vm.console.expect(rf"Type {SERIAL} to ERASE this disk", timeout_s=PATIENCE_S)
            vm.console.send(f"{SERIAL}\n")
            expect_restored(vm)
        assert any(".pack" in request for request in handler.requests)
    same_files(tmp_path / "source/root", out / "disk0-ahci.img")


def test_a_machine_that_nobody_knows_waits_and_takes_the_job_that_comes(depot: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with serving(depot, out) as served:
        values = settings(depot, served.url_for_machines, token=served.agent_token)
        with booted(out, values, firmware="uefi") as vm:
            vm.console.expect("images that could be restored here:", timeout_s=PATIENCE_S)
            vm.console.expect(rf"{NAME}@\d+T\d+Z", timeout_s=30)
            vm.console.expect("waiting for a job", timeout_s=30)
            vm.console.send("\x03")
            vm.console.expect("Type s for a shell", timeout_s=60)
            vm.console.send("s\n")
            vm.console.expect(r"regraft-pe:.*# ", timeout_s=60)
            status, said = vm.command("regraft --version", timeout_s=120)
            assert status == 0
            assert "regraft" in said
            assert "firmware_disks=:hd0" in vm.command("cat /proc/cmdline")[1].split()
            takes_our_words(vm)
            keeps_what_fat_has_in_another_case(vm)
            vm.console.send("exit\n")
            served.call("POST", "jobs", {"match": {"system_uuid": "0b7d3f0e-53e2-4b0c-9a52-2f6f5d6f0e11"},
                                         "image": NAME, "disk": "only-eligible"})  # fmt: skip
            expect_restored(vm)
    same_files(tmp_path / "source/root", out / "disk0-ahci.img")
