"""An image becomes a disk in a file: the same layout and files, in any format, or nothing at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.process import run
from tests.commands.program import Regraft
from tests.foreign.foreign_disk import ROOT, SIZE_BYTES, SRV, SWAP, TABLE, MadeDisk, system_files
from tests.foreign.test_import import extracted, loops_of, of_root

pytestmark = pytest.mark.root
MACHINES = Path(__file__).resolve().parents[1] / "machines"


def table_of(file: Path) -> tuple[str, list[tuple[int, int, str, str, str]]]:
    table = json.loads(run(["sfdisk", "--json", file]).stdout)["partitiontable"]
    parts = [(p["start"], p["size"], p["type"], p["uuid"], p.get("name", "")) for p in table["partitions"]]
    return table["id"], parts


def test_as_it_was(regraft: Regraft, disk: MadeDisk, tmp_path: Path) -> None:
    regraft("import", disk.file, "--name", "box")
    said = regraft("export", "box", "--to", tmp_path / "out.raw").stdout
    assert "none: the target is like the source" in said and "exported box@" in said
    assert table_of(tmp_path / "out.raw") == table_of(disk.file)
    assert (tmp_path / "out.raw").stat().st_size == SIZE_BYTES
    assert (tmp_path / "out.raw").stat().st_blocks * 512 < SIZE_BYTES / 2, "it is sparse"
    assert (tmp_path / "out.raw").stat().st_mode & 0o777 == 0o600
    regraft("import", tmp_path / "out.raw", "--name", "again")
    volumes = regraft.json("show", "again")["volumes"]
    assert [volume["filesystem"]["uuid"] for volume in volumes] == [ROOT, SRV]
    assert of_root(extracted(regraft, "again", tmp_path / "tree")) == of_root(disk.trees["root"])
    assert regraft.json("show", "again")["disks"][0]["partitions"][3]["holds"]["uuid"] == SWAP
    assert table_of(tmp_path / "out.raw")[0] == TABLE
    assert not loops_of(tmp_path) and not list(tmp_path.glob(".regraft-*"))


def test_a_tree_that_lay_on_no_disk_gets_one(regraft: Regraft, tmp_path: Path) -> None:
    system_files(tmp_path / "tree", "")
    regraft("capture", "--root", tmp_path / "tree", "--name", "tree")
    said = regraft("export", "tree", "--to", tmp_path / "out.img").stdout
    assert "it has no kernel to start" in said
    table, parts = table_of(tmp_path / "out.img")
    assert table and len(parts) == 1 and (tmp_path / "out.img").stat().st_size == 2 << 30


def test_for_a_target_it_is_the_plan_of_a_restore(regraft: Regraft, disk: MadeDisk, tmp_path: Path) -> None:
    regraft("import", disk.file, "--name", "box")
    out = tmp_path / "out.qcow2"
    words = ("export", "box", "--to", out, "--target", MACHINES / "qemu-i440fx-virtio-bios-debian.xml",
             "--mode", "clone", "--report", tmp_path / "report.json")  # fmt: skip
    regraft(*words)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["result"].startswith("restored") and report["mode"] == "clone"
    assert any("identity" in recipe["id"] for recipe in report["recipes"])
    told = json.loads(run(["qemu-img", "info", "--output=json", out]).stdout)
    assert (told["format"], told["virtual-size"]) == ("qcow2", 8 << 30), "as large as the target's disk"
    run(["qemu-img", "check", "-q", out])
    regraft("import", out, "--name", "again")
    root = regraft.json("show", "again")["volumes"][0]
    assert root["filesystem"]["uuid"] == ROOT and root["filesystem"]["size_bytes"] > 7 << 30, "it grew"
    regraft("extract", "again", "/etc/hostname", "--to", tmp_path / "tree")
    assert (tmp_path / "tree/etc/hostname").read_text() not in ("", "web-1\n")


def test_what_cannot_be_made_leaves_nothing(
    regraft: Regraft,
    disk: MadeDisk,
    tmp_path: Path,
) -> None:
    regraft("import", disk.file, "--name", "box")
    out = tmp_path / "out.raw"
    told = regraft.refused("export", "box", "--to", out, "--size", "16M", code=13, name="does-not-fit")
    assert "the image needs" in told
    told = regraft.refused("export", "box", "--to", tmp_path / "out.iso", code=2, name="usage")
    assert "does not tell a format" in told
    out.write_text("mine")
    assert "exists already" in regraft.refused("export", "box", "--to", out, code=2, name="usage")
    assert out.read_text() == "mine"
    told = regraft.refused("export", "box", "--to", tmp_path / "x.raw", "--mode", "clone", code=2, name="usage")
    assert "renews the identity of a target" in told
    assert not loops_of(tmp_path) and not list(tmp_path.glob(".regraft-*"))
