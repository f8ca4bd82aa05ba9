"""dracut, rpm and dpkg in the sandbox, on a real tree: packages that hang or fail, an initramfs for any machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from agent.console.recorder import Recorder
from agent.depot.components import Said, add_component
from agent.depot.local import LocalDepot
from agent.errors import PatchError
from agent.model.initramfs import list_initramfs
from agent.model.plan import (
    ApplyRecipe,
    ComponentChoice,
    DiskIdentity,
    InstallBootloader,
    Plan,
    RebuildInitramfs,
)
from agent.model.planner import NAME_RULES
from agent.model.recipe import BoundRecipe, Check, Install, RemovePackage
from agent.process import run
from agent.restore import initramfs
from agent.restore.inside import InsideRoot
from agent.restore.packages import package_state, package_versions
from agent.restore.patch import UNDO, apply_recipe
from agent.restore.relabel import relabel
from agent.restore.run import Execution
from agent.restore.sandbox import Sandbox
from tests import rpms
from tests.depot.test_component_kinds import archive, lay
from tests.depot.test_components import elf
from tests.restore.family_tree import add_kernel, family_tree

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with family_tree(tmp_path_factory.mktemp("family")) as where:
        yield where


def recipe(*operations: Any, checks: tuple[Check, ...] = (), tier: str = "must") -> BoundRecipe:
    return BoundRecipe(
        id="site.test", title="x", tier=tier, phase="install", why="", items=(), operations=operations, checks=checks
    )


def package(folder: Path, name: str, postinst: str = "", **fields: str) -> Path:
    """A real .deb, by dpkg-deb."""
    top = folder / name
    (top / "DEBIAN").mkdir(parents=True)
    head = f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: t <t@example.org>\nDescription: t\n"
    (top / "DEBIAN/control").write_text(head + "".join(f"{key}: {value}\n" for key, value in fields.items()))
    if postinst:
        (top / "DEBIAN/postinst").write_text(postinst)
        (top / "DEBIAN/postinst").chmod(0o755)
    made = folder / f"{name}_1_all.deb"
    run(["dpkg-deb", "--build", "--root-owner-group", str(top), str(made)])
    return made


# --- scripts that hang or fail ----------------------------------------------------------------------------------------


def test_a_script_that_hangs_is_ended_in_time_and_a_must_stops(root: Path, tmp_path: Path) -> None:
    """Its children too, in the background or not; the boot path comes later and is not reached."""
    made = package(tmp_path, "hangs", "#!/bin/sh\nsetsid sleep 4712 &\nsleep 4712\n")
    started = time.monotonic()
    sandbox = Sandbox(root, timeout_s=3)
    with pytest.raises(PatchError, match=r"recipe site.test: .*‘dpkg .*hangs_1_all.deb’ .* did not end within 3 s"):
        apply_recipe(root, recipe(Install(component="hangs", version="1")), UNDO, sandbox, {"hangs=1": (made,)})
    assert time.monotonic() - started < 30
    time.sleep(0.3)
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [line for line in running if b"sleep\x004712\x00" in line]
    assert package_state(InsideRoot(root), "hangs") == ""
    assert not (root / "usr/sbin/policy-rc.d").exists()
    lesser = apply_recipe(
        root, recipe(Install(component="hangs", version="1"), tier="should"), UNDO, sandbox, {"hangs=1": (made,)}
    )
    assert lesser.result == "warned" and "did not end within 3 s" in lesser.checks[0]
    run(["chroot", str(root), "dpkg", "--force-all", "--purge", "hangs"])


def test_the_boot_path_is_not_written_after_a_must_that_hung(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan as a restore executes it, with the component from a depot; only the disk is none."""
    depot = LocalDepot.init(tmp_path / "depot")
    one = add_component(depot, package(tmp_path, "hangs", "#!/bin/sh\nsleep 4713\n")).component
    (file,) = one.payload
    identity = DiskIdentity(name="none", model="", serial="", wwn="", size_bytes=1, logical_sector_bytes=512)
    steps = (ApplyRecipe(recipe=recipe(Install(component="hangs", version="1"))),
             InstallBootloader(firmware="bios", disk=identity))  # fmt: skip
    choice = ComponentChoice(
        id="hangs", version="1", reason="", files=((f"components/hangs/1/{file.path}", file.sha256, file.size_bytes),)
    )
    plan = Plan(
        format=1, mode="restore", image="m", manifest_sha256="", source_profile_sha256="", target_profile_sha256="",
        difference_sha256="", disk=identity, untouched=(), components=(choice,), steps=steps,
    )  # fmt: skip
    reached: list[str] = []
    monkeypatch.setattr("agent.restore.run.disk.open_disk", lambda _: nullcontext(object()))
    monkeypatch.setattr("agent.restore.run.boot.install_bootloader", lambda *_: reached.append("boot"))
    execution = Execution(plan, None, depot, Recorder([]), tmp_path)  # type: ignore[arg-type]
    execution._root, execution._sandbox = root, Sandbox(root, timeout_s=3)
    with pytest.raises(PatchError, match="did not end within 3 s"):
        execution.run()
    assert not reached
    assert not list(root.glob(".regraft-*")), "the payload is gone from the disk"
    run(["chroot", str(root), "dpkg", "--force-all", "--purge", "hangs"])


