"""Which network card of the target takes the place of which card of the source.

    the operator's choice ► the same card ► evidence ► the order of the slots ► a tie

What is configured is an interface *name* and its addresses; the card behind it is exchangeable. Evidence, best first:
the card is in the interface's own network (by the lease that it got here), the same medium, a link, no lease of another
network, the same driver, a driver of the same family, the same speed. Pairs are made from the best evidence down, so
that no interface takes what fits another one better. Equals go by the order of their slots where as many are wanted as
there are; where there are more, nobody can know which is meant: a tie, which names the rivals.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from agent.errors import UsageError
from agent.model.mac_address import MAC
from agent.model.profile import Nic, Profile

# Made by software: they stand on cards and need none of their own. What a file says it makes is known by its name.
_NOT_A_CARD = re.compile(r"lo|(bond|br|vlan|virbr|docker|veth|tun|tap|wg|dummy|ppp|team|vnet|ovs).*|.*[.:*?\[%].*")
KERNEL_NAME = re.compile(r"eth\d+")
NO_CARD = "none"
STOP, ORDER = "stop", "order"  # what to do about a tie
# Drivers whose cards are successors of each other, or stand for each other in virtual machines.
_FAMILIES = (
    frozenset({"virtio_net", "vmxnet3", "hv_netvsc", "xen_netfront", "ena", "gve", "mana"}),
    frozenset({"e1000", "e1000e", "igb", "igc", "ixgb", "ixgbe", "i40e", "ice", "igbvf", "ixgbevf", "iavf", "e100"}),
    frozenset({"tg3", "bnx2", "bnx2x", "bnxt_en"}),
    frozenset({"mlx4_en", "mlx4_core", "mlx5_core", "mlxsw_core"}),
    frozenset({"r8169", "8139cp", "8139too", "r8125", "r8168"}),
    frozenset({"pcnet32", "ne2k_pci", "8390"}),
    frozenset({"sfc", "sfc_siena", "sfc_ef100"}),
    frozenset({"cxgb4", "cxgb3", "cxgb4vf"}),
    frozenset({"qede", "qlcnic", "qlge", "netxen_nic"}),
)
_Score = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NicWishes:
    """What a person or a job says about cards. ``chosen``: (interface name or old MAC, new MAC or "none")."""

    chosen: tuple[tuple[str, str], ...] = ()
    on_tie: str = STOP

    def with_more(self, chosen: Mapping[str, str]) -> NicWishes:
        """These, and what an operator's file says."""
        return replace(self, chosen=(*self.chosen, *chosen.items()))


NO_WISHES = NicWishes()


@dataclass(frozen=True, slots=True)
class Pair:
    """An interface that the image knows, and the target's card that becomes it (None: there is none left)."""

    name: str
    mac: str  # of the source's card; "" when only the configuration is known
    carries: bool  # addresses or configuration
    target: Nic | None
    reason: str
    source: Nic
    rivals: tuple[Nic, ...] = ()  # cards that fit as well as the one that was taken
    wished: bool = False  # by the operator


@dataclass(frozen=True, slots=True)
class Watched:
    """A card of the target, by the name that it has now, and the IPv4 addresses that are to be on it."""

    card: str
    mac: str
    addresses: tuple[str, ...]


def parse_wishes(texts: Iterable[str], on_tie: str = STOP) -> NicWishes:
    """``OLD=NEW-MAC`` or ``OLD=none``; OLD is an interface name or MAC address. Raises UsageError."""
    chosen = []
    for text in texts:
        old, _, new = text.partition("=")
        if not old or not (new == NO_CARD or MAC.fullmatch(new)):
            raise UsageError(
                f"--nic ‘{text}’: expected OLD=NEW, an interface or MAC address of the image and a MAC address of "
                f"this machine or ‘{NO_CARD}’, such as ens3=52:54:00:12:34:56"
            )
        chosen.append((_plain(old), _plain(new)))
    if on_tie not in (STOP, ORDER):
        raise UsageError(f"what to do about a tie of cards is ‘{on_tie}’, expected {STOP} or {ORDER}")
    return NicWishes(tuple(chosen), on_tie)


def _plain(text: str) -> str:
    return text.lower().replace("-", ":") if MAC.fullmatch(text) else text


def map_nics(source: Profile, target: Profile, wishes: NicWishes = NO_WISHES) -> tuple[Pair, ...]:
    """Every interface of the source with its card on the target, those that carry addresses first."""
    work = _Mapping(source, target)
    work.wished(wishes)
    work.the_same()
    work.by_evidence(carrying=True)
    work.by_evidence(carrying=False)
    return tuple(work.pairs[nic.name] for nic in work.wanted)


