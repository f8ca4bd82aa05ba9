"""Which card takes which place: the same card first, then reachability, and nobody's card is taken without need."""

from __future__ import annotations

import pytest

from agent.model.nic_map import map_nics
from agent.model.profile import Address, Network, NetworkConfig, Nic, Profile

MADE = "2026-11-23T20:41:40Z"
STATIC = NetworkConfig(backend="ifupdown", path="/etc/network/interfaces", interfaces=("lan0",))


def machine(*nics: Nic, configs: tuple[NetworkConfig, ...] = ()) -> Profile:
    return Profile("m", MADE, network=Network(nics=nics, configs=configs))


def nic(mac: str, name: str, address: str = "", link: str = "up") -> Nic:
    return Nic(mac=mac, name=name, link=link, addresses=(Address(address),) if address else ())


def chosen(source: Profile, target: Profile) -> dict[str, str]:
    return {pair.name: pair.target.mac if pair.target else "" for pair in map_nics(source, target)}


@pytest.mark.adapts("N2", "T1")
def test_the_same_card_keeps_its_name() -> None:
    source = machine(nic("a", "lan0", "10.0.0.5/24"), nic("b", "lan1", "10.0.1.5/24"), configs=(STATIC,))
    assert chosen(source, machine(nic("b", "x"), nic("a", "y"))) == {"lan0": "a", "lan1": "b"}


@pytest.mark.adapts("N2", "T1")
def test_a_stranger_is_taken_before_a_card_that_has_a_name_of_its_own() -> None:
    source = machine(nic("gone", "lan0", "10.0.0.5/24"), nic("b", "lan1"), configs=(STATIC,))
    target = machine(nic("b", "x"), nic("new", "y", link="down"))
    assert chosen(source, target) == {"lan0": "new", "lan1": "b"}


@pytest.mark.adapts("N2", "T1")
def test_an_address_is_not_lost_to_a_card_that_nothing_is_configured_on() -> None:
    """As when a disk was captured in another machine, whose card then stands in the profile."""
    workbench = machine(nic("b", "enp0s2"), configs=(STATIC,))
    found = chosen(workbench, machine(nic("b", "x")))
    assert found == {"lan0": "b", "enp0s2": ""}


@pytest.mark.adapts("N2", "T1")
def test_two_addresses_and_one_card_leave_one_without() -> None:
    source = machine(nic("a", "lan0", "10.0.0.5/24"), nic("b", "lan1", "10.0.1.5/24"), configs=(STATIC,))
    assert chosen(source, machine(nic("b", "x"))) == {"lan1": "b", "lan0": ""}
