"""The measuring itself: small, once, and it must notice a restore that is wrong."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from tests.bench.__main__ import RATIOS, SHARES, Bench, bench, summary, table
from tests.bench.measure import sampled, timed
from tests.bench.tree import same


@pytest.mark.root
def test_a_small_bench_measures_every_ratio(tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    words = ["--mib", "30", "--rounds", "1", "--output", str(output)]
    result = CliRunner().invoke(bench, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    measured = msgspec.json.decode(output.read_bytes(), type=Bench)
    assert set(measured.ratios) == {name for name, _, _ in RATIOS} | set(SHARES)
    assert 0 < measured.agent_peak_mib < 300
    assert summary(measured.rows, measured.tree, 1).ratios == measured.ratios
    assert "restore_vs_unsquashfs" in table(measured)


@pytest.mark.root
def test_a_tree_that_differs_is_noticed(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / "file").write_text("content")
        (folder / "file").touch()
    (other / "file").chmod(0o600)
    assert "file" in same(one, other)


@pytest.mark.tools
def test_a_command_that_fails_ends_the_bench() -> None:
    with pytest.raises(SystemExit, match="status 3"):
        timed("echo said so; exit 3", {})
    with pytest.raises(SystemExit, match="status 1"):
        timed("false | true", {})


@pytest.mark.tools
def test_memory_is_that_of_all_processes_together() -> None:
    hungry = "python3 -c 'import time; kept = bytearray(40 << 20); time.sleep(0.4)'"
    assert 80 < sampled(f"{hungry} & {hungry} & wait", {}) < 200
