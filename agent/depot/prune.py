"""Deletes what no image needs: files that nothing has referred to for the length of a grace period.

    manifests ──► references ─┐
    packs, listings ──────────┼──► model.sweep ──► delete ──► marks
    marks.json, leases ───────┘

Everything that is decided and deleted is decided and deleted under the depot's lock, which an image is published under
as well: an image is never published without a file that was deleted while it was. The protocol and its races:
docs/decisions/0013-prune-protocol.md.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from agent.depot.forget import references
from agent.depot.lease import LeaseFile
from agent.depot.local import LocalDepot, now_compact, settle
from agent.depot.marks import MARKS_FILE, decode_marks, encode_marks
from agent.depot.stored import expired_leases, idle_notes, leftovers, live_leases, stored_objects
from agent.model.retention import age_s
from agent.model.sweep import Due, Sweep, sweep

GRACE_S = 24 * 3600
# Short work takes no lease (a profile, a component): what it has in tmp/ is left alone for this long whatever is asked.
LEFTOVER_GRACE_S = 3600


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What prune found, and what it does or would do. ``leftovers`` are files and folders of work that was cut."""

    objects: int  # packs and listings
    object_bytes: int
    sweep: Sweep
    leftovers: tuple[Due, ...]
    leases: tuple[LeaseFile, ...]
    now: str


def plan_prune(depot: LocalDepot, grace_s: int, now: str) -> PrunePlan:
    """Look, and change nothing. Raises DamagedError when a manifest is not understood."""
    present = stored_objects(depot)
    leases = live_leases(depot, now)
    begins = [lease.begun for lease in leases]
    decided = sweep(present, references(depot), _marks(depot), begins, now, grace_s)
    old = tuple(
        due for due in _leftovers(depot)
        if age_s(due.since, now) >= max(grace_s, LEFTOVER_GRACE_S) and not any(begun <= due.since for begun in begins)
    )  # fmt: skip
    return PrunePlan(len(present), sum(present.values()), decided, old, leases, now)


def prune(depot: LocalDepot, grace_s: int, clock: Callable[[], str] = now_compact) -> PrunePlan:
    """Delete what was marked long enough ago, then mark. What was done is what the plan that comes back says.

    In this order a full depot gets the room that a mark needs. Cut in between, what is new has no mark yet, and waits
    longer; what is gone still has one, and the next run takes that away.
    """
    with depot.locked():
        plan = plan_prune(depot, grace_s, clock())
        for due in plan.leftovers:
            _remove(depot, due.path)
        for due in plan.sweep.delete:
            (depot.root / due.path).unlink(missing_ok=True)
        for folder in {(depot.root / due.path).parent for due in plan.sweep.delete}:
            settle(folder)
        if plan.sweep.new or plan.sweep.unmark or plan.sweep.delete:
            depot.write(MARKS_FILE, encode_marks(plan.sweep.marks()))
        # While captures run, packs may be told of that are not there yet.
        for path in (*expired_leases(depot, plan.now), *(() if plan.leases else idle_notes(depot))):
            path.unlink(missing_ok=True)
        return plan


def _marks(depot: LocalDepot) -> dict[str, str]:
    return decode_marks(depot.read(MARKS_FILE), depot.location) if depot.exists(MARKS_FILE) else {}


def _leftovers(depot: LocalDepot) -> tuple[Due, ...]:
    return tuple(
        Due(path, size, datetime.fromtimestamp(newest, UTC).strftime("%Y%m%dT%H%M%SZ"))
        for path, size, newest in leftovers(depot)
    )


def _remove(depot: LocalDepot, path: str) -> None:
    place = depot.root / path
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)
