"""The matrix: what it promises to cover, when a cell is done, and the cells that every change is tested with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.lab.matrix import runner
from tests.lab.matrix.efi import label_of
from tests.lab.matrix.systems import SYSTEMS
from tests.lab.matrix.targets import CELLS, TARGETS, Cell
from tests.lab.programs import remove_built, run
from tests.lab.serving import REPOSITORY

CELL = CELLS[0]


def test_every_source_goes_to_two_machines_and_every_machine_takes_one() -> None:
    for source in ("debian-12-cloud", *SYSTEMS):
        assert len({cell.target for cell in CELLS if cell.source == source}) >= 2, source
    assert {cell.target for cell in CELLS} == set(TARGETS)
    assert len({cell.name for cell in CELLS}) == len(CELLS)


def test_both_ways_between_the_firmwares_are_gone() -> None:
    ways = {(SYSTEMS[cell.source].firmware, TARGETS[cell.target].machine.firmware)
            for cell in CELLS if cell.source in SYSTEMS}  # fmt: skip
    assert {("bios", "uefi"), ("uefi", "bios"), ("uefi", "uefi"), ("bios", "bios"), ("uefi", "uefi-secure")} <= ways


def leave(out: Path, cell: Cell, key: str, **values: object) -> None:
    found = {"source": cell.source, "target": cell.target, "restored": True, "booted": True, "checks": True,
             "negative_control": True, "second_boot": None, "seconds": 600.0, "proofs": [], "trouble": "",
             "good": True}  # fmt: skip
    (out / cell.name).mkdir(parents=True)
    (out / cell.name / "cell.json").write_text(json.dumps({"key": key, **found, **values}))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the cells that were run; none is."""
    names: list[str] = []
    monkeypatch.setattr(runner, "prepare_media", lambda: None)
    monkeypatch.setattr(runner, "run_one", lambda cell, out, writing: names.append(cell.name))
    return names


def test_a_cell_that_is_done_is_not_run_again(tmp_path: Path, ran: list[str]) -> None:
    leave(tmp_path, CELL, runner.key_of_cell(CELL))
    runner.run_all(CELLS[:2], tmp_path, jobs=1)
    assert ran == [CELLS[1].name]


def test_a_cell_of_other_code_or_one_that_failed_is_run_again(tmp_path: Path, ran: list[str]) -> None:
    leave(tmp_path, CELLS[0], "another key")
    leave(tmp_path, CELLS[1], runner.key_of_cell(CELLS[1]), good=False)
    runner.run_all(CELLS[:2], tmp_path, jobs=1)
    assert ran == [CELLS[0].name, CELLS[1].name]


def test_what_the_product_cannot_do_yet_is_listed_and_not_run(tmp_path: Path, ran: list[str]) -> None:
    waiting = Cell(CELL.source, CELL.target, "B1", waits_for="a part")
    runner.run_all([waiting], tmp_path, jobs=1)
    assert ran == []


def test_the_results_name_every_cell(tmp_path: Path) -> None:
    out = tmp_path / "matrix"
    leave(out, CELL, runner.key_of_cell(CELL), checks=False)
    runner.write_results(out)
    cells = json.loads((tmp_path / "matrix.json").read_text())["cells"]
    assert [(one["source"], one["target"]) for one in cells] == [(cell.source, cell.target) for cell in CELLS]
    assert {name: cells[0][name] for name in runner.VALUES} == {
        "restored": True, "booted": True, "checks": False, "negative_control": True, "second_boot": None,
    }  # fmt: skip
    assert all(cells[1][name] is None for name in (*runner.VALUES, "seconds"))
    rows = runner.table(runner.results(out)).splitlines()
    assert rows[2] == f"| {CELL.source} | {CELL.target} | yes | yes | NO | yes | – | 10 |"
    assert len(rows) == 2 + len(CELLS)


def test_labels_of_boot_entries() -> None:
    path = b"\x04\x01\x2a\x00"
    variable = b"\x07\0\0\0" + b"\x01\0\0\0" + len(path).to_bytes(2, "little") + "debian\0".encode("utf-16-le") + path
    assert label_of(variable) == "debian"


@pytest.mark.root
def test_what_a_killed_build_left_is_removed_without_what_is_mounted_in_it(tmp_path: Path) -> None:
    """A bind mount of something that is not ours, as a killed mmdebstrap leaves of the host's /dev/shm."""
    theirs, home = tmp_path / "theirs", tmp_path / "home"
    point = home / "tree" / "dev" / "shm"
    point.mkdir(parents=True)
    theirs.mkdir()
    (theirs / "in use").write_text("somebody's")
    run(["mount", "--bind", theirs, point])
    try:
        remove_built(home)
        assert not home.exists()
        assert (theirs / "in use").read_text() == "somebody's"
    finally:
        run(["umount", point], accept=None)


