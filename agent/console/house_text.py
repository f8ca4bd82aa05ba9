"""Keeping house in words: what is kept and what goes, what is pruned, what a check found, who uses what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent.console.table import table
from agent.depot.prune import PrunePlan
from agent.model.duration import span_text
from agent.model.retention import Verdict
from agent.model.sweep import Due
from agent.model.wording import printable, size_text

LISTED = 20


def verdicts_table(verdicts: Sequence[Verdict]) -> str:
    """One line an image."""
    rows = [
        (str(each.image), "keep" if each.keep else "FORGET", "; ".join(each.reasons) or why_not(each))
        for each in verdicts
    ]
    return table(("image", "", "why"), rows)


def why_not(verdict: Verdict) -> str:
    return "named" if verdict.named else "no rule keeps it"


def prune_text(plan: PrunePlan, grace_s: int, done: bool) -> Iterator[str]:
    """What prune found; ``done``: and did."""
    found = plan.sweep
    yield f"{plan.objects:,} packs and listings, {size_text(plan.object_bytes)}"
    for lease in plan.leases:
        yield f"running since {lease.begun}: {printable(lease.purpose)}"
    yield from _dues("deleted" if done else "would be deleted", found.delete)
    yield from _dues("left alone, because something is running that may rely on them", found.held)
    yield from _dues(f"unreferenced, kept until the grace period of {span_text(grace_s)} is over", found.waiting)
    yield from _dues("left over by work that was cut, " + ("deleted" if done else "would be deleted"), plan.leftovers)
    if not (found.delete or found.held or found.waiting or plan.leftovers):
        yield "every file is needed"
    elif not done:
        yield "Nothing was changed. To mark what is unreferenced, and DELETE what was long enough: --delete"


def _dues(what: str, dues: Sequence[Due]) -> Iterator[str]:
    if dues:
        yield f"{len(dues):,} {what}: {size_text(sum(due.size_bytes for due in dues))}"
        for due in dues[:LISTED]:
            yield f"  {printable(due.path)}  {size_text(due.size_bytes)}  since {due.since}"
        if len(dues) > LISTED:
            yield f"  … and {len(dues) - LISTED:,} more"
