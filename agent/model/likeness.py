"""How much two machines have in common: what one holds need not be stored for the other."""

from __future__ import annotations

from collections.abc import Iterable

from agent.model.profile import Profile

ALIKE = 0.3  # below this share of common packages, an index of the other machine's chunks is not worth its reading


def likeness(one: Profile, other: Profile) -> float:
    """The share of common packages, by name, architecture and version, among all that either has; 0 to 1."""
    ours, theirs = set(one.packages), set(other.packages)
    return len(ours & theirs) / len(ours | theirs) if ours and theirs else 0.0


def most_alike(machine: Profile, others: Iterable[Profile]) -> Profile | None:
    """The profile of the machine that has most in common with this one; None when none has enough."""
    best = max(others, key=lambda other: likeness(machine, other), default=None)
    return best if best is not None and likeness(machine, best) >= ALIKE else None
