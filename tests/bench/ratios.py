"""Rows to ratios: pure. Where two times are compared, the peer's is divided by ours: above 1, we are faster."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from tests.bench.values import (
    CURL_TAR,
    DECOMPRESSION,
    HASHING,
    LOOKING,
    OUR_CAPTURE,
    OUR_RESTORE,
    OURS,
    RATIOS,
    TRUSTING,
    WRITING,
    Row,
)

SETS = ("system", "large")


class Rows:
    """Rows, asked for by what they are about."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = tuple(rows)

    def of(self, scenario: str, data: str = "") -> dict[str, Row]:
        """By contestant."""
        return {row.contestant: row for row in self._rows if row.scenario == scenario and data in ("", row.data)}

    def faster(self, scenario: str, peers: Iterable[str], data: str = "") -> float | None:
        """The fastest of these peers over us."""
        found = self.of(scenario, data)
        times = [found[peer].seconds for peer in peers if peer in found]
        return min(times) / found[OURS].seconds if times and OURS in found else None

    def ours(self) -> list[Row]:
        return [row for row in self._rows if row.contestant.startswith(OURS)]


def ratios(all_rows: Sequence[Row]) -> dict[str, float | None]:
    """By the names of RATIOS, in their order; None: not measured."""
    rows = Rows(all_rows)
    found = {
        "restore_vs_fastest": worst(restore(rows, data, checking=False) for data in SETS),
        "restore_vs_fastest_checking": worst(restore(rows, data, checking=True) for data in SETS),
        "http_vs_curl_tar": rows.faster("http", [CURL_TAR]),
        "capture_vs_tar": rows.faster("capture", ["tar"]),
        "recapture_vs_restic": rows.faster("recapture", ["restic"]),
        "recapture_vs_borg": rows.faster("recapture", ["borg"]),
        "depot_size_vs_tar": stored_share(rows.of("capture"), OURS, rows.of("capture"), "tar"),
        "second_machine_share": stored_share(rows.of("second"), OURS, rows.of("capture"), OURS),
        "reset_share": reset_share(rows, TRUSTING) or reset_share(rows, HASHING),
        "blocks_vs_partclone": rows.faster("blocks", ["partclone"]),
        "floor_efficiency": floor_efficiency(rows),
        "agent_peak_mib": max((row.peak_mib for row in rows.ours()), default=None),
    }
    return {name: rounded(found[name]) for name in RATIOS}


def more_ratios(all_rows: Sequence[Row]) -> dict[str, float]:
    """The same for every single peer and data set, where measured."""
    rows = Rows(all_rows)
    found: dict[str, float | None] = {}
    for scenario in ("restore", "capture", "recapture", "http"):
        for data in SETS:
            for peer in rows.of(scenario, data):
                if not peer.startswith(OURS):
                    name = "_".join(peer.replace("|", "").replace("-", "_").split())
                    suffix = "" if data == "system" else f"_{data}"
                    found[f"{scenario}_vs_{name}{suffix}"] = rows.faster(scenario, [peer], data)
    found["reset_share_hashing"] = reset_share(rows, HASHING)
    found["reset_share_trusting_metadata"] = reset_share(rows, TRUSTING)
    found["looking_share"] = reset_share(rows, LOOKING)
    for peer in ("restic", "borg"):
        found[f"second_machine_share_{peer}"] = stored_share(rows.of("second"), peer, rows.of("capture"), peer)
    return {name: round(value, 3) for name, value in found.items() if value is not None}


def restore(rows: Rows, data: str, checking: bool) -> float | None:
    """The fastest of all peers, or of those that check what they read, over us."""
    found = rows.of("restore", data)
    peers = [name for name, row in found.items() if name != OURS and (row.checks or not checking)]
    return rows.faster("restore", peers, data)


def floor_efficiency(rows: Rows) -> float | None:
    found = rows.of("floor")
    alone = [found[name].seconds for name in (DECOMPRESSION, WRITING) if name in found]
    return sum(alone) / found[OURS].seconds if len(alone) == 2 and OURS in found else None


def reset_share(rows: Rows, way: str) -> float | None:
    found = rows.of("reset")
    return found[way].seconds / found[OURS].seconds if way in found and OURS in found else None


def stored_share(some: dict[str, Row], one: str, others: dict[str, Row], other: str) -> float | None:
    whole = others[other].stored_bytes if other in others else 0
    return some[one].stored_bytes / whole if one in some and whole else None


def worst(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def growth(all_rows: Sequence[Row]) -> dict[str, float]:
    """For every step up: by which power of the amount time and memory grow; 1 is linear, below is better."""
    found: dict[str, float] = {}
    for scenario in ("growth files", "growth bytes"):
        for name in (OUR_CAPTURE, OUR_RESTORE):
            steps = [row for row in all_rows if row.scenario == scenario and row.contestant == name]
            for smaller, larger in pairwise(steps):
                place = f"{name.removeprefix(OURS).strip()}, {smaller.data} to {larger.data}"
                times = math.log(amount(larger) / amount(smaller))
                found[f"{place}: time"] = round(math.log(larger.seconds / smaller.seconds) / times, 2)
                found[f"{place}: memory"] = round(math.log(larger.peak_mib / smaller.peak_mib) / times, 2)
    return found


def amount(row: Row) -> float:
    """The number that a growth row's data set is named by."""
    return float(row.data.split()[0].replace(",", ""))
