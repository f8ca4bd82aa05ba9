"""Rehearsals: recipes really applied on a copy that is forgotten, and everything told that would stop a restore."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from agent.image import mount
from agent.model.plan import MakeFilesystem
from agent.model.planned_names import planned_names
from agent.model.planner import make_plan
from agent.model.profile_xml import dump_profile, load_profile
from agent.model.report import Report
from agent.process import run
from agent.restore import throwaway
from agent.restore.pretended_disk import probe_script
from tests.commands.program import FROM_SOURCE, Regraft
from tests.commands.system import MACHINES, publish_machine
from tests.image.source_tree import no_events
from tests.model.machines_of_tests import ESP_UUID, FILESYSTEMS, ROOT_UUID, SRV_UUID
from tests.model.test_planner import decisions

OTHER = MACHINES / "qemu-q35-ovmf-nvme-e1000e.xml"
SAME = MACHINES / "qemu-i440fx-virtio-bios-debian.xml"
BAD_RECIPE = """\
id = "site.bad"
title = "Never holds"
tier = "must"
phase = "site"
why = "a test"
[when]
all = [ { image = { path = "/etc/hostname" } } ]
[[do]]
write = { path = "/etc/motd", whole = true, lines = ["ours"] }
[[check]]
grep = { path = "/etc/hostname", text = "not in it" }
[[test]]
tree = { "/etc/hostname" = "not in it, but here\\n" }
expect = { "/etc/motd" = "ours\\n" }
"""
ROOTS_OWN = ("bin", "sbin", "dev", "proc", "sys", "run", "tmp", "usr/bin", "usr/sbin")


def put_programs(root: Path) -> None:
    """A shell, and an update-grub that writes what grub-probe tells it."""
    for name in ROOTS_OWN:
        (root / name).mkdir(parents=True, exist_ok=True)
    busybox = root / "usr/bin/busybox"
    busybox.write_bytes(Path("/bin/busybox").read_bytes())
    busybox.chmod(0o755)
    for name in ("usr/bin/env", "bin/sh", "usr/bin/cat"):
        (root / name).symlink_to("/usr/bin/busybox")
    (root / "usr/sbin/grub-probe").write_text("#!/bin/sh\nexit 1\n")
    script = """#!/bin/sh
