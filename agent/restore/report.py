"""The report of a restore: from the plan, the difference and what the run did."""

from __future__ import annotations

from dataclasses import dataclass

from agent.console.recorder import Recorder, now
from agent.errors import RegraftError
from agent.model.choices import choice_lines
from agent.model.difference import Difference
from agent.model.plan import DiskIdentity, Plan, digest
from agent.model.profile import Profile
from agent.model.report import ItemResult, Report
from agent.restore.memory import own_peak_memory_bytes
from agent.restore.run import Done
from agent.version import TOOL

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    started: str
    done: Done
    error: RegraftError | None


def make_report(plan: Plan, difference: Difference, target: Profile, outcome: Outcome, recorder: Recorder) -> Report:
    """The report of record of one run, also of one that failed."""
    done, error = outcome.done, outcome.error
    return Report(
        format=FORMAT,
        result=_result(error, recorder.warnings),
        error=str(error) if error else "",
        error_code=error.code if error else "",
        exit_code=error.exit_code if error else 0,
        mode=plan.mode,
        image=plan.image,
        manifest_sha256=plan.manifest_sha256,
        plan_sha256=digest(plan),
        tool=TOOL,
        started=outcome.started,
        ended=now(),
        target_vendor=target.platform.system_vendor,
        target_product=target.platform.product_name,
        target_serial=target.platform.system_serial,
        target_uuid=target.platform.system_uuid,
        disk="; ".join(map(disk_line, plan.disks)),
        disk_held="; ".join(each.content for each in plan.disks if each.content),
        grow=plan.grow,
        untouched=plan.untouched,
        difference=item_results(difference),
        components=tuple(f"{c.id} {c.version}: {c.reason}" for c in plan.components),
        recipes=tuple(done.recipes),
        changed_paths=tuple(sorted(done.changed)),
        checks=tuple(done.checks),
        stages=tuple(recorder.stages),
        bytes_fetched=done.bytes_fetched,
        bytes_written=done.bytes_written,
        bytes_read_back=done.bytes_read_back,
        bytes_trusted=done.bytes_trusted,
        mismatches=done.mismatches,
        peak_memory_bytes=max(done.peak_memory_bytes, own_peak_memory_bytes()),
        warnings=(*plan.warnings, *recorder.warnings),
        edits=choice_lines(plan.choices),
        site_recipes=plan.site_recipes,
    )


def disk_line(disk: DiskIdentity) -> str:
    return f"{disk.name}: {disk.model} serial {disk.serial or '-'} {disk.size_bytes:,} bytes"


def item_results(difference: Difference) -> tuple[ItemResult, ...]:
    return tuple(
        ItemResult(
            id=item.id,
            op=item.op,
            kind=item.kind,
            key=item.key,
            tier=item.tier,
            source=item.source,
            target=item.target,
            verdict=item.verdict,
            reason=item.reason,
            handled_by=item.handled_by,
            evidence=item.evidence,
        )
        for item in difference.items
    )


def _result(error: RegraftError | None, warnings: list[str]) -> str:
    if error is not None:
        return "failed"
    return "restored-with-warnings" if warnings else "restored-and-verified"
