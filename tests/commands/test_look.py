"""Looking into images: ls, cat, compare."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.commands.program import Regraft
from tests.image.source_tree import MTIME, random_bytes

STATUS = """\
Package: bash
Status: install ok installed
Architecture: amd64
Version: {version}

"""


def listed(regraft: Regraft, depot: Path, *words: str) -> dict[bytes, Any]:
    entries = regraft.json("ls", "web-1", *words, "--depot", depot)
    return {base64.b64decode(each["raw"]) if "raw" in each else each["path"].encode(): each for each in entries}


def test_ls_says_what_stat_says(regraft: Regraft, captured: Path, tree: Path) -> None:
    found = listed(regraft, captured, "-R")
    top = os.fsencode(tree)
    paths = {os.path.join(folder, name) for folder, *names in os.walk(top) for name in (*names[0], *names[1])}
    assert found.keys() == {path[len(top) :] for path in paths}
    for path in paths:
        said, is_ = found[path[len(top) :]], os.lstat(path)
        assert (said["mode"], said["uid"], said["gid"]) == (stat.S_IMODE(is_.st_mode), is_.st_uid, is_.st_gid)
        assert said["mtime"] == is_.st_mtime_ns
        if stat.S_ISREG(is_.st_mode):
            assert (said["type"], said["size"], said["links"]) == ("file", is_.st_size, is_.st_nlink)
        elif stat.S_ISLNK(is_.st_mode):
            target = base64.b64decode(said["raw_target"]) if "raw_target" in said else said["target"].encode()
            assert (said["type"], target) == ("link", os.readlink(path))
    assert found[b"/fifo"]["type"] == "fifo"


def test_ls_tells_people(regraft: Regraft, captured: Path) -> None:
    lines = regraft("ls", "web-1", "/", "/bin/", "--depot", captured).stdout.splitlines()
    (link,) = (line for line in lines if line.endswith(" /bin -> usr/bin"))
    assert link.startswith("lrwxrwxrwx   1 ") and "2020-09-13 12:26:40" in link and MTIME // 10**9 == 1_600_000_000
    for name in (" /odd-\\xff\\xfe name", " /new\\nline", " /usr/bin/another"):
        assert any(line.endswith(name) for line in lines)
    told = regraft.refused("ls", "web-1", "/etc", "/nothing", "--depot", captured, code=10, name="no-image")
    assert "/nothing" in told


def test_cat_prints_the_bytes_of_a_file_inside_the_image(regraft: Regraft, depot: Path, tree: Path) -> None:
    (tree / "etc/host").symlink_to(sys.executable)
    (tree / "etc/upwards").symlink_to("../../../../../../usr/sparse")
    regraft("capture", "--root", tree, "--depot", depot)
    words: list[str | Path] = [regraft.program, "cat", "web-1", "/etc/upwards", "--depot", depot]
    done = subprocess.run(words, capture_output=True, check=True, env={"REGRAFT_HOME": str(regraft.home)})
    assert done.stdout == (tree / "usr/sparse").read_bytes()
    for path, code, said in (("/etc/host", 10, "has no /etc/host"), ("/fifo", 2, "is a fifo")):
        refused = regraft("cat", "web-1", path, "--depot", depot, code=code)
        assert said in refused.stderr and "next: " in refused.stderr and not refused.stdout


def test_cat_of_damaged_content_says_so(regraft: Regraft, captured: Path) -> None:
    for pack in (captured / "packs").rglob("*.pack"):
        pack.write_bytes(pack.read_bytes().translate(bytes(range(255, -1, -1))))
    done = regraft("cat", "web-1", "/etc/hostname", "--depot", captured, code=22)
    assert "does not match its digest" in done.stderr
    assert "/etc/hostname" in regraft("ls", "web-1", "/etc", "--depot", captured).stdout, "needs no packs"


def test_a_reader_may_leave(regraft: Regraft, captured: Path) -> None:
    environment = {"REGRAFT_HOME": str(regraft.home), "REGRAFT_DEPOT": str(captured)}
    child = subprocess.Popen(
        [regraft.program, "cat", "web-1", "/usr/large"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        bufsize=0,
    )
    assert child.stdout is not None and child.stderr is not None
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait(timeout=60) == 141


def test_compare_tells_what_changed(regraft: Regraft, depot: Path, tree: Path) -> None:
    status = tree / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text(STATUS.format(version="5.2"))
    first = regraft.json("capture", "--root", tree, "--depot", depot)["ref"]
    status.write_text(STATUS.format(version="5.3") + STATUS.replace("bash", "new").format(version="1"))
    (tree / "etc/hostname").write_text("web-1.example\n")
    (tree / "etc/os-release").chmod(0o600)
    (tree / "usr/large").write_bytes(random_bytes(2 << 20))
    (tree / "opt/tool").mkdir(parents=True)
    (tree / "opt/tool/x").touch()
    (tree / "fifo").unlink()
    (tree / "shared").rmdir()
    (tree / "shared").symlink_to("usr")
    os.utime(tree / "usr/zeros")
    regraft("capture", "--root", tree, "--depot", depot)
    old = f"{first['machine']}@{first['time']}"
    found = regraft.json("compare", old, "web-1", "--depot", depot)
    assert (found["old"], found["new"].partition("@")[0]) == (old, "web-1")
    packages = next(section for section in found["sections"] if section["name"] == "packages")["changes"]
    assert packages == [
        {"name": "bash amd64", "old": "5.2", "new": "5.3"}, {"name": "new amd64", "old": "", "new": "1"},
    ]  # fmt: skip
    files = {each["path"]: each for each in (*found["configuration"], *found["files"])}
    assert {each["path"] for each in found["configuration"]} == {"/etc/hostname", "/etc/os-release"}
    assert files["/usr/large"]["differences"] == ["content", "time"]
    assert (files["/usr/large"]["old_size"], files["/usr/large"]["size"]) == (3 << 20, 2 << 20)
    assert files["/etc/os-release"]["differences"] == ["mode"] and files["/usr/zeros"]["differences"] == ["time"]
    assert (files["/shared"]["old_type"], files["/shared"]["type"]) == ("dir", "link")
    assert {path: each["op"] for path, each in files.items() if each["op"] != "changed"} == {
        "/fifo": "removed", "/opt": "added", "/opt/tool": "added", "/opt/tool/x": "added",
    }  # fmt: skip
    lines = regraft("compare", old, "web-1", "--depot", depot).stdout.splitlines()
    for expected in (
        "PACKAGES (1 added, 1 changed)", "  ~ bash amd64: 5.2 -> 5.3", "  + /opt/  with 2 entries in it",
        "CONFIGURATION: FILES BELOW /etc (2 changed; 1 of these in metadata only)", "  ~ /shared  dir -> link",
        "  ~ /etc/hostname  content (6 -> 14 bytes), time", "  - /fifo",
    ):  # fmt: skip
        assert expected in lines, lines
    assert not any("/usr/zeros" in line for line in lines), "a time alone is only counted"
    same = regraft("compare", "web-1", "web-1", "--depot", depot).stdout.splitlines()
    assert "OTHER FILES (no change)" in same and not any(line.startswith("  + ") for line in same)
