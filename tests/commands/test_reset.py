"""A machine is restored, drifts, and is reset; a restore that was cut is continued: only what differs is touched.

The whole program on a loop disk that it takes for a disk. The image has no kernel: its restore ends without a boot
loader, which needs programs of a whole system; tests/lab resets machines that boot.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.model.plan import WriteTable, decode
from agent.model.target_disk import identity
from agent.probe.disks import read_disk
from agent.process import run
from agent.restore import disk as target
from tests.commands.machine import SERIAL, isolated
from tests.commands.program import FROM_SOURCE, Regraft
from tests.commands.system import publish_machine
from tests.image.source_tree import describe
from tests.probe.loop import LoopDisk, loop_disk, mounted

pytestmark = pytest.mark.root
SIZE_BYTES = 8 << 30
FILES, FILE_BYTES, LARGE_BYTES = 2000, 10_000, 34 << 20
CONTENT_BYTES = FILES * FILE_BYTES + LARGE_BYTES
APP = "usr/share/app"
RECIPE = """\
id    = "site.motd"
title = "Say whose machine this is"
tier  = "must"
phase = "site"
why   = "People log in."
[when]
all = [ { image = { path = "/etc/hostname" } } ]
[[do]]
write = { path = "/etc/motd", line = "property of the lab" }
[[check]]
grep = { path = "/etc/motd", text = "property of the lab" }
[[test]]
tree = { "/etc/hostname" = "x\\n" }
expect = { "/etc/motd" = "property of the lab\\n" }
"""
ADAPTED = ("etc/motd", "etc/udev", "var")


@dataclass(frozen=True)
class Lab:
    """A depot with the image ``web1``, its trees, and a recipe of the site."""

    depot: Path
    root: Path
    srv: Path
    recipes: Path
    home: Path


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    (folder / "root" / APP).mkdir(parents=True)
    for number in range(FILES):
        (folder / "root" / APP / f"{number:04}").write_bytes(os.urandom(FILE_BYTES))
    (folder / "root" / APP / "large").write_bytes(os.urandom(LARGE_BYTES))
    for name in ("etc", "srv"):
        (folder / "root" / name).mkdir()
    (folder / "root/etc/motd").write_text("welcome\n")
    (folder / "recipes").mkdir()
    (folder / "recipes/90-motd.toml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGRAFT_HOME", str(folder / "home"))
        Regraft(FROM_SOURCE, folder / "home")("depot", "init", folder / "depot")
        publish_machine(folder / "depot", folder, kernels=False)
    yield Lab(folder / "depot", folder / "root", folder / "srv", folder / "recipes", folder / "home")
    shutil.rmtree(folder)


@dataclass(frozen=True)
class Machine:
    """The program on a machine with one disk, which has the planned table: partitions are made before it looks."""

    regraft: Regraft
    lab: Lab
    disk: LoopDisk
    folder: Path

    def words(self, *more: str) -> tuple[str | Path, ...]:
        return ("restore", "web1", "--disk", f"serial={SERIAL}", "--erase", SERIAL, "--depot", self.lab.depot,
                "--recipes", self.lab.recipes, *more)  # fmt: skip

    def restore(self, *more: str) -> Any:
        self.regraft(*self.words("--report", str(self.folder / "report.json"), *more))
        report = json.loads((self.folder / "report.json").read_bytes())
        assert (report["result"], report["mismatches"], report["warnings"]) == ("restored-and-verified", 0, [])
        return report

    def facts(self) -> tuple[str, ...]:
        """What a reset keeps: the table, and when each file system was made."""
        told = run(["sfdisk", "--dump", self.disk.node]).stdout
        made = (run(["dumpe2fs", "-h", self.disk.part(number)]).stdout for number in (2, 3))
        return (told, *(next(line for line in each.splitlines() if "created" in line) for each in made))

    def assert_right(self) -> None:
        """The image's files on both volumes, and the adaptations over them, and nothing else."""
        with mounted(self.disk.part(2), self.folder / "seen") as seen:
            assert (seen / "etc/motd").read_text() == "welcome\nproperty of the lab\n"
            assert 'NAME="ens3"' in (seen / "etc/udev/rules.d/70-persistent-net.rules").read_text()
            assert (seen / "var/lib/regraft/undo/etc/motd").read_text() == "welcome\n"
            assert as_image(seen) == as_image(self.lab.root)
        with mounted(self.disk.part(3), self.folder / "seen") as seen:
            assert as_image(seen) == as_image(self.lab.srv)


def as_image(root: Path) -> dict[bytes, Any]:
    """All that is not of the file system itself, and not adapted; directories that adaptations write to, by mode."""
    found = describe(root)
    apart = tuple(name.encode() for name in (*ADAPTED, "lost+found", "srv"))
    kept = {name: facts for name, facts in found.items() if not name.startswith(apart)}
    for name in (b".", b"etc"):
        if name in kept:
            kept[name] = kept[name][:3]
    return kept


