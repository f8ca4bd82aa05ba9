"""Which network card of the target takes the place of which card of the source.

What is configured is an interface *name* and its addresses; the card behind it is exchangeable. The same MAC is the
same card; otherwise a link that is up, the same driver, then the order of the buses decide, cards that carry addresses
first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agent.model.profile import Nic, Profile

# Made by software: they stand on cards and need none of their own.
_NOT_A_CARD = re.compile(r"lo|(bond|br|vlan|virbr|docker|veth|tun|tap|wg|dummy|ppp|team|vnet|ovs).*|.*[.:*?\[].*")
KERNEL_NAME = re.compile(r"eth\d+")


@dataclass(frozen=True, slots=True)
class Pair:
    """An interface that the image knows, and the target's card that becomes it (None: there is none left)."""

    name: str
    mac: str  # of the source's card; "" when only the configuration is known
    carries: bool  # addresses or configuration
    target: Nic | None
    reason: str


def map_nics(source: Profile, target: Profile) -> tuple[Pair, ...]:
    """Every interface of the source with its card on the target, those that carry addresses first."""
    configured = {name for config in source.network.configs for name in config.interfaces}
    known = {nic.name for nic in source.network.nics}
    wanted = list(source.network.nics)
    wanted += [Nic(mac="", name=name) for name in sorted(configured - known) if not _NOT_A_CARD.fullmatch(name)]
    carrying = {nic.name for nic in wanted if _carries(nic) or nic.name in configured}
    wanted.sort(key=lambda nic: nic.name not in carrying)
    free = [nic for nic in target.network.nics if nic.mac]
    pairs = []
    # Cards that are still there are no one else's; but one that nothing is configured on is given to an interface that
    # would have none: it may be the card of the machine that a disk was captured in.
    same = {nic.mac: nic for nic in free}
    own = {nic.mac for nic in wanted if nic.mac in same}
    taken = {nic.mac for nic in wanted if nic.mac in same and nic.name in carrying}
    for nic in wanted:
        keeps = nic.mac in same and (nic.name in carrying or nic.mac not in taken)
        chosen, reason = (same[nic.mac], "the same card") if keeps else (None, "")
        if chosen is None:
            left = [one for one in free if one.mac not in taken]
            chosen, reason = _best(nic, [one for one in left if one.mac not in own] or left)
        if chosen:
            taken.add(chosen.mac)
        pairs.append(Pair(nic.name, nic.mac, nic.name in carrying, chosen, reason))
    return tuple(pairs)


def _carries(nic: Nic) -> bool:
    return any(address.origin != "link" for address in nic.addresses)


def _best(wanted: Nic, free: list[Nic]) -> tuple[Nic | None, str]:
    if not free:
        return None, "no card is left for it"

    def merit(nic: Nic) -> tuple[bool, bool]:
        return nic.link == "up", bool(wanted.driver) and nic.driver == wanted.driver

    chosen = max(free, key=merit)  # of equals the first: order of the buses
    up, driver = merit(chosen)
    words = [word for word, holds in (("its link is up", up), ("same driver", driver)) if holds]
    return chosen, ", ".join(words) or "the first card that is free"
