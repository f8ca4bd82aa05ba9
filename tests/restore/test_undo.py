"""``regraft undo``: what recipes changed is listed, and put back, all of it or one recipe's."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.cli import cli
from agent.errors import RegraftError
from agent.model.recipe import BoundRecipe, DisableUnit, DropFrom, MaskUnit, Move, MoveAside, Rename, Replace, Write
from agent.restore.inside import InsideRoot
from agent.restore.journal import set_aside
from agent.restore.patch import UNDO, apply_recipe
from agent.restore.sandbox import Sandbox

FILES = {
    "etc/fstab": "/dev/vda1 / ext4 defaults 0 1\n",
    "etc/default/grub": 'GRUB_CMDLINE_LINUX="console=hvc0 quiet"\n',
    "etc/ssh/key": "secret",
    "etc/lvm/devices": "VERSION=1\n",
    "usr/lib/systemd/system/vmtoolsd.service": "[Unit]\n",
}


def recipe(name: str, *operations: object) -> BoundRecipe:
    return BoundRecipe(
        id=name, title=f"does {name}", tier="should", phase="site", why="", items=(), operations=operations, checks=()  # type: ignore[arg-type]
    )  # fmt: skip


MOUNTS = recipe("storage.mounts", Replace(path="/etc/fstab", pattern="^/dev/vda1", text="UUID=1"))
TOOLS = recipe(
    "guest.tools",
    MaskUnit(unit="vmtoolsd.service"),
    DisableUnit(unit="vmtoolsd.service"),
    DropFrom(path="/etc/default/grub", key="GRUB_CMDLINE_LINUX", word="console=hvc0"),
    MoveAside(path="/etc/lvm/devices"),
    Write(path="/etc/made", lines=("x",)),
)
KEYS = recipe("identity.keys", MoveAside(path="/etc/ssh/key", keep=False))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path, text in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "etc/fstab").chmod(0o640)
    (tmp_path / "etc/lvm/devices").chmod(0o600)
    wants = tmp_path / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "vmtoolsd.service").symlink_to("/usr/lib/systemd/system/vmtoolsd.service")
    return tmp_path


def state(root: Path) -> dict[str, tuple[str, int]]:
    """Every file and link below, but for what the undo folder holds: content and mode."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            inside = str(path.relative_to(root))
            if not inside.startswith("var/lib/regraft"):
                content = f"-> {path.readlink()}" if path.is_symlink() else path.read_text()
                found[inside] = (content, path.lstat().st_mode)
    return found


@pytest.fixture
def undo(root: Path) -> Callable[..., Result]:
    return lambda *words: CliRunner().invoke(cli, ["undo", "--root", str(root), *words])


def adapt(root: Path, *recipes: BoundRecipe) -> None:
    for one in recipes:
        apply_recipe(root, one, UNDO, Sandbox(root))


def test_everything_comes_back_as_it_was(root: Path, undo: Callable[..., Result]) -> None:
    before = state(root)
    adapt(root, MOUNTS, TOOLS)
    assert state(root) != before
    result = undo("--all")
    assert result.exit_code == 0, result.output
    assert state(root) == before
    assert undo().output.startswith("‘regraft undo RECIPE’"), "nothing is left to undo"


@pytest.mark.parametrize("older", [False, True])
def test_files_with_other_names_get_their_own_back(root: Path, undo: Callable[..., Result], older: bool) -> None:
    entries = root / "boot/loader/entries"
    entries.mkdir(parents=True)
    for name in ("0a-5.14.conf", "0a-6.1.conf", "ff-6.1.conf", "rescue.conf"):
        (entries / name).write_text(f"title {name}\n")
    before = state(root)
    verb = Rename if older else Move
    adapt(root, recipe("identity.entries", verb(path="/boot/loader/entries/*.conf", old="0a-", new="ff-"),
                       Move(path="/etc/lvm/devices", to="/etc/lvm/more/devices")))  # fmt: skip
    assert sorted(path.name for path in entries.iterdir()) == [
        "0a-6.1.conf", "ff-5.14.conf", "ff-6.1.conf", "rescue.conf",
    ], "what has the name already is not overwritten"  # fmt: skip
    assert (entries / "ff-6.1.conf").read_text() == "title ff-6.1.conf\n"
    result = undo("--all")
    assert result.exit_code == 0 and "put back /boot/loader/entries/ff-5.14.conf" in result.output, result.output
    assert state(root) == before


@pytest.mark.parametrize("target", ["../efi/EFI/redhat/grubenv", "/boot/efi/EFI/redhat/grubenv"])
def test_what_a_link_leads_to_comes_back_and_the_link_stays(
    root: Path, undo: Callable[..., Result], target: str
) -> None:
    """RHEL 8 on UEFI keeps GRUB's environment so; another recipe knows the file by its own name."""
    block = root / "boot/efi/EFI/redhat/grubenv"
    link = root / "boot/grub2/grubenv"
    for path in (block, link):
        path.parent.mkdir(parents=True)
    block.write_text("# GRUB Environment Block\nkernelopts=root=/dev/sda1 ro\n".ljust(1024, "#"))
    link.symlink_to(target)
    before = state(root)
    edit = {"key": "kernelopts", "word": "root=*"}
    adapt(root, recipe("by.link", DropFrom(path="/boot/grub2/grubenv", **edit)),
          recipe("by.name", Replace(path="/boot/efi/EFI/redhat/grubenv", pattern="ro$", text="rw")))  # fmt: skip
    assert "kernelopts=rw\n" in block.read_text() and link.is_symlink()
    assert undo("by.link").exit_code != 0, "both changed the one file"
    result = undo("--all")
    assert result.exit_code == 0 and "put back /boot/efi/EFI/redhat/grubenv" in result.output, result.output
    assert state(root) == before


