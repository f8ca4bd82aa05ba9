"""What a bench finds, as values: rows of measurements, ratios, and all that must be known to read them."""

from __future__ import annotations

import msgspec

GB = 10**9
RATIOS = (
    "restore_vs_fastest", "restore_vs_fastest_checking", "http_vs_curl_tar", "capture_vs_tar", "recapture_vs_restic",
    "recapture_vs_borg", "depot_size_vs_tar", "second_machine_share", "reset_share", "blocks_vs_partclone",
    "floor_efficiency", "agent_peak_mib",
)  # fmt: skip
# Rows that ratios are made of and that are no contestant of their own; all of ours begin with our name.
OURS, OUR_CAPTURE, OUR_RESTORE = "regraft", "regraft capture", "regraft restore"
HASHING, TRUSTING = "regraft reset", "regraft reset --trust-metadata"
LOOKING = "find"  # reads the metadata of everything, and does nothing: no reset that trusts metadata can do less
DECIDING, REHEARSING = "regraft diff", "regraft rehearse"
DECOMPRESSION, WRITING = "decompression alone", "writing alone"
CURL_TAR = "curl | tar"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One contestant in one scenario with one data set."""

    scenario: str
    data: str
    contestant: str
    rounds: int
    seconds: float  # median
    fastest: float
    slowest: float
    processor_seconds: float  # median
    plain_bytes: int  # of the data set, as files hold it
    stored_bytes: int = 0  # of the store; of a second image: what it added
    peak_mib: float = 0.0
    checks: str = ""  # what of the data it reads it checks

    @property
    def processor_seconds_per_gb(self) -> float:
        return self.processor_seconds / (self.plain_bytes / GB) if self.plain_bytes else 0.0


class Omission(msgspec.Struct, frozen=True):
    """Who or what was not measured, and why."""

    what: str
    why: str


class DataSet(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    how: str
    entries: int
    files: int
    bytes: int
    image_bytes: int


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """The whole, as build/bench.json has it. A ratio that was not measured is null."""

    ratios: dict[str, float | None]
    agent_peak_mib: float | None
    more_ratios: dict[str, float]
    growth: dict[str, float]
    left_out: tuple[Omission, ...]
    failures: tuple[str, ...]  # what of ours did not work; then the bench ends with status 1
    data: tuple[DataSet, ...]
    rows: tuple[Row, ...]
    scenario_seconds: dict[str, float]
    settings: dict[str, str | int]
    machine: dict[str, str | int | float]
    versions: dict[str, str]
