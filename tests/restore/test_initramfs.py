"""The rebuilt initramfs is looked into: that its tool ended well proves nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from agent.errors import PatchError
from agent.model.plan import RebuildInitramfs
from agent.process import Completed
from agent.restore import initramfs
from tests.restore.test_verify import cpio

RELEASE = "6.1.0-1-amd64"
INITRD = f"boot/initrd.img-{RELEASE}"
MODULE = f"usr/lib/modules/{RELEASE}/kernel/drivers/nvme/host/nvme.ko.zst"


class Sandbox:
    """Instead of update-initramfs: leaves ``made`` behind."""

    def __init__(self, root: Path, made: bytes | None, name: str = INITRD) -> None:
        self.root, self.made, self.name = root, made, name
        self.ran: list[list[str]] = []

    def run(self, argv: Sequence[str], **_: Any) -> Completed:
        self.ran.append(list(argv))
        if self.made is not None:
            (self.root / self.name).write_bytes(self.made)
        return Completed(0, "", "")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    modules = tmp_path / f"lib/modules/{RELEASE}"
    modules.mkdir(parents=True)
    (modules / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    (tmp_path / "boot").mkdir()
    return tmp_path


def step(*modules: str, tool: str = "initramfs-tools") -> RebuildInitramfs:
    return RebuildInitramfs(release=RELEASE, tool=tool, modules=modules)


@pytest.mark.adapts("B1", "T2")
def test_it_holds_what_was_wanted_and_the_old_one_is_kept(root: Path) -> None:
    (root / INITRD).write_bytes(cpio("old"))
    sandbox = Sandbox(root, cpio("init", MODULE))
    for _ in range(2):
        changed = initramfs.rebuild(root, sandbox, step("nvme", "ext4"))  # type: ignore[arg-type]
        assert f"/{INITRD}" in changed
    assert sandbox.ran[0] == ["update-initramfs", "-u", "-k", RELEASE]
    kept = root / f"var/lib/regraft/undo/{INITRD}"
    assert kept.read_bytes() == cpio("old"), "the first one wins"


@pytest.mark.adapts("B1", "T2")
def test_a_missing_module_is_an_error(root: Path) -> None:
    with pytest.raises(PatchError, match="lacks ahci, sd_mod"):
        initramfs.rebuild(root, Sandbox(root, cpio("init", MODULE)), step("nvme", "ahci", "sd_mod"))  # type: ignore[arg-type]


@pytest.mark.parametrize("made", [None, b"", b"not an archive", cpio("init")[:-100]])
def test_nothing_or_a_broken_one_is_an_error(root: Path, made: bytes | None) -> None:
    with pytest.raises(PatchError):
        initramfs.rebuild(root, Sandbox(root, made), step())  # type: ignore[arg-type]


def test_a_kernel_that_had_none_gets_one(root: Path) -> None:
    sandbox = Sandbox(root, cpio("init"))
    initramfs.rebuild(root, sandbox, step())  # type: ignore[arg-type]
    assert sandbox.ran == [["update-initramfs", "-c", "-k", RELEASE]]


@pytest.mark.adapts("B2", "T1")
def test_dracut_is_told_to_build_for_any_host(root: Path) -> None:
    name = f"boot/initramfs-{RELEASE}.img"
    sandbox = Sandbox(root, cpio("init", MODULE), name)
    initramfs.rebuild(root, sandbox, step("nvme", tool="dracut"))  # type: ignore[arg-type]
    assert sandbox.ran == [["dracut", "--force", "--no-hostonly", "--add-drivers", "nvme", f"/{name}", RELEASE]]


@pytest.mark.adapts("B11", "T1")
@pytest.mark.adapts("N1", "T1")
def test_dracut_is_given_what_it_keeps_for_host_only_ones(root: Path) -> None:
    rules, crypttab = "/etc/udev/rules.d/70-persistent-net.rules", "/etc/crypttab"
    name = f"boot/initramfs-{RELEASE}.img"
    asked = structs.replace(step(tool="dracut"), files=(rules, crypttab, "/etc/none"))
    for path in (rules, crypttab):
        (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        (root / path[1:]).write_text("x\n")
    sandbox = Sandbox(root, cpio("init"), name)
    initramfs.rebuild(root, sandbox, asked)  # type: ignore[arg-type]
    assert sandbox.ran == [
        ["dracut", "--force", "--no-hostonly", "--install", f"{rules} {crypttab}", f"/{name}", RELEASE]
    ]


def test_an_unknown_tool_is_refused(root: Path) -> None:
    with pytest.raises(PatchError, match="‘mkinitcpio’ is not known"):
        initramfs.rebuild(root, Sandbox(root, None), step(tool="mkinitcpio"))  # type: ignore[arg-type]