@pytest.fixture
def machine(program: Path, lab: Lab, tmp_path: Path) -> Iterator[Machine]:
    with loop_disk(tmp_path / "disk.img", SIZE_BYTES) as disk:
        regraft = Regraft(program, lab.home, isolated(tmp_path / "first", disk.node))
        words = ("restore", "web1", "--disk", "only-eligible", "--depot", lab.depot, "--recipes", lab.recipes)
        plan = decode(msgspec.json.encode(regraft.json(*words)["plan"]))
        table = next(step for step in plan.steps if isinstance(step, WriteTable))
        with target.open_disk(identity(read_disk(disk.name))) as handle:
            target.write_table(handle, table)
        yield Machine(Regraft(program, lab.home, isolated(tmp_path / "second", disk.node)), lab, disk, tmp_path)


def drift(root: Path) -> None:
    """What a day of use does to a machine."""
    app = root / APP
    (app / "0001").write_bytes(b"changed" * 1000)
    (app / "0002").unlink()
    (app / "0003").chmod(0o600)
    os.utime(app / "0004")
    (app / "new").write_text("added")
    (root / "var/log").mkdir(parents=True, exist_ok=True)
    (root / "var/log/day").write_text("x" * 100_000)
    (root / "etc/motd").write_text("somebody's own words\n")
    shutil.rmtree(root / "etc/udev")
    with (app / "large").open("r+b") as file:
        file.seek(3 << 20)
        file.write(b"drifted")


def test_a_drifted_machine_is_reset(machine: Machine) -> None:
    first = machine.restore()
    assert CONTENT_BYTES < first["bytes_written"] < CONTENT_BYTES + (1 << 20)
    assert first["bytes_fetched"] > CONTENT_BYTES and first["bytes_trusted"] == 0
    before = machine.facts()
    machine.assert_right()
    for trust in ((), ("--trust-metadata",)):
        with mounted(machine.disk.part(2), machine.folder / "seen") as seen:
            drift(seen)
        reset = machine.restore(*trust)
        machine.assert_right()
        assert machine.facts() == before, "table and file systems were kept"
        assert reset["bytes_written"] < (2 << 20) and reset["bytes_fetched"] < (8 << 20)
        assert reset["recipes"] == first["recipes"] and reset["changed_paths"] == first["changed_paths"]
        if trust:  # what was written is read back, and the large file, whose time had changed
            assert reset["bytes_trusted"] > (FILES - 10) * FILE_BYTES
            assert reset["bytes_read_back"] + reset["bytes_trusted"] == first["bytes_read_back"]
        else:
            assert (reset["bytes_trusted"], reset["bytes_read_back"]) == (0, first["bytes_read_back"])
    again = machine.restore("--trust-metadata")
    assert again["bytes_written"] <= 100, "what the adaptations change is written again, and nothing else"


def test_a_restore_that_is_killed_goes_on(machine: Machine) -> None:
    """Killed while files are written: the same restore again keeps what is there, and fetches the rest."""
    words = [*machine.regraft.before, machine.regraft.program, *machine.words()]
    told = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "REGRAFT_HOME": str(machine.lab.home)}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(words, env=told, stdout=quiet, stderr=quiet, start_new_session=True) as child:
        # Its own mounts, seen from here.
        wait_for(child, Path(f"/proc/{child.pid}/root/run/regraft/target/{APP}"), FILES // 4)
        os.killpg(child.pid, signal.SIGKILL)  # with its workers, as a power cut does
    before = machine.facts()
    wait_until_free(machine.disk)
    with mounted(machine.disk.part(2), machine.folder / "seen") as seen:
        there = [path for path in (seen / APP).iterdir() if path.stat().st_size == FILE_BYTES]
        assert FILES // 5 < len(there) < FILES and not (seen / "etc/udev").exists(), "it was cut"
    report = machine.restore("--trust-metadata")
    machine.assert_right()
    assert machine.facts() == before, "table and file systems of the first attempt were kept"
    # A few files were being written, and a frame of 1 MiB holds some that are there and some that are not.
    assert report["bytes_written"] < CONTENT_BYTES - (len(there) - 50) * FILE_BYTES
    assert report["bytes_fetched"] < CONTENT_BYTES - len(there) * FILE_BYTES + (4 << 20)


def wait_for(child: subprocess.Popen[bytes], place: Path, count: int) -> None:
    """Until so many files are there."""
    end = time.monotonic() + 60
    while True:
        assert child.poll() is None and time.monotonic() < end
        try:
            found = len(os.listdir(place))
        except OSError:
            found = 0
        if found >= count:
            return
        time.sleep(0.001)


def wait_until_free(disk: LoopDisk) -> None:
    """Until the mounts of the processes that are gone went with them."""
    end = time.monotonic() + 30
    while True:
        try:
            os.close(os.open(disk.part(2), os.O_RDWR | os.O_EXCL))
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.05)
        else:
            return
