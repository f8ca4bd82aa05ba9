"""The walk of recipes/README.md: from a difference to a recipe that every restore of the depot uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.program import Regraft
from tests.commands.system import MACHINES, publish_machine

TARGET = MACHINES / "qemu-q35-ovmf-nvme-e1000e.xml"
HERE = ("--disk", "serial=TARGET-0001")
NAME = "90-site-acme-probe.toml"
INI = "/opt/acme/probe.ini"


@pytest.fixture
def published(regraft: Regraft, depot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REGRAFT_HOME", str(regraft.home))
    (tmp_path / "root/opt/acme").mkdir(parents=True)
    (tmp_path / "root" / INI[1:]).write_text("[capture]\ncard = virtio\nspeed = 1000\n")
    publish_machine(depot, tmp_path)
    return depot


def test_from_a_difference_to_every_restore(regraft: Regraft, published: Path, tmp_path: Path) -> None:
    depot = ("--depot", published)
    folder = tmp_path / "acme"
    folder.mkdir()
    (tmp_path / "diff.xml").write_text(regraft("diff", "web1", TARGET, *HERE, "--xml", *depot).stdout)
    items = regraft.json("diff", "web1", TARGET, *HERE, *depot)["items"]
    (item,) = [one["id"] for one in items if one["op"] == "remove" and one["key"].startswith("pci:1af4:1000")]
    words = ("recipe", "new", "site.acme-probe", "--from-difference", tmp_path / "diff.xml", "--output", folder / NAME)
    assert "name one by --item" in regraft(*words, code=2).stderr
    regraft(*words, "--item", item)
    assert "is there already" in regraft(*words, "--item", item, code=2).stderr
    assert "ok     site.acme-probe" in regraft("recipe", "test", folder).stdout

    recipe = folder / NAME
    text = recipe.read_text()
    for old, new in (
        ("/etc/site-acme-probe.conf", INI),
        ('"shell", key = "device", value = "new"', '"ini", section = "capture", key = "card", value = "generic"'),
        ('text = "device=new"', 'text = "card = generic"'),
        ('"device=old\\n"', '"[capture]\\ncard = virtio\\n"'),
        ('"device=new\\n"', '"[capture]\\ncard=generic\\n"'),
    ):
        assert old in text
        text = text.replace(old, new)
    recipe.write_text(text)
    said = regraft("recipe", "test", folder, code=1).stdout
    assert "         -card=generic\n         +card = generic\n" in said and "1 test failed" in said
    assert "tests fail" in regraft("recipe", "publish", folder, *depot, code=12).stderr
    recipe.write_text(text.replace("section =", "sektion ="))
    assert f"{NAME}:16: do[1].set.sektion" in regraft("recipe", "test", folder, code=2).stderr
    recipe.write_text(text.replace("card=generic", "card = generic"))
    regraft("recipe", "test", folder)

    asked = ("recipe", "explain", "site.acme-probe", "--recipes", folder, *depot)
    explained = regraft(*asked, "--image", "web1", "--target", TARGET, *HERE).stdout
    assert f"handles {item}: " in explained and f"set {INI} ini capture card generic" in explained
    assert "it is for mode clone" in regraft(
        "recipe", "explain", "identity.clone-hostname", "--image", "web1", "--target", TARGET, *HERE, *depot
    ).stdout  # fmt: skip
    assert "given together" in regraft(*asked, "--image", "web1", code=2).stderr

    assert "has 1 recipe of the site" in regraft("recipe", "publish", folder, *depot).stdout
    (ours,) = [one for one in regraft.json("recipe", "list", *depot) if one["id"] == "site.acme-probe"]
    assert ours["origin"] == "depot"
    planned = regraft("plan", "web1", "--target", TARGET, *HERE, *depot, code=12).stdout
    assert "RECIPES  the depot’s bundle of" in planned and "(of the depot)" in " ".join(planned.split())
    bundle = published / "recipes/bundle.json"
    bundle.write_bytes(bundle.read_bytes().replace(b"generic", b"genuine"))
    for asked_for in (("plan", "web1", "--target", TARGET), ("diff", "web1", TARGET)):
        assert "signature" in regraft.refused(*asked_for, *HERE, *depot, code=21, name="not-trusted")
    regraft("recipe", "withdraw", *depot)
    assert "RECIPES" not in regraft("plan", "web1", "--target", TARGET, *HERE, *depot, code=12).stdout


def test_a_recipe_of_the_site_that_replaces_a_shipped_one_says_so(regraft: Regraft, tmp_path: Path) -> None:
    regraft("recipe", "new", "storage.resume", "--output", tmp_path / "own.toml")
    assert "own.toml replaces the shipped recipe storage.resume" in regraft("recipe", "test", tmp_path).stdout
    (found,) = [one for one in regraft.json("recipe", "list", "--recipes", tmp_path) if one["id"] == "storage.resume"]
    assert (found["origin"], found["replaces"]) == ("site", "shipped")


def test_what_is_not_there_is_told(regraft: Regraft, tmp_path: Path) -> None:
    assert "there is no recipe ‘x.y’" in regraft("recipe", "explain", "x.y", code=2).stderr
    assert "holds no recipe" in regraft("recipe", "test", tmp_path, code=2).stderr
    assert "none is given" in regraft("recipe", "new", "x.y", "--item", "d1", code=2).stderr
    assert "no id of a recipe" in regraft("recipe", "new", "Wrong", code=2).stderr