def test_a_script_that_fails_says_what_it_said(root: Path, tmp_path: Path) -> None:
    made = package(tmp_path, "fails", "#!/bin/sh\necho no such card >&2\nexit 7\n")
    with pytest.raises(PatchError, match=r"(?s)recipe site.test: .*no such card"):
        apply_recipe(root, recipe(Install(component="fails", version="1")), UNDO, Sandbox(root), {"fails=1": (made,)})
    run(["chroot", str(root), "dpkg", "--force-all", "--purge", "fails"])


def test_a_batch_is_installed_together(root: Path, tmp_path: Path) -> None:
    files = {f"{name}=1": (package(tmp_path, name, Depends=needs),) for name, needs in (("one", "two"), ("two", "one"))}
    step = recipe(Install(component="one", version="1", together=("two=1",)),
                  checks=(Check(kind="package-installed", text="two"),))  # fmt: skip
    assert apply_recipe(root, step, UNDO, Sandbox(root), files).result == "done"
    assert apply_recipe(root, step, UNDO, Sandbox(root), files).changed == ()


# --- rpm --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def rpm_root(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same tree as a system of rpm's: without dpkg's status, with an rpm database of its own."""
    status = root / "var/lib/dpkg/status"
    aside = status.with_name("status.aside")
    status.rename(aside)
    (root / "etc/rpm").mkdir(exist_ok=True)
    (root / "etc/rpm/macros").write_text("%_dbpath /var/lib/rpm\n")  # Debian's rpm keeps one in each home
    run(["chroot", str(root), "rpm", "--initdb"])
    made = rpms.build(tmp_path_factory.mktemp("base"), "base", head="Provides: /bin/sh")
    run(
        [
            "sh",
            "-c",
            'cp "$1" "$2/tmp/base.rpm" && chroot "$2" rpm -i --nodeps /tmp/base.rpm',
            "sh",
            str(made),
            str(root),
        ]
    )
    yield root
    aside.rename(status)


