"""Images of other machines with the same software: what they hold is not stored again."""

from __future__ import annotations

from collections.abc import Iterable

from agent.depot.catalogue import LoadedImage, find_image, images
from agent.depot.signing import trusted_keys
from agent.depot.store import Depot
from agent.errors import DamagedError, NoImageError, NotTrustedError
from agent.model.image import ImageRef
from agent.model.likeness import most_alike
from agent.model.profile import Profile

LOOKED_AT = 8  # machines, those captured last: one profile is some hundred kilobytes


def relative_of(depot: Depot, trust: Iterable[str], machine: Profile) -> LoadedImage | None:
    """The newest image of the machine that has most in common with ``machine``; None when none has enough."""
    if not machine.packages:
        return None
    newest: dict[str, str] = {}
    for facts in images(depot):
        if facts.machine != machine.machine:
            newest[facts.machine] = max(facts.time, newest.get(facts.machine, ""))
    recent = sorted(newest.items(), key=lambda each: each[1], reverse=True)[:LOOKED_AT]
    if not recent:
        return None
    keys = trusted_keys(depot, trust)
    found: dict[str, LoadedImage] = {}
    for name, time in recent:
        try:
            found[name] = find_image(depot, keys, ImageRef(name, time))
        except (NoImageError, NotTrustedError, DamagedError):
            continue  # it is not built on; ‘regraft check’ says what is wrong with it
    best = most_alike(machine, [loaded.profile for loaded in found.values()])
    return found[best.machine] if best is not None else None
