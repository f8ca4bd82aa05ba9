"""What must be removed, added, changed, mapped or blocked between a source and a target profile.

``compare`` is pure; its document form (XML, same schema file as the profile) is in `profile_xml`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Op(StrEnum):
    REMOVE = "remove"
    ADD = "add"
    CHANGE = "change"
    MAP = "map"
    BLOCK = "block"


class Tier(StrEnum):
    MUST = "must"
    SHOULD = "should"
    LATER = "later"


class Verdict(StrEnum):
    """Does the kernel inside the image drive this device? (knowledge: decided from the image's own files)"""

    MODULE = "module"
    BUILTIN = "builtin"
    DRIVER_WITHOUT_ID = "driver-without-id"
    ABSENT = "absent"
    NOT_APPLICABLE = "n-a"


class Light(StrEnum):
    """What an item means to who has to decide: go on, look at it, or it stops here."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


SKIPPED = "skipped"  # in handled_by: nobody does, because the operator said so


@dataclass(frozen=True, slots=True)
class Item:
    """One difference. ``kind``: device, driver, nic, disk, partition, mount, swap, resume, firmware,
    cpu, sector-size, kernel, loader, identity, hostname, console, machine-id, platform, config."""

    id: str  # d1, d2, …
    op: Op
    kind: str
    key: str
    tier: Tier
    reason: str
    source: str = ""  # "from" of the document
    target: str = ""  # "to" of the document
    verdict: Verdict = Verdict.NOT_APPLICABLE
    evidence: tuple[tuple[str, str], ...] = ()  # (section, text)
    handled_by: tuple[str, ...] = ()  # recipe ids, or "layout", "preserved"


@dataclass(frozen=True, slots=True)
class Difference:
    source: str  # machine@time
    target: str
    items: tuple[Item, ...]

    @property
    def blockers(self) -> tuple[Item, ...]:
        """Items that stop a restore: blocks, and musts that nothing handles."""
        return tuple(item for item in self.items if light_of(item) is Light.RED)

    @property
    def light(self) -> Light:
        """The worst of the items'."""
        return worst(light_of(item) for item in self.items)


class AnyItem(Protocol):
    """An item, here or in a report."""

    @property
    def op(self) -> str: ...
    @property
    def tier(self) -> str: ...
    @property
    def verdict(self) -> str: ...
    @property
    def handled_by(self) -> tuple[str, ...]: ...


def light_of(item: AnyItem) -> Light:
    """Red stops the restore; amber works less well than before, or was skipped; green is handled or needs nothing."""
    if item.op == Op.BLOCK or (item.tier == Tier.MUST and not item.handled_by):
        return Light.RED
    if SKIPPED in item.handled_by or (item.tier == Tier.SHOULD and not item.handled_by):
        return Light.AMBER
    driverless = item.verdict in (Verdict.ABSENT, Verdict.DRIVER_WITHOUT_ID)
    return Light.AMBER if driverless and not item.handled_by else Light.GREEN


def worst(lights: Iterable[Light]) -> Light:
    return max(lights, key=tuple(Light).index, default=Light.GREEN)