@pytest.mark.adapts("D1", "T1")
def test_rpms_are_installed_beside_and_over_one_another(rpm_root: Path, tmp_path: Path) -> None:
    inside, sandbox = InsideRoot(rpm_root), Sandbox(rpm_root)

    def put(name: str, release: str, number: str = "5", **more: Any) -> str:
        made = rpms.build(tmp_path, name, number, release, **more)
        version = f"{number.replace('^', '~')}-{release}"
        named = made.with_name(f"{name}_{version}_noarch.rpm")
        made.rename(named)
        step = recipe(Install(component=name, version=version), checks=(Check(kind="package-installed", text=name),))
        result = apply_recipe(rpm_root, step, UNDO, sandbox, {f"{name}={version}": (named,)}).result
        assert not apply_recipe(rpm_root, step, UNDO, sandbox).changed, "it is known as installed"
        return result

    assert put("kernel-core", "1", files={"/boot/k-1": b"1"}) == "done"
    assert put("kernel-core", "2", files={"/boot/k-2": b"2"}) == "done"
    assert sorted(package_versions(inside, "kernel-core")) == ["5-1", "5-2"]
    assert (rpm_root / "boot/k-1").exists() and (rpm_root / "boot/k-2").exists()
    assert put("firmware-x", "1", files={"/usr/lib/firmware/x": b"1"}) == "done"
    assert put("firmware-x", "2", files={"/usr/lib/firmware/x": b"2"}) == "done"
    assert package_versions(inside, "firmware-x") == ("5-2",)
    assert put("firmware-x", "1", "5^git1", files={"/usr/lib/firmware/x": b"3"}) == "done"
    assert package_versions(inside, "firmware-x") == ("5~git1-1",)
    with pytest.raises(PatchError, match=r"rpm cannot install: needy-5-1.noarch needs nowhere"):
        put("needy", "1", head="Requires: nowhere")
    with pytest.raises(PatchError, match=r"(?s)recipe site.test: .*broken card"):
        put("fails", "1", body="%pre\necho broken card >&2; exit 1")
    gone = recipe(RemovePackage(package="firmware-x"), checks=(Check(kind="package-absent", text="firmware-x"),))
    assert apply_recipe(rpm_root, gone, UNDO, sandbox).result == "done"


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.adapts("D2", "T1")
def test_components_of_files(root: Path, tmp_path: Path) -> None:
    depot = LocalDepot.init(tmp_path / "depot")
    release = add_kernel(root)
    driver = elf(f"alias=pci:v0000DEADd*\0vermagic={release} SMP\0license=GPL\0".encode())
    top = lay(tmp_path / "card-3", {"lib/firmware/card/x.fw": b"firmware", "module/card.ko": driver})
    one = add_component(depot, top).component
    file = depot.root / f"components/card/3/{one.payload[0].path}"
    step = recipe(Install(component="card", version="3"), checks=(Check(kind="package-installed", text="card"),))
    result = apply_recipe(root, step, UNDO, Sandbox(root), {"card=3": (file,)})
    assert result.result == "done" and (root / "usr/lib/firmware/card/x.fw").read_bytes() == b"firmware"
    assert f"/usr/lib/modules/{release}/updates/card.ko" in result.changed
    assert "card" in (root / f"usr/lib/modules/{release}/modules.dep").read_text()
    assert apply_recipe(root, step, UNDO, Sandbox(root), {"card=3": (file,)}).changed == ()


@pytest.mark.adapts("D2", "T1")
def test_components_of_files_whose_ids_begin_alike(root: Path, tmp_path: Path) -> None:
    """‘_’ in the id, which parts the words of the payload's name, and an epoch, which the name cannot hold."""
    depot = LocalDepot.init(tmp_path / "depot")
    inside, sandbox = InsideRoot(root), Sandbox(root)
    for ident, version in (("aic_driver", "1.0"), ("aic_blobs", "1:2_b")):
        top = lay(tmp_path / ident, {f"lib/firmware/{ident}/x.fw": b"firmware"})
        one = add_component(depot, top, Said(id=ident, version=version)).component
        file = depot.root / f"components/{ident}/{version}/{one.payload[0].path}"
        step = recipe(Install(component=ident, version=version), checks=(Check(kind="package-installed", text=ident),))
        assert apply_recipe(root, step, UNDO, sandbox, {f"{ident}={version}": (file,)}).result == "done"
        assert apply_recipe(root, step, UNDO, sandbox, {f"{ident}={version}": (file,)}).changed == ()
    assert [package_versions(inside, name) for name in ("aic_driver", "aic_blobs", "aic")] == [("1.0",), ("1:2_b",), ()]


