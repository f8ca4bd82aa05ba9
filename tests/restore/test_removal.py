"""Guest tools of another hypervisor on a real Debian tree: stopped, removed by dpkg, and what comes back by undo.

A package whose own script fails or hangs must never fail a restore.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli import cli
from agent.model.compare import compare
from agent.model.profile import Platform, Profile
from agent.model.recipe import BoundRecipe
from agent.model.recipe_match import bind_all
from agent.model.report import RecipeResult
from agent.probe.live_tree import LiveTree
from agent.probe.software import read_os, read_packages, read_units
from agent.process import run
from agent.restore import patch
from agent.restore.inside import InsideRoot
from agent.restore.packages import package_state
from agent.restore.patch import UNDO, apply_recipe
from agent.restore.recipe_folder import read_recipes
from agent.restore.sandbox import Sandbox
from tests.model.debian_kernel import CACHE
from tests.model.machines_of_tests import situation, source, target

pytestmark = pytest.mark.root
UNITS = "etc/systemd/system"
PACKAGES = "systemd,open-vm-tools,qemu-guest-agent,smartmontools"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Debian with guest tools of two hypervisors, made once below the cache, unpacked once."""
    archive = CACHE / "guest-bookworm.tar"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        made = archive.with_name("new-guest-bookworm.tar")  # mmdebstrap makes a directory unless the name ends so
        run(["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(made)], timeout_s=600)
        made.rename(archive)
    where = tmp_path_factory.mktemp("guest")
    run(["tar", "-C", str(where), "-xf", str(archive)])
    (where / "etc/smartd.conf").write_text("/dev/sda -a -m root\n")
    yield where
    run(["rm", "-rf", str(where)])


@pytest.fixture
def root(unpacked: Path, tmp_path: Path) -> Iterator[Path]:
    """A throw-away overlay of it."""
    where, upper, work = (tmp_path / name for name in ("root", "upper", "work"))
    for folder in (where, upper, work):
        folder.mkdir()
    layers = f"lowerdir={unpacked},upperdir={upper},workdir={work}"
    run(["mount", "-t", "overlay", "overlay", "-o", layers, str(where)])
    yield where
    run(["umount", str(where)])
    run(["rm", "-rf", str(upper), str(work)])


def bound(root: Path, virtualization: str) -> dict[str, BoundRecipe]:
    """What the shipped recipes do to this tree when it leaves VMware for another kind of machine."""
    tree = LiveTree(root)
    packages = read_packages(tree)
    made_on: Profile = replace(
        source(), platform=Platform(virtualization="vmware", system_vendor="VMware, Inc."), packages=packages,
        units=read_units(tree), os=read_os(tree, packages),
    )  # fmt: skip
    here = target(platform=Platform(virtualization=virtualization, system_vendor="ACME"))
    one = replace(situation(source=made_on, target=here), tree=tree)
    recipes, _ = bind_all(read_recipes(), compare(one), one)
    return {recipe.id: recipe for recipe in recipes}


def adapt(root: Path, recipes: dict[str, BoundRecipe], *names: str) -> dict[str, RecipeResult]:
    return {name: apply_recipe(root, recipes[name], UNDO, Sandbox(root)) for name in names}


@pytest.mark.adapts("G1", "T1")
@pytest.mark.adapts("G4", "T1")
@pytest.mark.adapts("V1", "T1")
def test_tools_of_two_hypervisors_go_and_what_is_left_is_undoable(root: Path) -> None:
    before = (root / "etc/smartd.conf").read_text()
    found = bound(root, "none")
    results = adapt(root, found, "guest.vmware-tools", "guest.qemu-agent", "service.smartd")
    assert {name: result.result for name, result in results.items()} == dict.fromkeys(results, "done"), results
    names = ("open-vm-tools", "qemu-guest-agent", "smartmontools")
    assert [name for name in names if package_state(InsideRoot(root), name)] == ["smartmontools"]
    assert (root / UNITS / "open-vm-tools.service").readlink() == Path("/dev/null")
    assert "\nDEVICESCAN" in (root / "etc/smartd.conf").read_text()
    assert "/usr/bin/vmtoolsd" in results["guest.vmware-tools"].changed, "the report names what went"
    listed = CliRunner().invoke(cli, ["undo", "--root", str(root)]).output
    assert "package open-vm-tools 2:" in listed and "was removed: install it again" in listed
    undone = CliRunner().invoke(cli, ["undo", "--root", str(root), "--all"])
    assert undone.exit_code == 0, undone.output
    assert (root / "etc/smartd.conf").read_text() == before
    assert not (root / UNITS / "open-vm-tools.service").is_symlink()


def test_tools_that_are_of_use_stay(root: Path) -> None:
    found = bound(root, "kvm")
    assert "guest.vmware-tools" in found and "guest.qemu-agent" not in found


def test_a_package_whose_script_fails_is_a_warning_and_its_service_stays_off(root: Path) -> None:
    (root / "var/lib/dpkg/info/open-vm-tools.prerm").write_text("#!/bin/sh\necho no hypervisor >&2\nexit 3\n")
    result = adapt(root, bound(root, "none"), "guest.vmware-tools")["guest.vmware-tools"]
    assert result.result == "warned"
    assert any("no hypervisor" in line or "status 1" in line for line in result.checks), result.checks
    assert "ok unit-off open-vm-tools.service" in result.checks
    assert (root / UNITS / "open-vm-tools.service").readlink() == Path("/dev/null")


def test_a_script_that_hangs_is_ended(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "var/lib/dpkg/info/open-vm-tools.prerm").write_text("#!/bin/sh\nsleep 600\n")
    monkeypatch.setattr(patch, "BEST_EFFORT_S", 2.0)
    result = adapt(root, bound(root, "none"), "guest.vmware-tools")["guest.vmware-tools"]
    assert result.result == "warned" and any("did not end within 2 s" in line for line in result.checks)
    assert (root / UNITS / "open-vm-tools.service").readlink() == Path("/dev/null")
    assert not (root / "usr/sbin/policy-rc.d").exists()


def test_an_uninstaller_of_no_package_is_run_and_may_fail(root: Path) -> None:
    tool = root / "usr/bin/vmware-uninstall-tools.pl"
    tool.write_text("#!/bin/sh\nrm -f /usr/bin/vmware-uninstall-tools.pl /usr/lib/vmware-tools-file\n")
    tool.chmod(0o755)
    (root / "usr/lib/vmware-tools-file").write_text("x")
    recipe = bound(root, "none")["guest.vmware-uninstall"]
    assert apply_recipe(root, recipe, UNDO, Sandbox(root)).result == "done"
    assert not tool.exists() and not (root / "usr/lib/vmware-tools-file").exists()
    assert apply_recipe(root, recipe, UNDO, Sandbox(root)).result == "warned", "it is gone by now"