def test_one_recipe_is_undone_alone(root: Path, undo: Callable[..., Result]) -> None:
    adapt(root, MOUNTS, TOOLS)
    result = undo("guest.tools")
    assert result.exit_code == 0 and "put back /etc/default/grub\n" in result.output
    assert "console=hvc0" in (root / "etc/default/grub").read_text()
    assert not (root / "etc/systemd/system/vmtoolsd.service").is_symlink()
    assert (root / "etc/fstab").read_text().startswith("UUID=1"), "the other recipe's work stays"
    assert "storage.mounts" in undo().output and "guest.tools" not in undo().output


def test_the_list_says_what_was_done_and_what_cannot_come_back(root: Path, undo: Callable[..., Result]) -> None:
    adapt(root, TOOLS, KEYS)
    lines = undo().output.splitlines()
    assert "guest.tools: does guest.tools" in lines
    for line in ("made    /etc/made", "removed /etc/lvm/devices", "changed /etc/default/grub"):
        assert f"  {line}" in lines
    assert "  /etc/ssh/key was not kept, because it is a secret: it stays gone" in lines
    listed = json.loads(undo("--json").output)
    assert {"recipe": "identity.keys", "title": "does identity.keys", "kind": "note", "did": "removed-secret",
            "text": "/etc/ssh/key"} in listed  # fmt: skip


def test_applied_again_the_journal_does_not_grow(root: Path, undo: Callable[..., Result]) -> None:
    before = state(root)
    adapt(root, TOOLS)
    journal = (root / "var/lib/regraft/undo.jsonl").read_bytes()
    adapt(root, TOOLS)
    assert (root / "var/lib/regraft/undo.jsonl").read_bytes() == journal
    assert undo("--all").exit_code == 0 and state(root) == before


def refused(result: Result) -> RegraftError:
    assert isinstance(result.exception, RegraftError), result.output
    return result.exception


def test_what_was_changed_since_is_left_alone(root: Path, undo: Callable[..., Result]) -> None:
    adapt(root, MOUNTS)
    (root / "etc/fstab").write_text("my own\n")
    assert "changed since the restore: /etc/fstab" in refused(undo("--all")).message
    assert (root / "etc/fstab").read_text() == "my own\n"
    assert undo("--all", "--force").exit_code == 0
    assert (root / "etc/fstab").read_text() == FILES["etc/fstab"]


def test_recipes_that_changed_one_file_are_undone_together(root: Path, undo: Callable[..., Result]) -> None:
    more = recipe("storage.more", Write(path="/etc/fstab", lines=("tmpfs /tmp tmpfs",)))
    adapt(root, MOUNTS, more)
    error = refused(undo("storage.mounts"))
    assert "/etc/fstab was changed by storage.more too" in error.message
    assert error.hint == "undo storage.more and storage.mounts together"
    assert undo("storage.mounts", "storage.more").exit_code == 0
    assert (root / "etc/fstab").read_text() == FILES["etc/fstab"]


def test_what_is_wrong_is_said(root: Path, undo: Callable[..., Result]) -> None:
    assert "no recipe changed this system" in refused(undo()).message
    adapt(root, MOUNTS)
    assert "recipe net.x changed nothing here" in refused(undo("net.x")).message
    (root / "var/lib/regraft/undo/etc/fstab").unlink()
    assert "no original of /etc/fstab" in refused(undo("--all")).message
    (root / "var/lib/regraft/undo.jsonl").write_text("{\n")
    assert "line 1 cannot be read" in refused(undo()).message


def test_what_the_image_brought_of_an_earlier_restore_is_set_aside(root: Path, undo: Callable[..., Result]) -> None:
    """Restored, edited, captured and restored once more: undone, it is as that image was, not as the first one."""
    adapt(root, MOUNTS)
    fstab = root / "etc/fstab"
    fstab.write_text(fstab.read_text() + "UUID=2 /srv ext4 defaults 0 2\n")
    before = state(root)
    changed = set_aside(InsideRoot(root), str(UNDO))
    assert {"/var/lib/regraft/undo/etc/fstab", "/var/lib/regraft/undo.1/etc/fstab", "/var/lib/regraft/undo.jsonl",
            "/var/lib/regraft/undo.jsonl.1", "/var/lib/regraft"} <= set(changed)  # fmt: skip
    adapt(root, recipe("storage.mounts", Replace(path="/etc/fstab", pattern="^UUID=1", text="UUID=7")))
    assert undo("--all").exit_code == 0
    assert state(root) == before
    assert (root / "var/lib/regraft/undo.1/etc/fstab").read_text() == FILES["etc/fstab"], "nothing is lost"
    adapt(root, MOUNTS)
    assert "/var/lib/regraft/undo.jsonl.2" in set_aside(InsideRoot(root), str(UNDO))
    assert set_aside(InsideRoot(root), str(UNDO)) == ()


def test_an_undo_that_was_cut_goes_on(root: Path, undo: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    before = state(root)
    adapt(root, MOUNTS, TOOLS)
    write = InsideRoot.write

    def failing(self: InsideRoot, path: str, data: bytes, mode: int = 0o644) -> None:
        if path == "/etc/default/grub":
            raise OSError(errno.EROFS, "Read-only file system")
        write(self, path, data, mode)

    with monkeypatch.context() as patched:
        patched.setattr(InsideRoot, "write", failing)
        assert undo("--all").exit_code != 0
    result = undo("--all")
    assert result.exit_code == 0, result.output
    assert state(root) == before
    assert not [path for path in (root / "var/lib/regraft/undo").rglob("*") if not path.is_dir()]