def made_by_software(source: Profile) -> dict[str, tuple[str, ...]]:
    """Interfaces that the configuration makes of others: name → what it stands on."""
    found: dict[str, tuple[str, ...]] = {}
    for config in source.network.configs:
        for made in config.made:
            found[made.name] = tuple(dict.fromkeys((*found.get(made.name, ()), *made.of)))
    return found


class _Mapping:
    def __init__(self, source: Profile, target: Profile) -> None:
        network = source.network
        configured = {name for config in network.configs for name in config.interfaces}
        known = {nic.name for nic in network.nics}
        made = made_by_software(source)
        missing = {name for name in configured - known - made.keys() if not _NOT_A_CARD.fullmatch(name)}
        wanted = [*network.nics, *(Nic(mac="", name=name) for name in sorted(missing, key=_natural))]
        self.carrying = {nic.name for nic in wanted if _carries(nic) or nic.name in configured}
        self.wanted = sorted(wanted, key=lambda nic: nic.name not in self.carrying)
        self.slots = {nic.name: place for place, nic in enumerate(network.nics)}
        self.cards = [nic for nic in target.network.nics if nic.mac]  # in the order of the buses
        self.networks = {nic.name: _networks_of(nic, source, made) for nic in wanted}
        self.pairs: dict[str, Pair] = {}
        self.taken: set[str] = set()

    def give(self, nic: Nic, card: Nic | None, reason: str, rivals: tuple[Nic, ...] = (), wished: bool = False) -> None:
        if card:
            self.taken.add(card.mac)
        carries = nic.name in self.carrying
        self.pairs[nic.name] = Pair(nic.name, nic.mac, carries, card, reason, nic, rivals if carries else (), wished)

    def left(self) -> list[Nic]:
        return [nic for nic in self.wanted if nic.name not in self.pairs]

    def wished(self, wishes: NicWishes) -> None:
        for old, new in wishes.chosen:
            nic = next((nic for nic in self.wanted if old in (nic.name, nic.mac)), None)
            card = next((card for card in self.cards if card.mac == new), None)
            if nic is None:
                have = ", ".join(nic.name for nic in self.wanted) or "none"
                raise UsageError(f"--nic {old}={new}: the image knows no interface ‘{old}’, expected one of {have}")
            if card is None and new != NO_CARD:
                raise UsageError(
                    f"--nic {old}={new}: this machine has no card {new}, expected one of\n{_list(self.cards)}"
                )
            if nic.name in self.pairs or new in self.taken:
                raise UsageError(f"--nic {old}={new}: {old if nic.name in self.pairs else new} was given already")
            self.give(nic, card, "chosen by the operator" if card else "left without one by the operator", wished=True)

    def the_same(self) -> None:
        """Cards that are still there are no one else's; but one that nothing is configured on is given to an interface
        that would have none: it may be the card of the machine that a disk was captured in."""
        free = {card.mac: card for card in self.cards if card.mac not in self.taken}
        for nic in self.left():
            if nic.mac in free and nic.name in self.carrying:
                self.give(nic, free[nic.mac], "the same card")
        homeless = [nic for nic in self.left() if nic.name in self.carrying]
        strangers = {nic.mac for nic in self.wanted}
        spare = [card for card in self.cards if card.mac not in self.taken and card.mac not in strangers]
        if len(homeless) <= len(spare):
            for nic in self.left():
                if nic.mac in free and free[nic.mac].mac not in self.taken:
                    self.give(nic, free[nic.mac], "the same card")

    def by_evidence(self, carrying: bool) -> None:
        while True:
            free = [card for card in self.cards if card.mac not in self.taken]
            wanted = [nic for nic in self.left() if (nic.name in self.carrying) == carrying]
            if not wanted:
                return
            if not free:
                self.give(wanted[0], None, "no card is left for it")
                continue
            # The best evidence of all first; of equals the first wanted, and of its equals the first slot.
            best = max(self.score(nic, card) for nic in wanted for card in free)
            nic = next(nic for nic in wanted if any(self.score(nic, card) == best for card in free))
            equals = [card for card in free if self.score(nic, card) == best]
            self.settle(nic, equals)

    def settle(self, nic: Nic, equals: list[Nic]) -> None:
        score = self.score(nic, equals[0])
        words = self.words(nic, equals[0], score)
        if len(equals) == 1 or score[0]:  # in its network each will do
            self.give(nic, equals[0], words or "the only card that is free")
            return
        peers = [one for one in self.left() if all(self.score(one, card) == score for card in equals)]
        order = self.in_order(peers) if len(peers) == len(equals) else None
        if order is None:
            self.give(nic, equals[0], words or "the first card that is free", tuple(equals[1:]))
            return
        for one, card in zip(order, equals, strict=True):
            self.give(one, card, ", ".join(filter(None, (words, "in the order of the slots"))))

    def in_order(self, peers: Sequence[Nic]) -> list[Nic] | None:
        """By slot where the source's cards are known, by number where the names are alike; else nobody knows."""
        if all(nic.name in self.slots for nic in peers):
            return sorted(peers, key=lambda nic: self.slots[nic.name])
        alike = len({re.sub(r"\d+", "#", nic.name) for nic in peers}) == 1
        if alike and not any(nic.name in self.slots for nic in peers):
            return sorted(peers, key=lambda nic: _natural(nic.name))
        return None

    def score(self, nic: Nic, card: Nic) -> _Score:
        own, here = self.networks[nic.name], set(_networks(address.cidr for address in card.addresses))
        return (
            int(bool(own & here)),
            int(_medium(nic) == _medium(card)),
            {"up": 2, "unknown": 1}.get(card.link, 0),
            int(not (own and here) or bool(own & here)),
            int(bool(nic.driver) and nic.driver == card.driver),
            int(any({nic.driver, card.driver} <= family for family in _FAMILIES)),
            int(nic.speed_mbps > 0 and nic.speed_mbps == card.speed_mbps),
        )

    def words(self, nic: Nic, card: Nic, score: _Score) -> str:
        shared = self.networks[nic.name] & set(_networks(address.cidr for address in card.addresses))
        told = (
            (score[0], f"it is in the network {', '.join(sorted(shared))}"),
            (score[2] == 2, "its link is up"),
            (score[4], "same driver"),
            (score[5] and not score[4], "a driver of the same family"),
            (score[6], "same speed"),
        )
        return ", ".join(word for holds, word in told if holds)


