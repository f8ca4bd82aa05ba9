"""A disk of Windows from the command line: captured while another system runs, shown, planned, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.process import run
from tests.commands.machine import SERIAL, isolated
from tests.commands.program import Regraft
from tests.commands.system import MACHINES
from tests.probe.loop import LoopDisk
from tests.restore.windows_disk import windows_gpt

pytestmark = pytest.mark.root
OTHER = MACHINES / "qemu-q35-ovmf-nvme-e1000e.xml"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LoopDisk]:
    with windows_gpt(tmp_path) as disk:
        yield disk


@pytest.fixture
def depot(regraft: Regraft, tmp_path: Path) -> Path:
    regraft("depot", "init", tmp_path / "depot")
    return tmp_path / "depot"


def test_a_disk_is_captured_shown_and_planned(regraft: Regraft, depot: Path, disk: LoopDisk, tmp_path: Path) -> None:
    machine = Regraft(regraft.program, regraft.home, isolated(tmp_path, disk.node))
    words = ("capture", "--disk", f"serial={SERIAL}", "--name", "desk", "--depot", depot)
    told = machine(*words, "--without", "/dev/sda2").stdout
    assert "/dev/sda3 (ntfs) is captured by its blocks: " in told and "captured desk@" in told
    shown = regraft("show", "desk", "--depot", depot).stdout
    assert "part-3: blocks of ntfs, partition 3 of sda, 67,108,864 bytes" in shown
    assert "excluded  /dev/sda2: left out by the call" in shown
    plan = regraft("plan", "desk", "--target", OTHER, "--disk", "serial=TARGET-0001", "--depot", depot).stdout
    assert "write the blocks of volume part-3 to partition 3" in plan and "grow it to 6," in plan
    assert "no system on it is adapted" in plan
    # The disk that it came from is what it was; one that drifted is not.
    assert (
        "every entry and digest is the same" in machine("verify", "desk", "--disk", "name=sda", "--depot", depot).stdout
    )
    os.pwrite(descriptor := os.open(disk.part(3), os.O_WRONLY), b"drift", 0)
    os.close(descriptor)
    done = machine("verify", "desk", "--disk", "name=sda", "--depot", depot, code=31)
    assert "part-3: /dev/sda3: bytes 0 to " in done.stdout


def test_an_unclean_windows_is_refused_with_both_ways_out(
    regraft: Regraft, depot: Path, disk: LoopDisk, tmp_path: Path
) -> None:
    run(["ntfsresize", "--force", "--size", "60M", "--no-progress-bar", disk.part(3)])
    machine = Regraft(regraft.program, regraft.home, isolated(tmp_path, disk.node))
    words = ("capture", "--disk", "name=sda", "--name", "desk", "--depot", depot)
    told = machine(*words, code=12).stderr
    assert "scheduled for a check" in told and "--whole sda3" in told and "--without sda3" in told
    assert "sdb1 is no partition that is captured" in machine(*words, "--whole", "sdb1", code=2).stderr
    assert machine(*words, "--whole", "sda3").stdout.count("67,108,864 of 67,108,864 bytes are used") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--root", "/etc", "--disk", "name=sda"), "--root captures the files of a directory"),
        (("--root", "/etc", "--whole", "sda1"), "--root captures the files of a directory"),
        (("--disk", "name=sda"), "needs a name"),
    ],
)
def test_words_that_contradict_each_other(regraft: Regraft, depot: Path, words: tuple[str, ...], said: str) -> None:
    assert said in regraft("capture", *words, "--depot", depot, code=2).stderr