@pytest.mark.long
@pytest.mark.machine
@pytest.mark.frozen
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            "debian-11-mbr--ahci-rtl8139-bios",  # an initramfs for one machine only, from a RAID controller to a PC
            marks=[
                pytest.mark.adapts("B1", "B2", "T3", "T5", systems=("Debian 11",)),
                pytest.mark.adapts("B14", "T4", systems=("Debian 11",)),
                pytest.mark.adapts("N1", "T3", systems=("Debian 11",)),
            ],
        ),
        pytest.param(
            "debian-11-mbr--usb-e1000-uefi",  # grub-pc stays, GRUB for UEFI is not the image's
            marks=[
                pytest.mark.adapts("B1", "D4", "T3", "T4", "T5", systems=("Debian 11",)),
                pytest.mark.adapts("B12", "B13", "T3", "T4", systems=("Debian 11",)),
            ],
        ),
        pytest.param(
            "debian-11-mbr--nvme4k-e1000e-uefi",
            marks=[
                pytest.mark.adapts("B1", "T3", "T4", "T5", systems=("Debian 11",)),
                pytest.mark.adapts("B12", "B13", "B16", "T3", "T4", systems=("Debian 11",)),
            ],
        ),
        pytest.param(
            "debian-11-mbr--nvme-small-uefi",
            marks=[
                pytest.mark.adapts("B1", "T3", "T4", "T5", systems=("Debian 11",)),
                pytest.mark.adapts("B12", "B13", "T3", "T4", systems=("Debian 11",)),
            ],
        ),
        pytest.param(
            "debian-12-cloud--lsi53c895a-pcnet-bios",
            marks=[pytest.mark.adapts("B3", "D1", "N1", "T3", "T4", "T5", systems=("Debian 12",))],
        ),
        pytest.param(
            "debian-12-cloud--nvme-e1000e-uefi",  # a kernel from the depot, upgraded by apt as its own
            marks=[pytest.mark.adapts("B3", "B12", "D1", "N1", "T3", "T4", "T5", systems=("Debian 12",))],
        ),
        pytest.param(
            "debian-12-btrfs--ahci-rtl8139-bios",
            marks=[
                pytest.mark.adapts("B1", "B14", "T3", "T4", systems=("Debian 12 on btrfs",)),
                pytest.mark.adapts("N1", "T3", "T5", systems=("Debian 12 on btrfs",)),
            ],
        ),
        pytest.param(
            "debian-12-btrfs--virtio-virtio-uefi",
            marks=[pytest.mark.adapts("B12", "B13", "T3", "T4", systems=("Debian 12 on btrfs",))],
        ),
        pytest.param(
            "debian-12-uefi--lsi53c895a-pcnet-bios",  # the loader of the other firmware stays, and is upgraded
            marks=[
                pytest.mark.adapts("B12", "T3", "T4", systems=("Debian 12",)),
                pytest.mark.adapts("N1", "T3", "T5", systems=("Debian 12",)),
            ],
        ),
        pytest.param(
            "debian-12-uefi--megasas-vmxnet3-bios",
            marks=[pytest.mark.adapts("B12", "T3", "T4", systems=("Debian 12",))],
        ),
        pytest.param(
            "debian-12-uefi--virtio-virtio-secure",  # by the image's own shim and GRUB
            marks=[
                pytest.mark.adapts("B13", "T3", "T4", systems=("Debian 12",)),
                pytest.mark.adapts("N1", "T3", "T5", systems=("Debian 12",)),
            ],
        ),
        pytest.param(
            "debian-12-uefi--ahci-large-bios",
            marks=[
                pytest.mark.adapts("B12", "T3", "T4", systems=("Debian 12",)),
                pytest.mark.adapts("N1", "T3", "T5", systems=("Debian 12",)),
            ],
        ),
        pytest.param(
            "debian-12-lvm-luks--nvme-e1000e-uefi",
            marks=[
                pytest.mark.adapts("B11", "T3", "T4", systems=("Debian 12 on LVM and LUKS",)),
                pytest.mark.adapts("B13", "T3", "T4", systems=("Debian 12 on LVM and LUKS",)),
            ],
        ),
        pytest.param(
            "debian-12-lvm-luks--virtio-virtio-uefi",
            marks=[pytest.mark.adapts("N1", "T3", "T5", systems=("Debian 12 on LVM and LUKS",))],
        ),
        pytest.param(
            "debian-12-stacked--nvme-e1000e-uefi",  # its key file opens the volume that the web page comes from
            marks=[
                pytest.mark.adapts("B6", "B9", "B10", "T3", "T4", systems=("Debian 12 on LVM, a mirror and LUKS1",)),
                pytest.mark.adapts("B13", "T3", "T4", systems=("Debian 12 on LVM, a mirror and LUKS1",)),
            ],
        ),
        pytest.param(
            "debian-12-stacked--two-disks-uefi",  # a kept mirror, from each half of which it starts
            marks=[
                pytest.mark.adapts("B9", "B10", "T3", "T4", systems=("Debian 12 on LVM, a mirror and LUKS1",)),
                pytest.mark.adapts("B13", "T3", "T4", systems=("Debian 12 on LVM, a mirror and LUKS1",)),
            ],
        ),
        pytest.param(
            "debian-13-raid1--two-disks-uefi",
            marks=[
                pytest.mark.adapts("B9", "B13", "T3", "T4", systems=("Debian 13 on a mirror",)),
                pytest.mark.adapts("N1", "N7", "T3", systems=("Debian 13 on a mirror",)),
            ],
        ),
        pytest.param(
            "debian-13-raid1--ahci-swapped-uefi",
            marks=[pytest.mark.adapts("N1", "N2", "T3", "T5", systems=("Debian 13 on a mirror",))],
        ),
    ],
)
def test_a_cell_that_was_seen_good_is_good(name: str, tmp_path: Path) -> None:
    """By the command that runs the matrix."""
    words = [sys.executable, "-m", "tests.lab", "matrix", "--only", name, "--jobs", "1"]
    done = run([*words, "--out", tmp_path / "matrix"], accept=None, timeout_s=6900, cwd=REPOSITORY)
    (found,) = [one for one in json.loads((tmp_path / "matrix.json").read_text())["cells"] if one["good"] is not None]
    assert done.returncode == 0, done.stdout[-3000:]
    control = True if next(cell for cell in CELLS if cell.name == name).breaks else None
    expected = {**dict.fromkeys(runner.VALUES, True), "negative_control": control}
    assert {value: found[value] for value in runner.VALUES} == expected
