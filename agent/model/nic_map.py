"""Which network card of the target takes the place of which card of the source.

What is configured is an interface *name* and its addresses; the card behind it is exchangeable. The same MAC is the
same card; otherwise a link that is up, the same driver, then the order of the buses decide, cards that carry addresses
first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.errors import UsageError
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


def map_nics(source: Profile, target: Profile, by_hand: Mapping[str, str] | None = None) -> tuple[Pair, ...]:
    """Every interface of the source with its card on the target, those that carry addresses first.

    ``by_hand``: the operator's word, which goes before everything: interface name or MAC → MAC of the target.
    """
    configured = {name for config in source.network.configs for name in config.interfaces}
    known = {nic.name for nic in source.network.nics}
    wanted = list(source.network.nics)
    wanted += [Nic(mac="", name=name) for name in sorted(configured - known) if not _NOT_A_CARD.fullmatch(name)]
    carrying = {nic.name for nic in wanted if _carries(nic) or nic.name in configured}
    wanted.sort(key=lambda nic: nic.name not in carrying)
    named = _by_hand(by_hand or {}, wanted, target)
    free = [nic for nic in target.network.nics if nic.mac and nic not in named.values()]
    pairs = []
    # Cards that are still there are no one else's; but one that nothing is configured on is given to an interface that
    # would have none: it may be the card of the machine that a disk was captured in.
    same = {nic.mac: nic for nic in free}
    left_to_us = [nic for nic in wanted if nic.mac in same and nic.name not in named]
    own = {nic.mac for nic in left_to_us}
    taken = {nic.mac for nic in left_to_us if nic.name in carrying}
    for nic in wanted:
        if nic.name in named:
            pairs.append(Pair(nic.name, nic.mac, nic.name in carrying, named[nic.name], "chosen by the operator"))
            continue
        keeps = nic.mac in same and (nic.name in carrying or nic.mac not in taken)
        chosen, reason = (same[nic.mac], "the same card") if keeps else (None, "")
        if chosen is None:
            left = [one for one in free if one.mac not in taken]
            chosen, reason = _best(nic, [one for one in left if one.mac not in own] or left)
        if chosen:
            taken.add(chosen.mac)
        pairs.append(Pair(nic.name, nic.mac, nic.name in carrying, chosen, reason))
    return tuple(pairs)


def _by_hand(by_hand: Mapping[str, str], wanted: Iterable[Nic], target: Profile) -> dict[str, Nic]:
    """Interface name → the card that the operator named. Raises UsageError for what is not there."""
    cards = {nic.mac: nic for nic in target.network.nics if nic.mac}
    found: dict[str, Nic] = {}
    for old, new in by_hand.items():
        nic = next((nic for nic in wanted if old in (nic.name, nic.mac)), None)
        if nic is None:
            names = ", ".join(f"{nic.name} {nic.mac}".strip() for nic in wanted) or "none"
            raise UsageError(f"interface ‘{old}’ is not one of the image’s: {names}", "correct the mapping of cards")
        if new not in cards:
            raise UsageError(
                f"card {new} for {old} is not one of the target’s: {', '.join(cards) or 'none'}",
                "correct the mapping of cards",
            )
        if cards[new] in found.values():
            raise UsageError(f"card {new} is given to two interfaces", "correct the mapping of cards")
        found[nic.name] = cards[new]
    return found


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
