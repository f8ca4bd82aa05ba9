"""Which files of a depot may be deleted: marked first, deleted only when a grace period has passed since.

    nothing refers to it ──► marked ──── grace ────► deleted
             └── something does ◄──────────┘ (the mark goes)

Never by access time, and never what a running capture may rely on. A capture's lease says since when it runs: what an
image referred to then was marked later, if at all, and what it puts there it marks later, too. So a lease holds
everything whose mark is not older than the lease itself. See docs/decisions/0013-prune-protocol.md.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from agent.model.retention import age_s, moment


@dataclass(frozen=True, slots=True)
class Due:
    """A file nothing refers to, and since when."""

    path: str
    size_bytes: int
    since: str  # time of its mark


@dataclass(frozen=True, slots=True)
class Sweep:
    """What becomes of the files that nothing refers to; each list in the order of paths."""

    delete: tuple[Due, ...] = ()
    held: tuple[Due, ...] = ()  # long enough unreferenced, but a running capture may rely on them
    waiting: tuple[Due, ...] = ()  # marked, the grace period is not over
    new: tuple[Due, ...] = ()  # of those: not marked before
    unmark: tuple[str, ...] = ()  # referred to again, or gone

    def marks(self) -> dict[str, str]:
        """The marks of what stays."""
        return {due.path: due.since for due in (*self.held, *self.waiting)}


def sweep(  # noqa: PLR0913 - the facts of one decision
    present: Mapping[str, int],
    referenced: Collection[str],
    marks: Mapping[str, str],
    lease_begins: Collection[str],
    now: str,
    grace_s: int,
) -> Sweep:
    """Decide. ``present`` maps paths to bytes; times are as names carry them, 20261123T204140Z."""
    delete, held, waiting, new = [], [], [], []
    for path in sorted(present):
        if path in referenced:
            continue
        since = marks.get(path, "")
        if moment(since) is None or since > now:  # none, or from a clock that went wrong: the grace begins anew
            since = now
        due = Due(path, present[path], since)
        if marks.get(path) != since:
            new.append(due)
        if age_s(since, now) < grace_s:
            waiting.append(due)
        elif any(begun <= since for begun in lease_begins):
            held.append(due)
        else:
            delete.append(due)
    unmark = tuple(path for path in sorted(marks) if path not in present or path in referenced)
    return Sweep(tuple(delete), tuple(held), tuple(waiting), tuple(new), unmark)
