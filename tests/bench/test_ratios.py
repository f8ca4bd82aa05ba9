"""Rows to ratios."""

from __future__ import annotations

import pytest

from tests.bench.ratios import growth, more_ratios, ratios
from tests.bench.values import RATIOS, Row


def row(scenario: str, contestant: str, seconds: float, data: str = "system", **more: object) -> Row:
    values: dict[str, object] = {"rounds": 5, "fastest": seconds, "slowest": seconds, "processor_seconds": 1.0}
    values |= {"plain_bytes": 10**9, **more}
    return Row(scenario=scenario, data=data, contestant=contestant, seconds=seconds, **values)  # type: ignore[arg-type]


ROWS = (
    row("restore", "regraft", 4.0, checks="all", peak_mib=120),
    row("restore", "squashfs", 3.0),
    row("restore", "tar", 6.0, checks="xxh64"),
    row("restore", "restic", 9.0, checks="sha256", peak_mib=900),
    row("restore", "regraft", 10.0, "large", checks="all"),
    row("restore", "qemu-img", 5.0, "large"),
    row("restore", "tar", 20.0, "large", checks="xxh64"),
    row("http", "regraft", 4.0),
    row("http", "curl | tar", 8.0),
    row("capture", "regraft", 8.0, stored_bytes=102, peak_mib=150),
    row("capture", "tar", 10.0, stored_bytes=100),
    row("capture", "borg", 20.0, stored_bytes=110),
    row("recapture", "regraft", 2.0),
    row("recapture", "restic", 3.0),
    row("recapture", "borg", 5.0),
    row("second", "regraft", 2.0, stored_bytes=5),
    row("second", "borg", 2.0, stored_bytes=11),
    row("reset", "regraft", 5.0),
    row("reset", "regraft reset", 2.0),
    row("reset", "regraft reset --trust-metadata", 0.4),
    row("reset", "find", 0.3),
    row("blocks", "regraft", 2.0),
    row("blocks", "partclone", 5.0),
    row("floor", "regraft", 5.0),
    row("floor", "decompression alone", 1.5),
    row("floor", "writing alone", 2.5),
)


def test_times_are_the_peers_over_ours_and_the_worse_of_two_data_sets_counts() -> None:
    assert ratios(ROWS) == {
        "restore_vs_fastest": 0.5,  # of the large files; 0.75 of the system
        "restore_vs_fastest_checking": 1.5,
        "http_vs_curl_tar": 2.0,
        "capture_vs_tar": 1.25,
        "recapture_vs_restic": 1.5,
        "recapture_vs_borg": 2.5,
        "depot_size_vs_tar": 1.02,
        "second_machine_share": 0.049,
        "reset_share": 0.08,
        "blocks_vs_partclone": 2.5,
        "floor_efficiency": 0.8,
        "agent_peak_mib": 150,
    }


def test_what_was_not_measured_is_null_and_never_a_guess() -> None:
    assert ratios(()) == dict.fromkeys(RATIOS)
    only_ours = ratios([row("restore", "regraft", 1.0), row("capture", "regraft", 1.0)])
    assert only_ours == {**dict.fromkeys(RATIOS), "agent_peak_mib": 0.0}


def test_without_trusting_metadata_a_reset_is_that_of_hashing() -> None:
    rows = [one for one in ROWS if "trust" not in one.contestant]
    assert ratios(rows)["reset_share"] == 0.4
    assert "reset_share_trusting_metadata" not in more_ratios(rows)


def test_every_peer_has_its_own_ratio() -> None:
    found = more_ratios(ROWS)
    assert found["restore_vs_squashfs"] == 0.75
    assert found["looking_share"] == 0.06
    assert found["restore_vs_qemu_img_large"] == 0.5
    assert found["capture_vs_borg"] == 2.5
    assert found["http_vs_curl_tar"] == 2.0
    assert found["second_machine_share_borg"] == 0.1


@pytest.mark.parametrize(("slower", "power"), [(10.0, 1.0), (100.0, 2.0), (1.0, 0.0)])
def test_growth_is_a_power_of_the_amount(slower: float, power: float) -> None:
    rows = [
        row("growth files", "regraft restore", 1.0, "10,000 files", peak_mib=100),
        row("growth files", "regraft restore", slower, "100,000 files", peak_mib=100),
    ]
    assert growth(rows) == {
        "restore, 10,000 files to 100,000 files: time": power,
        "restore, 10,000 files to 100,000 files: memory": 0.0,
    }
