"""The sandbox on a real Debian tree: what programs see in it, what they cannot reach, a kernel package installed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import process
from agent.errors import PatchError
from agent.model.initramfs import list_initramfs, modules_in
from agent.model.recipe import BoundRecipe, Check, Install, RemovePackage
from agent.process import run
from agent.restore.initramfs_tools import FUNCTIONS, in_bulk
from agent.restore.inside import InsideRoot
from agent.restore.packages import package_state
from agent.restore.patch import UNDO, apply_recipe
from agent.restore.sandbox import Sandbox
from tests.model.debian_kernel import CACHE, kernel_package, package

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Debian's minimal system with initramfs-tools, made once below the cache, unpacked for this module."""
    archive = CACHE / "minbase-bookworm.tar"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        include = "--include=initramfs-tools,zstd,kmod"
        made = archive.with_name("new-minbase.tar")  # mmdebstrap makes a directory unless the name ends so
        run(["mmdebstrap", "--variant=minbase", include, "bookworm", str(made)], timeout_s=600)
        made.rename(archive)
    where = tmp_path_factory.mktemp("root")
    run(["tar", "-C", str(where), "-xf", str(archive)])
    yield where
    run(["rm", "-rf", str(where)])


def made_in_bulk(root: Path, sandbox: Sandbox, release: str, expected: frozenset[str]) -> None:
    """The image's tool with our function in it: the same files, firmware too, in fewer programs; nothing stays."""
    before = (root / FUNCTIONS.lstrip("/")).read_bytes()
    module = next((root / "usr/lib/modules" / release).rglob("bnx2x.ko*"), None)
    firmware = run(["modinfo", "-F", "firmware", str(module)]).stdout.split() if module else []
    for name in firmware:
        place = root / "usr/lib/firmware" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(name.encode())
    counting = root / "root/count.sh"
    counting.write_text("#!/bin/sh\n\"$@\" >&2 || exit 1\nsh -c 'echo $$'\n")
    command = ["sh", "/root/count.sh", "update-initramfs", "-u", "-k", release]
    alone = int(sandbox.run(command).stdout)
    stock = list_initramfs((root / f"boot/initrd.img-{release}").read_bytes())
    with in_bulk(InsideRoot(root)) as stand_ins:
        assert FUNCTIONS in stand_ins
        bulk = int(sandbox.run(command, stand_ins=stand_ins).stdout)
    found = list_initramfs((root / f"boot/initrd.img-{release}").read_bytes())
    assert found == stock
    assert expected <= found
    assert all(any(path.endswith(f"firmware/{name}") for path in found) for name in firmware)
    assert bulk * 2 < alone, f"process numbers reached {bulk} in bulk and {alone} without"
    assert (root / FUNCTIONS.lstrip("/")).read_bytes() == before


def test_programs_see_a_small_world(root: Path) -> None:
    said = Sandbox(root).run(["ls", "/dev", "/sys/class/net", "/proc/1/ns"]).stdout
    assert "urandom" in said and "vda" not in said and "kmsg" not in said
    mounts = Sandbox(root).run(["cat", "/proc/self/mountinfo"]).stdout
    assert all(word not in mounts for word in ("efivarfs", "cgroup", "debugfs"))
    assert " /sys ro," in mounts
    processes = Sandbox(root).run(["sh", "-c", "echo /proc/[0-9]*"]).stdout.split()
    assert len(processes) < 4, "only its own processes"


