"""What ``restore`` and ``agent`` do alike: execute a prepared plan and leave its report everywhere it belongs."""

from __future__ import annotations

from pathlib import Path

import msgspec

from agent.commands.luks_keys import asked_before
from agent.console.recorder import Recorder, now
from agent.errors import RegraftError, StoppedAfterWritesError, StoppedError
from agent.model.plan import digest, encode
from agent.model.report import Report, well_formed_report
from agent.probe.stack_open import KeyOf, no_keys
from agent.restore.preflight import check_before_writing
from agent.restore.prepare import Prepared
from agent.restore.report import Outcome, make_report
from agent.restore.run import Execution

MOUNT_ROOT = Path("/run/regraft/target")


def carry_out(prepared: Prepared, recorder: Recorder, mount_root: Path = MOUNT_ROOT, key_of: KeyOf = no_keys) -> Report:
    """Preflight, then every step of the plan. Never raises for a restore that failed: the report says so."""
    started = now()
    execution = Execution(
        plan=prepared.plan,
        loaded=prepared.loaded,
        depot=prepared.depot,
        recorder=recorder,
        mount_root=mount_root,
        keep=(("plan.json", encode(prepared.plan)), ("difference.xml", prepared.difference_xml)),
    )
    error: RegraftError | None = None
    try:
        with recorder.phase("preflight", "checking everything that can be checked before the first write"):
            check_before_writing(prepared)
        execution.key_of = asked_before(prepared.plan, key_of)
        recorder.message(f"executing plan {digest(prepared.plan)[:16]}", "plan")
        execution.run()
    except RegraftError as failed:
        error = failed
    except KeyboardInterrupt:
        error = stopped(execution.done.began)
    except OSError as failed:
        error = execution.io_error(failed)
    if error is not None:
        recorder.error(error)
    return make_report(
        prepared.plan, prepared.difference, prepared.target, Outcome(started, execution.done, error), recorder
    )


def stopped(began: bool) -> RegraftError:
    if began:
        return StoppedAfterWritesError(
            "stopped after writes began: the disk does not boot", "start the same restore again, it continues"
        )
    return StoppedError("stopped before anything was written")


def report_json(report: Report) -> bytes:
    return msgspec.json.format(msgspec.json.encode(well_formed_report(report)), indent=1)
