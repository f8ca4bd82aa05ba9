"""Recipes on a directory: edits, originals, links of the image that try to lead out, checks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.errors import PatchError
from agent.model.recipe import (
    AddTo,
    BoundRecipe,
    Check,
    EditNetwork,
    EnableUnit,
    Install,
    MaskUnit,
    Move,
    MoveAside,
    Replace,
    Request,
    Truncate,
    Write,
)
from agent.model.report import RecipeResult
from agent.restore.changes import ChangeWatch
from agent.restore.inside import InsideRoot
from agent.restore.patch import UNDO, apply_recipe, requested
from agent.restore.sandbox import Sandbox


def recipe(*operations: object, checks: tuple[Check, ...] = (), tier: str = "must") -> BoundRecipe:
    return BoundRecipe(
        id="test.recipe", title="test", tier=tier, phase="site", why="", items=(),
        operations=operations, checks=checks,  # type: ignore[arg-type]
    )  # fmt: skip


def apply(root: Path, *operations: object, checks: tuple[Check, ...] = (), tier: str = "must") -> RecipeResult:
    return apply_recipe(root, recipe(*operations, checks=checks, tier=tier), UNDO, Sandbox(root))


def test_an_edit_keeps_the_original_and_its_mode_and_says_what_changed(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    fstab = tmp_path / "etc/fstab"
    fstab.write_text("/dev/vda1 / ext4 defaults 0 1\n")
    fstab.chmod(0o600)
    result = apply(tmp_path, Replace(path="/etc/fstab", pattern="^/dev/vda1", text="UUID=1"))
    assert fstab.read_text() == "UUID=1 / ext4 defaults 0 1\n"
    assert fstab.stat().st_mode & 0o777 == 0o600
    kept = tmp_path / "var/lib/regraft/undo/etc/fstab"
    assert kept.read_text().startswith("/dev/vda1") and kept.stat().st_mode & 0o777 == 0o600
    assert result.result == "done"
    assert {"/etc/fstab", "/var/lib/regraft/undo/etc/fstab", "/var"} <= set(result.changed)


def test_applied_again_it_changes_nothing_and_the_first_original_stays(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hostname").write_text("old\n")
    write = Write(path="/etc/hostname", lines=("new",), whole=True)
    apply(tmp_path, write)
    assert apply(tmp_path, write).changed == ()
    apply(tmp_path, Write(path="/etc/hostname", lines=("newer",), whole=True))
    assert (tmp_path / "var/lib/regraft/undo/etc/hostname").read_text() == "old\n"


@pytest.mark.parametrize("target", ["/outside/victim", "../../../../../../../../outside/victim"])
def test_no_link_of_the_image_leads_out(tmp_path: Path, target: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "etc").mkdir(parents=True)
    outside.mkdir()
    (outside / "victim").write_text("precious\n")
    absolute = target if target.startswith("..") else str(outside / "victim")
    (root / "etc/file").symlink_to(absolute)
    (root / "etc/dir").symlink_to(outside)
    for path in ("/etc/file", "/etc/dir/victim", "/../../outside/victim"):
        with pytest.raises((PatchError, OSError)):
            apply(root, Write(path=path, lines=("x",), whole=True))
            raise PatchError("written inside, which is as good")
        apply(root, Truncate(path=path), MoveAside(path=path))
    assert (outside / "victim").read_text() == "precious\n"
    assert [entry.name for entry in outside.iterdir()] == ["victim"]


def test_an_absolute_link_is_followed_inside_the_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "usr").mkdir()
    (tmp_path / "usr/real").write_text("a\n")
    (tmp_path / "etc/link").symlink_to("/usr/real")
    result = apply(tmp_path, Write(path="/etc/link", lines=("b",)))
    assert (tmp_path / "usr/real").read_text() == "a\nb\n"
    assert (tmp_path / "var/lib/regraft/undo/usr/real").read_text() == "a\n" and "/usr/real" in result.changed
    assert (tmp_path / "etc/link").is_symlink()


def test_units_are_enabled_and_masked_by_links(tmp_path: Path) -> None:
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    (units / "a.service").write_text("[Unit]\n")
    checks = (Check(kind="unit-on", text="a.service"), Check(kind="unit-off", text="b.service"))
    apply(tmp_path, EnableUnit(unit="a.service"), MaskUnit(unit="b.service"), checks=checks)
    assert (units / "multi-user.target.wants/a.service").readlink() == Path("/etc/systemd/system/a.service")
    assert (units / "b.service").readlink() == Path("/dev/null")
    with pytest.raises(PatchError, match=r"unit c.service is not in"):
        apply(tmp_path, EnableUnit(unit="c.service"))


def test_secrets_are_not_kept_in_the_undo_folder(tmp_path: Path) -> None:
    for name in ("key", "config"):
        (tmp_path / name).write_text("x")
    result = apply(tmp_path, MoveAside(path="/key", keep=False), MoveAside(path="/config"))
    assert not (tmp_path / "key").exists() and not (tmp_path / "config").exists()
    assert [path.name for path in (tmp_path / "var/lib/regraft/undo").iterdir()] == ["config"]
    assert "/key" in result.changed


def test_a_failed_check_stops_a_must_recipe_and_warns_of_a_lesser_one(tmp_path: Path) -> None:
    check = Check(kind="grep", path="/etc/x", text="y")
    with pytest.raises(PatchError, match=r"test.recipe: .*grep /etc/x y"):
        apply(tmp_path, checks=(check,))
    assert apply(tmp_path, checks=(check,), tier="should").result == "warned"


def test_a_word_that_grubs_environment_has_no_room_for_stops_a_must_recipe(tmp_path: Path) -> None:
    file = tmp_path / "boot/grub2/grubenv"
    file.parent.mkdir(parents=True)
    full = "# GRUB Environment Block\nkernelopts=".ljust(1023, "x") + "\n"
    file.write_text(full)
    add = AddTo(path="/boot/grub2/grubenv", key="kernelopts", word="root=UUID=1")
    with pytest.raises(PatchError, match=r"test.recipe: GRUB's environment block has 1,024 bytes"):
        apply(tmp_path, add)
    result = apply(tmp_path, add, tier="should")
    assert (result.result, file.read_text()) == ("warned", full)


def test_a_component_that_was_not_fetched_is_named(tmp_path: Path) -> None:
    with pytest.raises(PatchError, match=r"linux-image-1 6\.1 is not on this machine"):
        apply(tmp_path, Install(component="linux-image-1", version="6.1"))


def test_requests_of_all_recipes_are_joined() -> None:
    first = recipe(Request(what="initramfs", modules=("nvme",)))
    second = recipe(Request(what="initramfs"), Request(what="bootloader"))
    assert requested([first, second]) == {"initramfs": ("nvme",), "bootloader": ()}


def test_the_watch_names_what_was_made_changed_and_removed(tmp_path: Path) -> None:
    for name in ("same", "changed", "gone", "tree/deep/file"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    watch = ChangeWatch(tmp_path)
    (tmp_path / "changed").write_text("y")
    (tmp_path / "new").write_text("z")
    (tmp_path / "gone").unlink()
    (tmp_path / "tree/deep/file").unlink()
    (tmp_path / "tree/deep").rmdir()
    assert watch.changed() == ("/", "/changed", "/gone", "/new", "/tree", "/tree/deep", "/tree/deep/file")


def test_large_and_odd_files_are_not_edited(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    with pytest.raises(PatchError, match="not a regular file"):
        InsideRoot(tmp_path).read("/dir")


def test_a_file_moves_with_its_mode_once_and_never_over_another(tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "ifcfg-eth0").write_text("KEY=secret\n")
    (folder / "ifcfg-eth0").chmod(0o600)
    os.chown(folder / "ifcfg-eth0", 7, 8)
    (folder / "ifcfg-eth1").write_text("one\n")
    move = Move(path="/etc/ifcfg-eth0", to="/etc/ifcfg-rg-eth0")
    result = apply(tmp_path, move, Move(path="/etc/ifcfg-eth1", to="/etc/ifcfg-rg-eth0"))
    moved = folder / "ifcfg-rg-eth0"
    assert moved.read_text() == "KEY=secret\n" and moved.stat().st_mode & 0o777 == 0o600
    assert (moved.stat().st_uid, moved.stat().st_gid) == (7, 8)
    assert not (folder / "ifcfg-eth0").exists() and (folder / "ifcfg-eth1").exists()
    kept = tmp_path / "var/lib/regraft/undo/etc/ifcfg-eth0"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert {"/etc/ifcfg-eth0", "/etc/ifcfg-rg-eth0"} <= set(result.changed)
    assert apply(tmp_path, move).changed == ()


@pytest.mark.adapts("N4", "T1")
def test_a_keyfile_stays_readable_by_root_alone(tmp_path: Path) -> None:
    """NetworkManager ignores a profile that others may read."""
    path = "/etc/NetworkManager/system-connections/lan.nmconnection"
    file = tmp_path / path.lstrip("/")
    file.parent.mkdir(parents=True)
    file.write_text("[ethernet]\nmac-address=52:54:00:AA:00:01\n")
    file.chmod(0o600)
    apply(tmp_path, EditNetwork(action="rebind", path=path, name="52:54:00:aa:00:01", value="52:54:00:bb:00:01"))
    assert file.read_text() == "[ethernet]\nmac-address=52:54:00:bb:00:01\n"
    assert file.stat().st_mode & 0o777 == 0o600
