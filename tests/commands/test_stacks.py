"""An image whose files lie on LVM and LUKS: what its commands show and decide, before anything is made of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from agent.depot.catalogue import find_image
from agent.depot.local import LocalDepot
from agent.depot.signing import trusted_keys
from agent.image.capture import CaptureSource, SourceVolume, capture_image
from agent.model.image import STACK_FORMAT, ImageRef
from agent.model.plan import FIRST_STACKED, MakeFilesystem, MakeLuks, MakeVolumeGroup, Plan, WriteTree
from agent.model.profile_xml import dump_profile, load_profile
from agent.model.report import Report
from agent.model.storage import LogicalVolume, Luks, PhysicalVolume, Stack, TableKind, VolumeGroup
from tests.commands.program import FROM_SOURCE, Regraft
from tests.commands.system import MACHINES, held_at, machine, system_tree
from tests.image.source_tree import no_events

SAME = MACHINES / "qemu-i440fx-virtio-bios-debian.xml"
MIB, GIB, EXTENT = 1 << 20, 1 << 30, 4 << 20
LUKS_UUID = "0c1f6a52-52d5-44c1-8d5e-4d4a6cb0a2a1"


def lvm_uuid(number: int) -> str:
    return f"{number:06d}-AAAA-BBBB-CCCC-DDDD-EEEE-FFFFFF"


def publish(depot: Path, folder: Path) -> None:
    """The root on a logical volume with room beside it, /srv encrypted on a partition of its own."""
    profile = machine("qemu-i440fx-virtio-bios-debian")
    (disk,) = profile.disks
    root, srv = held_at(disk, 2), held_at(disk, 3)
    system_tree(folder / "root", disk)
    tree = folder / "root"
    lines = [f"/dev/mapper/vg-root / {root.kind} defaults 0 1", f"/dev/mapper/srv_crypt /srv {srv.kind} defaults 0 2"]
    (tree / "etc/fstab").write_text("\n".join(lines) + "\n")
    (tree / "etc/crypttab").write_text(f"srv_crypt UUID={LUKS_UUID} none luks\n")
    (folder / "srv").mkdir()
    (folder / "srv/page.html").write_text("served")
    size = disk.partitions[1].size_bytes
    physical = PhysicalVolume(lvm_uuid(2), "vda:2", size, MIB)
    logical = LogicalVolume("root", lvm_uuid(3), 2 * GIB, "linear", root)
    group = VolumeGroup("vg", lvm_uuid(1), EXTENT, (size - MIB) // EXTENT, (physical,), (logical,))
    luks = Luks(
        LUKS_UUID, "vda:3", 2, "", "srv_crypt", "aes-xts-plain64", 64, 512, 16 * MIB, 4 * GIB - 16 * MIB, "argon2id", 1,
        (), srv,
    )  # fmt: skip
    stack = Stack((luks,), (), (group,))
    members = {2: replace(root, kind="LVM2_member", uuid=lvm_uuid(2), mountpoint=""),
               3: replace(srv, kind="crypto_LUKS", uuid=LUKS_UUID, mountpoint="")}  # fmt: skip
    parts = tuple(replace(part, holds=members.get(part.number, part.holds)) for part in disk.partitions)
    disk = replace(disk, partitions=parts, in_use=(), boot_medium=False)
    profile = replace(profile, disks=(disk,), stack=stack)
    volumes = (
        SourceVolume("root", root, folder / "root", device="lv:vg/root"),
        SourceVolume("srv", srv, folder / "srv", device=f"luks:{LUKS_UUID}"),
    )
    source = CaptureSource(profile.machine, "web1", profile, (disk,), volumes, stack=stack)
    capture_image(source, LocalDepot(depot), no_events, jobs=1)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Regraft:
    program = Regraft(FROM_SOURCE, tmp_path / "home", environment={"REGRAFT_DEPOT": str(tmp_path / "depot")})
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "home"))
    program("depot", "init", tmp_path / "depot")
    publish(tmp_path / "depot", tmp_path)
    return program


def target(folder: Path, size: int) -> Path:
    """The same machine with two empty disks."""
    profile = load_profile(SAME.read_bytes())
    (disk,) = profile.disks
    empty = replace(
        disk, size_bytes=size, serial="NEW-0001", table=TableKind.NONE, table_id="", partitions=(), holds=None,
        in_use=(), boot_medium=False, role="",
    )  # fmt: skip
    other = replace(empty, name="vdb", serial="NEW-0002")
    (folder / "target.xml").write_bytes(dump_profile(replace(profile, disks=(empty, other))))
    return folder / "target.xml"


def planned(regraft: Regraft, to: Path, *words: str) -> Plan:
    told = regraft("plan", "web1", "--target", to, "--disk", "name=vda", *words, "--json").stdout
    return msgspec.json.decode(msgspec.json.encode(msgspec.json.decode(told)["plan"]), type=Plan)


@pytest.mark.tools
def test_the_plan_makes_every_storey_and_what_lies_on_it(published: Regraft, tmp_path: Path) -> None:
    keys = trusted_keys(LocalDepot(tmp_path / "depot"), ())
    ref = ImageRef(machine("qemu-i440fx-virtio-bios-debian").machine)
    manifest = find_image(LocalDepot(tmp_path / "depot"), keys, ref).manifest
    assert manifest.format == STACK_FORMAT and {v.device for v in manifest.volumes} == {
        "lv:vg/root",
        f"luks:{LUKS_UUID}",
    }
    assert "volume    root: ext4 at / on lv:vg/root, " in published("show", "web1").stdout
    to = target(tmp_path, 12 * GIB)
    plan = planned(published, to)
    (group,) = (step.group for step in plan.steps if isinstance(step, MakeVolumeGroup))
    (luks,) = (step for step in plan.steps if isinstance(step, MakeLuks))
    assert {(p.on, p.uuid) for p in group.physical} == {(2, lvm_uuid(2))} and luks.on == 3
    places = {group.logical[0].place: "/", luks.place: "/srv"}
    assert min(places) == FIRST_STACKED
    made = {s.partition: s.filesystem.mountpoint for s in plan.steps if isinstance(s, MakeFilesystem)}
    assert {number: made[number] for number in places} == places
    assert {s.partition: s.mountpoint for s in plan.steps if isinstance(s, WriteTree)} == places
    text = published("plan", "web1", "--target", to, "--disk", "name=vda").stdout
    assert "make volume group vg on partition 2: root" in text
    assert f"encrypt partition 3 as LUKS2 {LUKS_UUID}, opened as srv_crypt" in text
    assert f"on place {luks.place} for /srv" in text


@pytest.mark.tools
def test_the_policy_of_growing_is_that_of_the_volumes_on_it(published: Regraft, tmp_path: Path) -> None:
    to = target(tmp_path, 12 * GIB)

    def root_bytes(*words: str) -> int:
        plan = planned(published, to, *words)
        return next(s.group.logical[0].extents for s in plan.steps if isinstance(s, MakeVolumeGroup)) * EXTENT

    assert root_bytes() == root_bytes("--grow", "none") == 2 * GIB
    assert 6 * GIB <= root_bytes("--grow", "/") < 7 * GIB, "the larger disk, and not what was free in the group"
    assert planned(published, to, "--grow", "/").grow == "/"


@pytest.mark.tools
def test_a_second_disk_is_refused(published: Regraft, tmp_path: Path) -> None:
    to = target(tmp_path, 12 * GIB)
    said = published("plan", "web1", "--target", to, "--disk", "name=vda", "--disk", "name=vdb", code=12).stderr
    assert "LUKS srv_crypt, volume group vg, and 2 disks are to be written (vda, vdb)" in said


@pytest.mark.tools
def test_a_rehearsal_decides_for_a_stack(published: Regraft, tmp_path: Path) -> None:
    to = target(tmp_path, 12 * GIB)
    told = published("rehearse", "web1", to, "--disk", "name=vda", "--decisions", "--json").stdout
    report = msgspec.json.decode(told, type=Report)
    assert (report.result, report.stops) == ("would-restore", ())