@pytest.mark.parametrize("name", ["../../etc/x", "etc/cron.d/x", "lib/firmware/../../etc/x"])
def test_a_payload_that_was_made_elsewhere_leads_nowhere(root: Path, tmp_path: Path, name: str) -> None:
    made = archive(tmp_path / "x.tar.gz", (name, b"x", b"0"))
    packed = tmp_path / "evil_1_all.tar.zst"
    run(["sh", "-c", 'gzip -dc "$1" | zstd -q -o "$2"', "sh", str(made), str(packed)])
    with pytest.raises(PatchError, match="no place of firmware or a driver"):
        apply_recipe(root, recipe(Install(component="evil", version="1")), UNDO, Sandbox(root), {"evil=1": (packed,)})


# --- dracut -----------------------------------------------------------------------------------------------------------


@pytest.mark.adapts("B1", "T2", systems=())
@pytest.mark.adapts("B2", "T2", systems=())
def test_dracut_builds_for_any_machine_whatever_the_image_says(root: Path) -> None:
    """The image asks for a host-only initramfs; what is built holds the drivers of a machine that is not here."""
    release = add_kernel(root)
    conf = root / "etc/dracut.conf.d"
    (conf / "host.conf").write_text('hostonly="yes"\nhostonly_mode="strict"\n')
    (conf / "fast.conf").write_text('compress="cat"\ndo_strip="no"\n')  # the processor's time, not the content
    target = root / f"boot/initramfs-{release}.img"
    target.write_bytes(b"old")
    modules = ("mlx5_core", "virtio_blk", "ext4", "nvme")
    (root / "etc/crypttab").write_text("root UUID=1 none luks\n")
    (root / "etc/udev/rules.d").mkdir(parents=True, exist_ok=True)
    (root / NAME_RULES[1:]).write_text("# none\n")
    changed = initramfs.rebuild(
        root,
        Sandbox(root),
        RebuildInitramfs(release=release, tool="dracut", modules=modules, files=(NAME_RULES, "/etc/crypttab")),
    )
    assert f"/boot/initramfs-{release}.img" in changed
    names = list_initramfs(target.read_bytes())
    assert any(name.endswith("/mlx5_core.ko") for name in names)
    assert {"etc/crypttab", NAME_RULES[1:]} <= names, "which it keeps for host-only ones"
    assert not [name for name in names if name.endswith("hostonly-kernel-modules.txt")]
    assert (root / f"var/lib/regraft/undo/boot/initramfs-{release}.img").read_bytes() == b"old"
    with pytest.raises(PatchError, match="lacks megaraid_sas"):
        step = RebuildInitramfs(release=release, tool="dracut", modules=("megaraid_sas",))
        initramfs.rebuild(root, Sandbox(root), step)


# --- SELinux ----------------------------------------------------------------------------------------------------------


@pytest.mark.adapts("C1", "T1", systems=())
def test_what_was_written_gets_the_labels_of_the_images_policy(root: Path) -> None:
    """By the image's own setfiles, although this kernel has no SELinux; only what changed is touched."""
    contexts = root / "etc/selinux/targeted/contexts/files/file_contexts"
    contexts.parent.mkdir(parents=True, exist_ok=True)
    contexts.write_text("/etc(/.*)?\tsystem_u:object_r:etc_t:s0\n/etc/shadow\t--\tsystem_u:object_r:shadow_t:s0\n")
    (root / "etc/selinux/config").write_text("SELINUX=enforcing\nSELINUXTYPE=targeted\n")
    made = root / "etc/my file"
    made.write_text("x")
    changed, warning = relabel(root, Sandbox(root), ["/etc/shadow", "/etc/my file", "/etc/gone", "/run/x"])
    assert (changed, warning) == ((), "")
    assert os.getxattr(made, "security.selinux").rstrip(b"\0") == b"system_u:object_r:etc_t:s0"
    assert os.getxattr(root / "etc/shadow", "security.selinux").rstrip(b"\0") == b"system_u:object_r:shadow_t:s0"
    with pytest.raises(OSError, match="No data"):
        os.getxattr(root / "etc/passwd", "security.selinux")
    contexts.write_text("/etc(/.*)?\tnot a ((( context\n")
    changed, warning = relabel(root, Sandbox(root), ["/etc/shadow"])
    assert changed[0] == "/.autorelabel" and (root / ".autorelabel").exists() and "first boot" in warning