set -e
uuid=$(/usr/sbin/grub-probe --device "$(/usr/sbin/grub-probe --target=device /)" --target=fs_uuid)
test -e /dev/disk/by-uuid/$uuid
for kernel in /boot/vmlinuz-*; do echo " linux $kernel root=UUID=$uuid ro"; done > /boot/grub/grub.cfg
"""
    (root / "usr/sbin/update-grub").write_text(script)
    for name in ("grub-probe", "update-grub"):
        (root / "usr/sbin" / name).chmod(0o755)
    (root / "boot/grub").mkdir(parents=True)


@pytest.fixture
def regraft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Regraft:
    """The program, and a depot with the image ``web1`` of a virtual machine whose update-grub works."""
    program = Regraft(FROM_SOURCE, tmp_path / "home", environment={"REGRAFT_DEPOT": str(tmp_path / "depot")})
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "home"))
    program("depot", "init", tmp_path / "depot")
    put_programs(tmp_path / "root")
    publish_machine(tmp_path / "depot", tmp_path)
    (tmp_path / "work").mkdir()
    return program


def rehearsed(regraft: Regraft, tmp_path: Path, target: Path, *words: str | Path, code: int = 0) -> Report:
    told = regraft("rehearse", "web1", target, "--work", tmp_path / "work", "--json", *words, code=code).stdout
    assert list((tmp_path / "work").iterdir()) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    return msgspec.json.decode(told, type=Report)


def other_cards(tmp_path: Path) -> Path:
    """The same machine with another network card, one that its kernel drives."""
    profile = load_profile(SAME.read_bytes())
    nics = tuple(replace(nic, mac="52:54:00:77:77:77") for nic in profile.network.nics)
    moved = replace(profile, network=replace(profile.network, nics=nics))
    (tmp_path / "moved.xml").write_bytes(dump_profile(moved))
    return tmp_path / "moved.xml"


@pytest.mark.root
def test_recipes_are_applied_to_a_copy_that_is_forgotten(regraft: Regraft, tmp_path: Path) -> None:
    before = regraft("ls", "web1", "/etc", "--depot", tmp_path / "depot").stdout
    report = rehearsed(regraft, tmp_path, other_cards(tmp_path))
    # The image has no debconf, which only a should asks for.
    assert (report.result, report.exit_code, report.stops) == ("would-restore-with-warnings", 0, ())
    assert {recipe.id for recipe in report.recipes if recipe.result != "done"} == {"loader.debconf-devices"}
    assert "net.keep-names" in {recipe.id for recipe in report.recipes}
    assert any(path.startswith("/etc/udev/rules.d/") for path in report.changed_paths)
    checks = {check.name: check for check in report.checks}
    assert all(check.ok for check in report.checks)
    assert {"fstab", "grub.cfg root", "loader"} <= set(checks)
    assert any("initramfs was not rebuilt" in check.detail for check in report.checks)
    assert regraft("ls", "web1", "/etc", "--depot", tmp_path / "depot").stdout == before


@pytest.mark.root
def test_everything_that_would_stop_is_told_and_the_first_is_the_exit_code(regraft: Regraft, tmp_path: Path) -> None:
    """No kernel for NVMe in the depot, and a recipe of the site whose check fails."""
    (tmp_path / "bad.toml").write_text(BAD_RECIPE)
    report = rehearsed(
        regraft, tmp_path, OTHER, "--disk", "serial=TARGET-0001", "--recipes", tmp_path / "bad.toml", code=12
    )
    assert report.result == "would-stop" and report.error_code == "refused"
    codes = [stop.code for stop in report.stops]
    assert codes[0] == "refused" and "patch" in codes
    assert "nvme" in report.stops[0].message
    assert any("site.bad" in stop.message for stop in report.stops)
    # A restore ends alike.
    regraft("plan", "web1", "--target", OTHER, "--disk", "serial=TARGET-0001", code=12)


@pytest.mark.root
def test_a_report_is_left_as_a_page_and_as_json(regraft: Regraft, tmp_path: Path) -> None:
    page, data = tmp_path / "r.html", tmp_path / "r.json"
    words = ("rehearse", "web1", SAME, "--decisions", "--html", page, "--report", data)
    assert "REHEARSED: IT WOULD BE RESTORED" in regraft(*words).stdout
    assert "REHEARSED: IT WOULD BE RESTORED" in page.read_text()
    assert json.loads(data.read_bytes())["result"] == "would-restore"


@pytest.mark.root
def test_edits_stand_in_the_report(regraft: Regraft, tmp_path: Path) -> None:
    (tmp_path / "edits.toml").write_text('[nics]\nens3 = "52:54:00:77:77:77"\n')
    report = rehearsed(regraft, tmp_path, other_cards(tmp_path), "--edits", tmp_path / "edits.toml")
    assert report.edits == ("network: ens3 becomes card 52:54:00:77:77:77",)
    assert any("chosen by the operator" in item.reason for item in report.difference)


@pytest.mark.root
def test_where_nothing_can_be_mounted_the_image_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.depot.catalogue import find_image  # noqa: PLC0415
    from agent.depot.local import LocalDepot  # noqa: PLC0415
    from agent.depot.signing import trusted_keys  # noqa: PLC0415
    from agent.model.image import ImageRef  # noqa: PLC0415

    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "home"))
    depot = LocalDepot.init(tmp_path / "depot")
    publish_machine(depot.root, tmp_path)
    loaded = find_image(depot, trusted_keys(depot, ()), ImageRef("web1"))
    for absent in (False, True):
        if absent:
            monkeypatch.setattr(mount, "DEVICE", tmp_path / "no-fuse")
        work = tmp_path / f"work-{absent}"
        work.mkdir()
        told: list[str] = []
        with throwaway.throwaway_tree(depot, loaded, work, no_events, told.append) as root:
            (root / "etc/hostname").write_text("other\n")
            assert (root / "srv/page.html").read_text() == "served"
            assert (root / "etc/hostname").read_text() == "other\n"
        assert bool(told) is absent and all("cannot be mounted" in line for line in told)
        assert str(work) not in Path("/proc/self/mountinfo").read_text()


# --- what is planned, said to programs --------------------------------------------------------------------------------


def test_the_names_of_a_planned_disk() -> None:
    names = planned_names(make_plan(decisions()), decisions().manifest)
    assert names["UUID"] == {ESP_UUID.lower(), ROOT_UUID}
    assert names["PARTUUID"] == {"p1", "p2"} and names["LABEL"] == frozenset()


def test_on_an_mbr_partitions_are_named_by_the_disks_signature() -> None:
    given = decisions()
    given = replace(given, layout=replace(given.layout, table="mbr", table_id="0x1234abcd"))
    assert planned_names(make_plan(given), given.manifest)["PARTUUID"] == {"1234abcd-01", "1234abcd-02"}


@pytest.mark.tools
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--target=device", "/"), "/dev/planned2"),
        (("-t", "device", "/srv/x"), "/dev/planned3"),
        (("--target=device", "/srvx"), "/dev/planned2"),
        (("--device", "/dev/planned3", "--target=fs_uuid"), SRV_UUID),
        (("--target=fs", "/boot/efi"), "fat"),
        (("--device", "/dev/planned2", "--target=fs"), "ext2"),
        (("--target=partmap", "/"), "gpt"),
        (("--target=hints_string", "/"), ""),
    ],
)
def test_the_pretended_probe_answers_from_the_plan(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    made = [MakeFilesystem(partition=number, filesystem=each) for number, each in FILESYSTEMS.items()]
    probe = tmp_path / "grub-probe"
    # What it is asked about need not be on the machine of the test.
    probe.write_text(probe_script(made, "gpt").replace('[ -e "$path" ]', "true"))
    assert run(["sh", probe, *words]).stdout.strip() == said
