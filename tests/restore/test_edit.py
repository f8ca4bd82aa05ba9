"""Editing an image: a new one of the changes only, or none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from agent.image import flags
from agent.process import run
from tests.commands.program import FROM_SOURCE, Regraft
from tests.foreign.foreign_disk import system_files, tree_of
from tests.image.source_tree import set_flags

pytestmark = pytest.mark.root
RECIPE = """\
id    = "site.motd"
title = "Say whose machine this is"
tier  = "must"
phase = "site"
why   = "People log in."

[when]
all = [ { image = { path = "/etc/hostname" } } ]

[[do]]
write = { path = "/etc/motd", whole = true, lines = ["property of the lab"] }
[[check]]
grep = { path = "/etc/motd", text = "property of the lab" }

[[test]]
tree = { "/etc/hostname" = "x\\n" }
expect = { "/etc/motd" = "property of the lab\\n" }
"""


@pytest.fixture
def regraft(tmp_path: Path) -> Regraft:
    """The program, and a depot with the image ``box``."""
    program = Regraft(FROM_SOURCE, tmp_path / "home", environment={"REGRAFT_DEPOT": str(tmp_path / "depot")})
    program("depot", "init", tmp_path / "depot")
    tree = tmp_path / "tree"
    system_files(tree)
    (tree / "etc/locked").write_text("immutable")
    set_flags(tree / "etc/locked", flags.IMMUTABLE)
    for folder in ("dev", "proc", "sys", "run", "tmp"):
        (tree / folder).mkdir()
    (tree / "usr/bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (tree / "usr/bin/busybox").chmod(0o755)
    for name in ("sh", "env", "cp"):
        (tree / "usr/bin" / name).symlink_to("busybox")
    try:
        program("capture", "--root", tree, "--name", "box")
    finally:
        set_flags(tree / "etc/locked", 0)
    return program


def edited(regraft: Regraft, *words: str) -> Any:
    """What ``regraft edit box`` says to programs; ``words`` end with the command."""
    return json.loads(regraft("edit", "box", "--json", *words).stdout)


def images(regraft: Regraft) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = regraft.json("images")
    return found


def left_behind(tmp_path: Path) -> list[str]:
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(tmp_path) in line]
    return [*mounts, *map(str, (tmp_path / "work").iterdir())]


def test_changes_become_a_new_image_of_the_same_machine(regraft: Regraft, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    command = "echo hello > etc/motd && rm usr/large && chown 7:8 etc/hostname && mkdir srv && echo x > srv/page"
    said = regraft("edit", "box", "--work", tmp_path / "work", "--", "sh", "-ec", command).stdout
    for line in ("  + /etc/motd", "  - /usr/large", "  ~ /etc/hostname", "  + /srv"):
        assert line in said.splitlines()
    old, new = images(regraft)
    assert (new["machine"], new["fingerprint"], new["hostname"]) == ("box", old["fingerprint"], "web-1")
    assert new["profile_time"] > old["profile_time"]
    regraft("extract", f"box@{new['time']}", "--to", tmp_path / "new")
    regraft("extract", f"box@{old['time']}", "--to", tmp_path / "old")
    before, after = tree_of(tmp_path / "old"), tree_of(tmp_path / "new")
    assert before.keys() - after.keys() == {b"usr/large"}
    assert after.keys() - before.keys() == {b"etc/motd", b"srv", b"srv/page", b"srv/."} & after.keys()
    unchanged = before.keys() & after.keys() - {b".", b"etc", b"usr", b"etc/.", b"usr/.", b"etc/hostname"}
    assert all(before[name] == after[name] for name in unchanged) and len(unchanged) > 15
    assert (tmp_path / "new/etc/hostname").stat().st_uid == 7
    assert not left_behind(tmp_path)
    for place in ("old", "new"):
        set_flags(tmp_path / place / "etc/locked", 0)


def test_only_what_changed_is_stored(regraft: Regraft) -> None:
    done = edited(regraft, "--", "sh", "-c", "head -c 50000 /dev/urandom > etc/new; echo to the person")
    assert done["changes"] == {"/etc/new": "+"}
    assert 50_000 < done["result"]["stored_bytes"] < 120_000, "3 MB of other content is not stored again"


@pytest.mark.parametrize("command", [["true"], ["sh", "-c", "echo > etc/new; exit 3"], ["no-such-program"]])
def test_nothing_changed_or_nothing_done_publishes_nothing(
    regraft: Regraft, command: list[str], tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    code = {"true": 0, "sh": 12}.get(command[0], 1)
    done = regraft("edit", "box", "--work", tmp_path / "work", "--", *command, code=code)
    assert "nothing was published" in done.stdout + done.stderr or code == 1
    assert len(images(regraft)) == 1
    assert not left_behind(tmp_path)


def test_a_program_of_the_image_sees_the_image_only(regraft: Regraft, tmp_path: Path) -> None:
    script = 'cp /etc/hostname /etc/copy; test ! -e /work && test ! -e /home/../depot && test -z "$REGRAFT_DEPOT"'
    done = edited(regraft, "--chroot", "--", "/usr/bin/sh", "-ec", script)
    assert done["changes"] == {"/etc/copy": "+"}
    regraft("extract", "box", "/etc/copy", "--to", tmp_path / "out")
    assert (tmp_path / "out/etc/copy").read_text() == "web-1\n"


def test_the_system_is_described_anew(regraft: Regraft, tmp_path: Path) -> None:
    regraft("edit", "box", "--", "sh", "-c", "echo renamed > etc/hostname")
    assert images(regraft)[-1]["hostname"] == "renamed"
    (_, newest) = sorted((tmp_path / "depot/machines/box/profiles").glob("*.xml"))
    assert 'hostname="renamed"' in newest.read_text() or "renamed" in newest.read_text()


def test_a_recipe_is_applied(regraft: Regraft, tmp_path: Path) -> None:
    recipe = tmp_path / "motd.toml"
    recipe.write_text(RECIPE)
    said = regraft("image", "apply-recipe", "box", recipe).stdout
    assert "  ok grep /etc/motd property of the lab" in said and "  + /etc/motd" in said
    again = regraft("image", "apply-recipe", "box", recipe).stdout
    assert "nothing changed in box@" in again
    assert len(images(regraft)) == 2
    recipe.write_text(RECIPE.replace("/etc/hostname", "/etc/absent"))
    told = regraft.refused("image", "apply-recipe", "box", recipe, code=12, name="refused")
    assert "does not apply" in told
    recipe.write_text(RECIPE.replace('text = "property', 'text = "something else'))
    regraft("image", "apply-recipe", "box", recipe, code=32)
    assert len(images(regraft)) == 2


def test_who_may_not_edit(regraft: Regraft) -> None:
    words = ("unshare", "--user", "--map-user=1000")
    plain = Regraft(regraft.program, regraft.home, words, regraft.environment)
    assert os.geteuid() == 0 and run([*words, "id", "-u"]).stdout.strip() == "1000"
    assert "needs root" in plain("edit", "box", "--", "true", code=12).stderr
