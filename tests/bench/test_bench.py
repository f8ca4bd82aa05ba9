"""The whole bench, small, once; what it needs and is not here is left out and said so."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from click.testing import CliRunner

from tests.bench import ratios
from tests.bench.__main__ import bench
from tests.bench.contestants import ALL, PEERS
from tests.bench.needs import find_nginx, present, there
from tests.bench.run import SCENARIOS
from tests.bench.text import table
from tests.bench.values import RATIOS, Bench

# Those that are quick to start; the others are measured by make bench.
QUICK = ("tar", "squashfs", "qemu-img")


@pytest.mark.root
def test_the_whole_bench_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.run.CACHE", tmp_path)
    output = tmp_path / "bench.json"
    words = ["--mib", "12", "--rounds", "1", "--no-install", "--output", str(output)]
    words += [word for peer in QUICK for word in ("--peer", peer)]
    result = CliRunner().invoke(bench, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    measured = msgspec.json.decode(output.read_bytes(), type=Bench)

    assert tuple(measured.ratios) == RATIOS
    assert set(measured.scenario_seconds) == set(SCENARIOS)
    assert measured.ratios == ratios.ratios(measured.rows)
    assert 20 < (measured.agent_peak_mib or 0) < 300
    absent = {name for name, value in measured.ratios.items() if value is None}
    assert absent == expected_to_be_absent(tmp_path)
    left_out = {one.what for one in measured.left_out}
    assert {one.name for one in ALL if one.name in QUICK} - programs_here() <= left_out

    in_restore = {row.contestant for row in measured.rows if row.scenario == "restore" and row.data == "large"}
    assert in_restore == {"regraft", *(programs_here() & set(QUICK))}
    assert all(row.rounds == 1 and 0 < row.fastest <= row.seconds <= row.slowest for row in measured.rows)
    assert "restore (large)" in table(measured)
    plot = ElementTree.parse(output.with_suffix(".svg"))
    assert len(plot.findall(".//{*}rect")) == len(measured.rows) + 1
    room = f"/run/regraft-bench-{os.getpid()}"
    assert room not in Path("/proc/self/mounts").read_text() and not Path(room).exists(), "nothing stays mounted"


def programs_here() -> set[str]:
    return {one.name for one in present(ALL)[0]}


def expected_to_be_absent(cache: Path) -> set[str]:
    """Ratios whose peer takes no part, or is not here."""
    absent = {"recapture_vs_borg", "recapture_vs_restic", "blocks_vs_partclone"}
    served = find_nginx(cache, fetch=False) and there("curl")
    return absent if served else absent | {"http_vs_curl_tar"}


@pytest.mark.root
def test_a_partition_of_a_disk_is_measured_quickly_and_wrong_words_are_refused(tmp_path: Path) -> None:
    tree, output = tmp_path / "tree", tmp_path / "bench.json"
    tree.mkdir()
    for number in range(40):
        (tree / f"file-{number}").write_bytes(b"content %d\n" % number * 4000)
    words = ["--tree", str(tree), "--only", "capture", "--rounds", "1", "--output", str(output)]
    result = CliRunner().invoke(bench, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    measured = msgspec.json.decode(output.read_bytes(), type=Bench)
    assert {row.contestant for row in measured.rows} == {"regraft", "tar", "squashfs"}
    assert measured.ratios["capture_vs_tar"] and measured.ratios["restore_vs_fastest"] is None
    refused = CliRunner().invoke(bench, ["--only", "everything"])
    assert refused.exit_code == 2
    assert "restore-large" in refused.output


def test_peers_are_named_as_the_documentation_names_them() -> None:
    page = (Path(__file__).parents[2] / "docs/bench.md").read_text()
    assert not [name for name in (*PEERS, *SCENARIOS, *RATIOS) if f"`{name}`" not in page]
