"""What must be removed, added, changed, mapped or blocked between a source and a target profile.

``compare`` is pure; its document form (XML, same schema file as the profile) is in `profile_xml`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
        return tuple(
            item for item in self.items if item.op is Op.BLOCK or (item.tier is Tier.MUST and not item.handled_by)
        )