def _carries(nic: Nic) -> bool:
    return any(address.origin != "link" for address in nic.addresses)


def _networks_of(nic: Nic, source: Profile, made: dict[str, tuple[str, ...]]) -> set[str]:
    """Networks that an interface is in: by its addresses, its files, its leases, and those of what stands on it."""
    names = _stack(nic, made)
    leases = [lease.cidr for lease in source.network.leases if lease.interface in names]
    own = [address.cidr for address in nic.addresses]
    return set(_networks([*own, *_configured(names, source, made), *leases]))


def _stack(nic: Nic, made: dict[str, tuple[str, ...]]) -> set[str]:
    return {nic.name, *(name for name, of in made.items() if nic.name in of)}


def _configured(names: set[str], source: Profile, made: dict[str, tuple[str, ...]]) -> Iterator[str]:
    """Static addresses that files give to these interfaces."""
    for config in source.network.configs:
        yield from (each.cidr for each in config.assigned if each.interface in names)
        about = {name for name in config.interfaces if name not in made or name in names}
        if about and about <= names:
            yield from config.addresses


def watched(source: Profile, target: Profile, wishes: NicWishes = NO_WISHES) -> tuple[Watched, ...]:
    """The static IPv4 addresses that each card of the target will have."""
    made = made_by_software(source)
    found = []
    for pair in map_nics(source, target, wishes):
        own = [address.cidr for address in pair.source.addresses if address.origin == "static"]
        cidrs = [*own, *_configured(_stack(pair.source, made), source, made)]
        addresses = tuple(dict.fromkeys(cidr.partition("/")[0] for cidr in cidrs if ":" not in cidr))
        if pair.target and addresses:
            found.append(Watched(pair.target.name, pair.target.mac, addresses))
    return tuple(found)


def _networks(cidrs: Iterable[str]) -> Iterator[str]:
    """Networks of addresses that tell places apart: not link-local ones, and not single hosts."""
    for cidr in cidrs:
        try:
            found = ipaddress.ip_interface(cidr)
        except ValueError:
            continue
        if not found.is_link_local and not found.is_loopback and found.network.prefixlen < found.max_prefixlen:
            yield str(found.network)


def _medium(nic: Nic) -> str:
    return {"wl": "wireless", "ib": "infiniband"}.get(nic.name[:2], "wired")


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def _list(cards: Iterable[Nic]) -> str:
    return "\n".join(f"  {card_text(card)}" for card in cards)


def card_text(card: Nic) -> str:
    """A card as a person tells it from another."""
    speed = f", {card.speed_mbps} Mbit/s" if card.speed_mbps else ""
    addresses = "".join(f", {address.cidr}" for address in card.addresses if address.origin != "link")
    where = f" at {card.address}" if card.address else ""
    return f"{card.mac} ({card.driver or 'driver not known'}{where}, link {card.link}{speed}{addresses})"
