"""A depot's life on the command line: made, filled, listed, read back."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from agent.cli import COMMANDS
from agent.depot.signing import PREFIX
from agent.model.profile_xml import load_profile
from agent.process import run
from agent.version import VERSION
from tests.commands.program import Regraft
from tests.image.source_tree import describe, random_bytes


def test_it_tells_its_commands_and_its_version(regraft: Regraft) -> None:
    told = regraft("--help").stdout
    assert all(re.search(rf"^  {name} ", told, re.MULTILINE) for name in COMMANDS)
    assert regraft("-h").stdout == told
    assert regraft("--version").stdout.split()[-1] == VERSION


@pytest.mark.parametrize(
    "name", [*COMMANDS, "component add", "component list", "depot init", "depot reindex", "recipe test"]
)
def test_every_command_has_help(regraft: Regraft, name: str) -> None:
    told = regraft(*name.split(), "--help")
    assert told.stdout.startswith(f"Usage: regraft {name} ") and not told.stderr


def test_a_depot_is_made_with_a_key_that_is_not_in_it(regraft: Regraft, tmp_path: Path) -> None:
    told = regraft("depot", "init", tmp_path / "depot").stdout
    assert PREFIX in told
    (key,) = regraft.home.rglob("signing.key")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert not list((tmp_path / "depot").rglob("*.key"))
    assert regraft("images", "--depot", tmp_path / "depot").stdout.startswith("no images yet")
    assert regraft.json("images", "--depot", tmp_path / "depot") == []
    again = regraft.refused("depot", "init", tmp_path / "depot", code=2, name="usage")
    assert "already a depot" in again


def test_what_was_captured_comes_back(regraft: Regraft, depot: Path, tree: Path, tmp_path: Path) -> None:
    told = regraft("capture", "--root", tree, "--depot", depot).stdout
    assert re.search(r"^captured web-1@\d{8}T\d{6}Z$", told, re.MULTILINE)
    regraft("extract", "web-1", "--to", tmp_path / "target", "--depot", depot)
    assert describe(tmp_path / "target") == describe(tree)


@pytest.mark.root
def test_what_only_root_can_make_comes_back(regraft: Regraft, depot: Path, tree: Path, tmp_path: Path) -> None:
    os.mknod(tree / "null", 0o020666, os.makedev(1, 3))
    os.chown(tree / "shared", 1000, 1001)
    os.chown(tree / "bin", 7, 8, follow_symlinks=False)
    os.setxattr(tree / "etc/empty", "trusted.note", b"\x00\xff")
    regraft("capture", "--root", tree, "--depot", depot)
    regraft("extract", "web-1", "--to", tmp_path / "target", "--depot", depot)
    assert describe(tmp_path / "target") == describe(tree)


def test_single_files_are_taken_out(regraft: Regraft, captured: Path, tree: Path, tmp_path: Path) -> None:
    words = ("extract", "web-1", "/etc/hostname", "/shared", "--to", tmp_path / "some", "--depot", captured)
    assert regraft.json(*words)["warnings"] == []
    found = {str(path.relative_to(tmp_path / "some")) for path in (tmp_path / "some").rglob("*")}
    assert found == {"etc", "etc/hostname", "shared"}
    assert (tmp_path / "some/etc/hostname").stat().st_mtime_ns == (tree / "etc/hostname").stat().st_mtime_ns


def test_images_and_show_say_the_same_to_people_and_programs(regraft: Regraft, captured: Path) -> None:
    (image,) = regraft.json("images", "--depot", captured)
    name = f"{image['machine']}@{image['time']}"
    assert name in regraft("images", REGRAFT_DEPOT=str(captured)).stdout
    shown = regraft.json("show", "web-1", "--depot", captured)
    assert shown == regraft.json("show", name, "--depot", captured)
    (volume,) = shown["volumes"]
    assert volume["content_bytes"] == image["content_bytes"] > 3_000_000
    lines = regraft("show", "web-1", "--depot", captured).stdout
    assert name in lines and f"{volume['entries']:,} entries, {volume['content_bytes']:,} bytes" in lines


def test_the_second_image_of_a_machine_stores_what_is_new(regraft: Regraft, depot: Path, tree: Path) -> None:
    first = regraft.json("capture", "--root", tree, "--depot", depot)
    (tree / "etc/new").write_bytes(random_bytes(50_000))
    second = regraft.json("capture", "--root", tree, "--depot", depot)
    assert first["stored_bytes"] > 3_000_000
    assert 50_000 <= second["stored_bytes"] < 60_000
    assert second["entries"] == first["entries"] + 1
    assert len(regraft.json("images", "--depot", depot)) == 2
    newest = regraft.json("show", "web-1", "--depot", depot)
    assert newest["time"] == second["ref"]["time"] > first["ref"]["time"]


def test_a_tree_is_described(regraft: Regraft, tree: Path, tmp_path: Path) -> None:
    regraft("profile", "--root", tree, "-o", tmp_path / "profile.xml")
    profile = load_profile((tmp_path / "profile.xml").read_bytes())
    assert (profile.machine, profile.os.id, profile.os.version) == ("web-1", "debian", "12")
    printed = load_profile(regraft("profile", "--root", tree, "--name", "other").stdout.encode())
    assert printed.machine == "other" and printed.os == profile.os
    assert not profile.disks and not profile.network.nics  # of a tree, not of this machine


def test_a_component_is_added_and_listed(regraft: Regraft, depot: Path, tmp_path: Path) -> None:
    package = small_package(tmp_path)
    told = regraft("component", "add", package, "--depot", depot).stdout
    assert told == "regraft-fw 1.2-3: firmware, 0 modules, 0 modaliases, 1 firmware files\n"
    (listed,) = regraft.json("component", "list", "--depot", depot)
    assert (listed["id"], listed["version"], listed["firmware"]) == ("regraft-fw", "1.2-3", ["vendor/card.bin"])
    assert regraft("component", "list", "--depot", depot).stdout.splitlines()[2].split()[:3] == [
        "regraft-fw", "1.2-3", "firmware",
    ]  # fmt: skip
    (payload,) = listed["payload"]
    assert (depot / "components/regraft-fw/1.2-3" / payload["path"]).read_bytes() == package.read_bytes()


def test_what_is_no_package_is_refused(regraft: Regraft, depot: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.deb").write_bytes(b"!<arch>\nnot really")
    assert "bad.deb" in regraft.refused("component", "add", tmp_path / "bad.deb", "--depot", depot, code=22,
                                        name="damaged")  # fmt: skip
    (tmp_path / "some.rpm").write_bytes(b"")
    assert "some.rpm" in regraft.refused("component", "add", tmp_path / "some.rpm", "--depot", depot, code=22,
                                         name="damaged")  # fmt: skip
    assert regraft.json("component", "list", "--depot", depot) == []


def small_package(folder: Path) -> Path:
    """A .deb that holds one firmware file."""
    firmware = folder / "package/lib/firmware/vendor/card.bin"
    firmware.parent.mkdir(parents=True)
    firmware.write_bytes(b"firmware")
    control = folder / "package/DEBIAN/control"
    control.parent.mkdir()
    control.write_text(
        "Package: regraft-fw\nVersion: 1.2-3\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\n"
        "Description: firmware of a card\n"
    )
    run(["dpkg-deb", "--root-owner-group", "-b", folder / "package", folder / "regraft-fw_1.2-3_all.deb"])
    return folder / "regraft-fw_1.2-3_all.deb"


def test_the_shipped_recipes_pass_their_own_tests(regraft: Regraft) -> None:
    lines = regraft("recipe", "test").stdout.splitlines()
    results = [line for line in lines if not line.startswith(" ")]
    assert len(results) >= 10 and all(line.startswith("ok ") for line in results)


def test_a_recipe_that_is_not_one_is_named(regraft: Regraft, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/broken.toml").write_text('id = "site.broken"\nunheard = 1\n')
    done = regraft("recipe", "test", tmp_path / "site", code=2)
    assert "broken.toml" in done.stderr and "next: " in done.stderr
