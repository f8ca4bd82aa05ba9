"""What decides between cards: the operator, the network, the link, the driver, the speed, the slots; and ties."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.errors import NicSelectionError, UsageError
from agent.model.compare import compare
from agent.model.compare_network import tied
from agent.model.difference import Op
from agent.model.nic_map import ORDER, NicWishes, Pair, map_nics, parse_wishes
from agent.model.profile import Address, Assigned, Lease, Made, Network, NetworkConfig, Nic, Profile
from agent.restore.preflight import refuse_ties
from tests.model.machines_of_tests import FULL as FULL_KERNEL
from tests.model.machines_of_tests import NEW_MAC, THIRD_MAC, component, nic, situation, source, target

MADE = "2026-11-23T20:41:40Z"


def card(mac: str, name: str = "", cidr: str = "", **more: object) -> Nic:
    origin = "dhcp" if name.startswith("pe") else "static"
    told = {"link": "up", **more}
    return Nic(mac=mac, name=name or mac, addresses=(Address(cidr, origin),) if cidr else (), **told)  # type: ignore[arg-type]


def profile(*nics: Nic, configs: tuple[NetworkConfig, ...] = (), leases: tuple[Lease, ...] = ()) -> Profile:
    return Profile("m", MADE, network=Network(nics=nics, configs=configs, leases=leases))


def pairs(old: Profile, new: Profile, *wishes: str) -> dict[str, Pair]:
    return {pair.name: pair for pair in map_nics(old, new, parse_wishes(wishes))}


def chosen(old: Profile, new: Profile, *wishes: str) -> dict[str, str]:
    return {name: pair.target.mac if pair.target else "" for name, pair in pairs(old, new, *wishes).items()}


LAN = card("a", "ens3", "10.0.0.5/24", driver="virtio_net", speed_mbps=1000)
DMZ = card("b", "ens4", "10.0.1.5/24", driver="virtio_net", speed_mbps=10000)


@pytest.mark.adapts("N2", "T1")
def test_two_cards_swapped_are_found_by_the_networks_that_they_are_in() -> None:
    swapped = profile(card("x", "pe0", "10.0.1.77/24"), card("y", "pe1", "10.0.0.78/24"))
    assert chosen(profile(LAN, DMZ), swapped) == {"ens3": "y", "ens4": "x"}
    assert not any(pair.rivals for pair in pairs(profile(LAN, DMZ), swapped).values())
    assert "10.0.0.0/24" in pairs(profile(LAN, DMZ), swapped)["ens3"].reason


@pytest.mark.adapts("N2", "T1")
def test_a_card_is_left_to_the_interface_that_it_fits_better() -> None:
    """Greedy by interface, ens3 would take the first card that is up."""
    here = profile(card("x", "pe0", "10.0.1.77/24"), card("y", "pe1"))
    assert chosen(profile(LAN, DMZ), here) == {"ens3": "y", "ens4": "x"}


@pytest.mark.adapts("N2", "T1")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"link": "up"}, {"link": "down"}),
        ({"driver": "virtio_net"}, {"driver": "e1000e"}),
        ({"driver": "vmxnet3"}, {"driver": "e1000e"}),
        ({"speed_mbps": 1000}, {"speed_mbps": 10000}),
    ],
)
def test_of_two_cards_the_better_evidence_wins_wherever_it_stands(
    one: dict[str, object], other: dict[str, object]
) -> None:
    good, bad = card("good", "pe0", "", **one), card("bad", "pe1", "", **other)
    for here in (profile(good, bad), profile(bad, good)):
        pair = pairs(profile(LAN), here)["ens3"]
        assert pair.target is not None and pair.target.mac == "good" and not pair.rivals


def test_a_wireless_card_does_not_take_the_place_of_a_wired_one() -> None:
    here = profile(card("air", "wlp1s0"), card("wire", "enp2s0", link="down"))
    assert chosen(profile(LAN), here) == {"ens3": "wire"}


@pytest.mark.adapts("N2", "T1")
def test_equals_go_by_the_order_of_slots_where_as_many_are_wanted_as_there_are() -> None:
    old = profile(replace(LAN, speed_mbps=0), replace(DMZ, speed_mbps=0))
    found = pairs(old, profile(card("x"), card("y")))
    assert [(pair.target.mac, pair.rivals) for pair in found.values() if pair.target] == [("x", ()), ("y", ())]
    assert "order of the slots" in found["ens3"].reason
    # A card that nothing is configured on counts in the order too.
    idle = profile(replace(LAN, speed_mbps=0), card("b", "ens4", driver="virtio_net"))
    assert chosen(idle, profile(card("x"), card("y"))) == {"ens3": "x", "ens4": "y"}


@pytest.mark.adapts("N2", "T1")
def test_more_equals_than_are_wanted_are_a_tie_that_names_the_rivals() -> None:
    (pair,) = pairs(profile(LAN), profile(card("x"), card("y"), card("z"))).values()
    assert pair.target is not None and pair.target.mac == "x"
    assert [rival.mac for rival in pair.rivals] == ["y", "z"]


def test_two_cards_in_the_interfaces_own_network_are_no_tie() -> None:
    here = profile(card("x", "pe0", "10.0.0.7/24"), card("y", "pe1", "10.0.0.8/24"))
    (pair,) = pairs(profile(LAN), here).values()
    assert not pair.rivals


def test_names_of_one_kind_are_in_order_and_others_are_not() -> None:
    files = tuple(NetworkConfig("ifcfg", f"/x/{name}", interfaces=(name,)) for name in ("eth10", "eth9"))
    assert chosen(profile(configs=files), profile(card("x"), card("y"))) == {"eth9": "x", "eth10": "y"}
    files = tuple(NetworkConfig("ifcfg", f"/x/{name}", interfaces=(name,)) for name in ("lan", "dmz"))
    assert all(
        pair.rivals or pair.reason for pair in pairs(profile(configs=files), profile(card("x"), card("y"))).values()
    )
    assert pairs(profile(configs=files), profile(card("x"), card("y")))["dmz"].rivals


def test_an_image_alone_tells_networks_by_its_files_and_leases() -> None:
    netplan = NetworkConfig(
        "netplan", "/etc/netplan/1.yaml", interfaces=("lan", "dmz"), addresses=("10.0.0.5/24",),
        assigned=(Assigned("lan", "10.0.0.5/24"),),
    )  # fmt: skip
    old = profile(configs=(netplan,), leases=(Lease("dmz", "10.0.1.9/24"),))
    here = profile(card("x", "pe0", "10.0.1.77/24"), card("y", "pe1", "10.0.0.78/24"))
    assert chosen(old, here) == {"lan": "y", "dmz": "x"}


@pytest.mark.adapts("N2", "T1")
def test_the_address_of_a_bridge_or_vlan_belongs_to_the_card_below_it() -> None:
    config = NetworkConfig(
        "netplan", "/etc/netplan/1.yaml", interfaces=("ens3", "ens4", "uplink"), made=(Made("uplink", ("ens4",)),),
        assigned=(Assigned("uplink", "10.0.1.5/24"),),
    )  # fmt: skip
    here = profile(card("x", "pe0", "10.0.1.77/24"), card("y", "pe1", "10.0.0.78/24"))
    found = chosen(profile(configs=(config,)), here)
    assert found == {"ens3": "y", "ens4": "x"}  # and uplink needs no card


@pytest.mark.adapts("N2", "T1")
def test_the_operators_choice_wins_by_name_or_old_address() -> None:
    here = profile(card("52:54:00:00:00:01", "pe0", "10.0.0.7/24"), card("52:54:00:00:00:02", "pe1"))
    assert chosen(profile(LAN), here, "ens3=52-54-00-00-00-02") == {"ens3": "52:54:00:00:00:02"}
    old = profile(replace(LAN, mac="52:54:00:00:00:aa"))
    assert chosen(old, here, "52:54:00:00:00:AA=52:54:00:00:00:02") == {"ens3": "52:54:00:00:00:02"}
    assert chosen(profile(LAN, DMZ), here, "ens3=none") == {"ens3": "", "ens4": "52:54:00:00:00:02"}


@pytest.mark.parametrize("wish", ["ens3", "ens3=", "ens3=eth0", "=52:54:00:00:00:01"])
def test_a_choice_that_names_no_card_is_refused(wish: str) -> None:
    with pytest.raises(UsageError, match="expected OLD=NEW"):
        parse_wishes([wish])


def test_a_choice_of_what_is_not_there_says_what_is() -> None:
    here = profile(card("52:54:00:00:00:01"), card("52:54:00:00:00:02"))
    with pytest.raises(UsageError, match="expected one of ens3"):
        pairs(profile(LAN), here, "ens9=52:54:00:00:00:01")
    with pytest.raises(UsageError, match="52:54:00:00:00:02"):
        pairs(profile(LAN), here, "ens3=52:54:00:00:00:09")
    with pytest.raises(UsageError, match="given already"):
        pairs(profile(LAN, DMZ), here, "ens3=52:54:00:00:00:01", "ens4=52:54:00:00:00:01")


@pytest.mark.adapts("N2", "T1")
def test_a_tie_stops_with_the_candidates_unless_the_policy_says_otherwise() -> None:
    here = target(network=Network(nics=(nic(NEW_MAC), nic(THIRD_MAC))))
    case = situation(target=here, components=(component(f"linux-image-{FULL_KERNEL}"),))
    difference = compare(case)
    with pytest.raises(NicSelectionError) as raised:
        refuse_ties(difference)
    assert raised.value.exit_code == 14
    assert NEW_MAC in raised.value.message and THIRD_MAC in raised.value.message and "--nic ens3=" in raised.value.hint
    refuse_ties(compare(replace(case, nic_wishes=NicWishes(on_tie=ORDER))))
    refuse_ties(compare(replace(case, nic_wishes=parse_wishes([f"ens3={THIRD_MAC}"]))))
    assert not tied(compare(replace(case, target=target())).items)


@pytest.mark.adapts("N1", "T1")
def test_the_same_card_in_another_slot_keeps_its_name_by_a_rule() -> None:
    old = replace(source().network.nics[0], address="0000:00:03.0")
    base = source(network=replace(source().network, nics=(old,)))
    for address, moves in (("0000:00:03.0", False), ("0000:00:09.0", True)):
        here = target(network=Network(nics=(replace(nic(old.mac), address=address),)))
        found = [item for item in compare(situation(source=base, target=here)).items if item.kind == "nic"]
        assert [(item.op, item.source, item.target) for item in found] == ([(Op.MAP, "ens3", old.mac)] if moves else [])


@pytest.mark.adapts("N1", "T1")
def test_a_spare_card_does_not_take_the_name_that_another_is_given() -> None:
    here = target(network=Network(nics=(replace(nic(NEW_MAC, link="down"), name="ens3"), nic(THIRD_MAC))))
    items = [item for item in compare(situation(target=here)).items if item.kind == "nic"]
    assert [(item.source, item.target) for item in items] == [("ens3", THIRD_MAC), ("spare-bb0001", NEW_MAC)]
