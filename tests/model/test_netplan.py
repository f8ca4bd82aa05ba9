"""Netplan's YAML: read by a parser, changed in one place, refused where that cannot be proved."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import PatchError
from agent.model.netplan import definitions, not_awaited, rebind, renamed

OLD, NEW = "52:54:00:aa:00:01", "52:54:00:bb:00:01"


@pytest.mark.parametrize(
    "text",
    [
        "network: {ethernets: {a: {match: {macaddress: 52:54:00:aa:00:01}, macaddress: 52:54:00:aa:00:01}}}",
        'network:\n  ethernets:\n    a:\n      match:\n        macaddress: "52:54:00:AA:00:01"  # ü 52:54:00:aa:00\n',
        "network:\n  ethernets:\n    a:\n      match: &first\n        macaddress: !!str '52:54:00:aa:00:01'\n",
        "%YAML 1.1\n---\nnetwork: {ethernets: {a: {match: {macaddress: &mac 52-54-00-aa-00-01}}}}\n...\n",
        "network:\r\n  ethernets:\r\n    a:\r\n      match:\r\n        macaddress: 52:54:00:aa:00:01\r\n",
    ],
)
def test_only_the_value_of_a_match_changes(text: str) -> None:
    after = rebind(text, OLD, NEW)
    assert after.count(NEW) == 1 and rebind(after, OLD, NEW) == after
    start = after.index(NEW)
    assert after[:start] == text[:start] and after[start + len(NEW) :] == text[start + len(OLD) :]
    assert [one.macs for one in definitions(after)] == [(NEW,)]


def test_a_name_is_replaced_as_a_whole_value_only() -> None:
    text = "network: {ethernets: {eth0: {}, eth01: {}}, bridges: {br-eth0: {interfaces: ['eth0', eth01]}}}  # eth0"
    after = (
        "network: {ethernets: {rg-eth0: {}, eth01: {}}, bridges: {br-eth0: {interfaces: ['rg-eth0', eth01]}}}  # eth0"
    )
    assert renamed(text, "eth0", "rg-eth0") == after


def test_what_an_interface_is_called_and_stands_on() -> None:
    text = (
        "network:\n  ethernets:\n    all: {match: {name: 'en*'}}\n    lan: {match: {macaddress: '52:54:00:aa:00:01'}, "
        "set-name: lan0}\n    eno1: {}\n"
        "  bonds: {uplink: {interfaces: [lan, eno1], addresses: [{10.0.0.5/24: {label: a}}]}}\n"
        "  vlans: {office: {id: 5, link: uplink}}\n"
    )
    found = {one.id: (one.name, one.members, one.addresses) for one in definitions(text)}
    assert found == {
        "all": ("", (), ()),
        "lan": ("lan0", (), ()),
        "eno1": ("eno1", (), ()),
        "uplink": ("uplink", ("lan", "eno1"), ("10.0.0.5/24",)),
        "office": ("office", ("uplink",), ()),
    }


@pytest.mark.parametrize(
    "text",
    [
        "network: {ethernets: {ens4: &a {dhcp4: true}, ens3: *a}}\n",  # the alias would be optional too
        "network:\n  ethernets:\n    ens4: [not, a, mapping]\n",
        "network: [\n",
        "network: " + "[" * 3000,
        "x" * (1 << 20) + "y",
    ],
)
def test_a_file_that_cannot_be_edited_surely_is_not_edited(text: str) -> None:
    with pytest.raises(PatchError, match="netplan"):
        if definitions(text):
            not_awaited(text, "ens4")
        else:
            renamed(text, "ens4", "lan")


def test_aliases_of_aliases_cost_nothing() -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
    text = bomb + "network: {ethernets: {ens4: {dhcp4: true}}}\n"
    assert "ens4: {optional: true, dhcp4: true}" in not_awaited(text, "ens4")


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_and_never_changed_by_halves(text: str) -> None:
    try:
        after = rebind(text, OLD, NEW)
    except PatchError:
        assert definitions(text) == ()
    else:
        assert after == text  # it names no such address
