"""What was done and proved, per restore. JSON is canonical; other forms are made from it."""

from __future__ import annotations

import msgspec

from agent.model.wording import well_formed


class StageTime(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    seconds: float
    bytes: int = 0


class ItemResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a difference item."""

    id: str
    op: str
    kind: str
    key: str
    tier: str
    source: str
    target: str
    verdict: str
    reason: str
    handled_by: tuple[str, ...]
    evidence: tuple[tuple[str, str], ...] = ()  # section, text


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a rehearsal found and that would stop a restore."""

    code: str  # of agent.errors
    exit_code: int
    message: str  # with the next act


class RecipeResult(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    tier: str
    result: str  # done, failed, warned
    changed: tuple[str, ...]  # paths it changed, made or removed
    checks: tuple[str, ...]  # one line a check: "ok grep /etc/fstab …"


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    ok: bool
    detail: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    result: str  # restored-and-verified, restored-with-warnings, failed; of a rehearsal: would-restore,
    # would-restore-with-warnings, would-stop
    error: str
    error_code: str
    exit_code: int
    mode: str
    image: str
    manifest_sha256: str
    plan_sha256: str
    tool: str
    started: str
    ended: str
    target_vendor: str
    target_product: str
    target_serial: str
    target_uuid: str
    disk: str  # one line: model, serial, size
    disk_held: str  # what it held before
    untouched: tuple[str, ...]
    difference: tuple[ItemResult, ...]
    components: tuple[str, ...]
    recipes: tuple[RecipeResult, ...]
    changed_paths: tuple[str, ...]  # every path of the restored system that differs from the image, sorted
    checks: tuple[CheckResult, ...]
    stages: tuple[StageTime, ...]
    bytes_fetched: int
    bytes_written: int
    bytes_read_back: int
    bytes_trusted: int = 0  # believed by their files' metadata, neither written nor read
    mismatches: int
    peak_memory_bytes: int
    warnings: tuple[str, ...]
    edits: tuple[str, ...] = ()  # what the operator decided otherwise, one line each
    stops: tuple[Stop, ...] = ()  # of a rehearsal: everything that would stop, in the order in which it would
    site_recipes: tuple[str, ...] = ()  # which recipes were not the shipped ones, a line each
    grow: str = ""  # who got the space of a larger disk: a policy, or a volume


def well_formed_report(report: Report) -> Report:
    """A report as JSON can carry it: paths of a restored system may hold names that are not UTF-8."""
    return msgspec.convert(_well_formed(msgspec.to_builtins(report)), Report)


def _well_formed(value: object) -> object:
    match value:
        case str():
            return well_formed(value)
        case dict():
            return {key: _well_formed(item) for key, item in value.items()}
        case list() | tuple():
            return [_well_formed(item) for item in value]
    return value