def test_the_environment_is_clean(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_TOKEN", "secret")
    monkeypatch.setenv("TERM", "xterm")
    said = Sandbox(root).run(["env"], environment={"GIVEN": "yes"}).stdout.split()
    assert sorted(line.partition("=")[0] for line in said) == ["GIVEN", "HOME", "LC_ALL", "PATH"]


def test_there_is_no_network(root: Path) -> None:
    said = Sandbox(root).run(["cat", "/proc/net/dev"]).stdout.splitlines()[2:]
    assert [line.split(":")[0].strip() for line in said] == ["lo"]


def test_the_target_disks_nodes_are_there_with_the_links_that_grub_looks_for(root: Path, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    run(["mkfs.ext4", "-q", "-U", "12345678-1234-1234-1234-123456789abc", str(image)])
    loop = Path(run(["losetup", "--find", "--show", str(image)]).stdout.strip())
    try:
        sandbox = Sandbox(root, (loop,))
        link = "/dev/disk/by-uuid/12345678-1234-1234-1234-123456789abc"
        assert sandbox.run(["readlink", "-f", link]).stdout.strip() == f"/dev/{loop.name}"
        magic = sandbox.run(["sh", "-c", f"dd if={link} bs=1 skip=1080 count=2 2>/dev/null | od -An -tx1"]).stdout
        assert magic.split() == ["53", "ef"], "ext4's superblock is read through it"
    finally:
        run(["losetup", "--detach", str(loop)])
    with pytest.raises(PatchError, match="is not a block device"):
        Sandbox(root, (image,))


def test_the_shell_of_the_boot_medium_runs_the_images_programs(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """busybox prefers its own applets to programs of the same name: never inside the restored system."""
    for name in ("sh", "mkdir", "ln", "mknod", "chmod", "chroot", "env"):
        (tmp_path / name).symlink_to("/usr/bin/busybox")
    for name in ("mount", "unshare"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    real = process.child_environment
    monkeypatch.setattr(process, "child_environment", lambda extra=None: {**real(extra), "PATH": str(tmp_path)})
    said = Sandbox(root).run(["dpkg", "--version"], files=[Path("/etc/hostname")]).stdout
    assert "Debian 'dpkg' package management program" in said


def test_nothing_outlives_the_time_limit(root: Path) -> None:
    started = time.monotonic()
    with pytest.raises(PatchError, match=r"did not end within 1 s"):
        Sandbox(root).run(["sh", "-c", "sleep 4711 & sleep 4711"], timeout_s=1)
    assert time.monotonic() - started < 20
    time.sleep(0.5)
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert b"sleep\x004711\x00" not in running


def test_mounts_go_with_the_sandbox(root: Path) -> None:
    Sandbox(root).run(["true"])
    assert str(root) not in Path("/proc/self/mountinfo").read_text()
    assert not list((root / "dev/disk").glob("*"))


def test_a_failing_program_says_what_it_said(root: Path) -> None:
    with pytest.raises(PatchError, match=r"status 3, expected 0:\nbroken"):
        Sandbox(root).run(["sh", "-c", "echo broken >&2; exit 3"])


def test_a_missing_dependency_is_named(root: Path) -> None:
    with pytest.raises(PatchError, match=r"linux-image-amd64 needs linux-image-\S+ \(= "):
        Sandbox(root).install_deb([package("linux-image-amd64")])
    assert not (root / "usr/sbin/policy-rc.d").exists()
    Sandbox(root).remove_deb(["linux-image-amd64"])


@pytest.mark.adapts("B3", "T1")
def test_a_kernel_package_is_installed_by_a_recipe_and_its_initramfs_left_for_later(root: Path) -> None:
    """The core of a restore onto dissimilar hardware, with Debian's own package in Debian's own tree."""
    deb = kernel_package("cloud-amd64")
    name, version, _ = deb.name.split("_")
    release = name.removeprefix("linux-image-")
    recipe = BoundRecipe(
        id="kernel.test", title="", tier="must", phase="install", why="", items=(),
        operations=(Install(component=name, version=version),),
        checks=(Check(kind="kernel-installed", release=release), Check(kind="package-installed", text=name)),
    )  # fmt: skip
    sandbox = Sandbox(root)
    result = apply_recipe(root, recipe, UNDO, sandbox, {f"{name}={version}": (deb,)})
    assert result.result == "done"
    assert {f"/boot/vmlinuz-{release}", "/var/lib/dpkg/status"} <= set(result.changed)
    assert not (root / f"boot/initrd.img-{release}").exists(), "the initramfs is deferred"
    assert not (root / "usr/sbin/policy-rc.d").exists()
    assert apply_recipe(root, recipe, UNDO, sandbox, {f"{name}={version}": (deb,)}).changed == (), "installed once"

    (root / "etc/initramfs-tools/conf.d/fast").write_text("COMPRESS=zstd\nCOMPRESSLEVEL=1\n")
    sandbox.run(["update-initramfs", "-c", "-k", release])
    paths = list_initramfs((root / f"boot/initrd.img-{release}").read_bytes())
    assert "virtio_blk" in modules_in(paths)
    assert "init" in paths
    made_in_bulk(root, sandbox, release, paths)

    removal = BoundRecipe(
        id="kernel.test", title="", tier="must", phase="install", why="", items=(),
        operations=(RemovePackage(package=name),), checks=(Check(kind="package-absent", text=name),),
    )  # fmt: skip
    gone = apply_recipe(root, removal, UNDO, sandbox).changed
    assert {f"/boot/vmlinuz-{release}", f"/boot/initrd.img-{release}"} <= set(gone)
    assert package_state(InsideRoot(root), name) == ""
