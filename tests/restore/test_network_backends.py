"""The backends' own programs on restored trees: the static addresses come up on the right cards, and answer there.

The cards are virtual cables in a namespace of their own, named as the rules say that the restore wrote.
"""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from agent.model.nic_map import map_nics, watched
from agent.model.profile import Address, Nic
from agent.process import run
from tests.model.machines_of_tests import nic
from tests.model.test_compare_network import case, restored
from tests.restore.network_namespace import (
    addresses_in_namespace,
    in_namespace,
    names_by_rule,
    probe,
    read_json,
    unpack,
)

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

RULES = "/etc/udev/rules.d/70-persistent-net.rules"
LAN, DMZ = "52:54:00:aa:00:01", "52:54:00:aa:00:02"  # on the source
NEW_LAN, NEW_DMZ = "52:54:00:bb:00:01", "52:54:00:bb:00:02"
OLD = (
    Nic(LAN, "ens3", "0000:00:03.0", "virtio_net", addresses=(Address("10.0.0.5/24"),)),
    Nic(DMZ, "ens4", "0000:00:04.0", "virtio_net", addresses=(Address("10.0.1.5/24"),)),
)
# Swapped: the first slot is in the second network, as the leases tell that the live system got there.
HERE = (
    Nic(NEW_DMZ, "enp2s0", "0000:02:00.0", "e1000e", "up", addresses=(Address("10.0.1.77/24", "dhcp"),)),
    Nic(NEW_LAN, "enp3s0", "0000:03:00.0", "e1000e", "up", addresses=(Address("10.0.0.78/24", "dhcp"),)),
)
EXPECTED = {NEW_LAN: {"10.0.0.5"}, NEW_DMZ: {"10.0.1.5"}}
IFUP = "mkdir -p /run/network {etc}/if-{{pre-up,up}}.d; mount --bind {etc} /etc/network; ifup --all"
NETWORKD = (
    # Its user reads no private folder, and the files of a system are not in one.
    "mkdir -p /run/systemd/network; mount -t tmpfs tmpfs /etc/systemd/network; cp -r {files}/. /etc/systemd/network; "
    "chmod -R a+rX /etc/systemd/network; /lib/systemd/systemd-networkd & daemon=$!; "
    "for n in $(seq 100); do test $(ip -4 -o address | grep -c 10.0) -ge {count} && break; sleep 0.1; done; "
    "kill $daemon; wait $daemon || true"
)


def after_restore(files: dict[str, str], root: Path, here: tuple[Nic, ...] = HERE) -> dict[str, str]:
    """The image's files, adapted to swapped cards, below ``root``; the cards' new names."""
    after, difference, _ = restored(case(files, *here, old=OLD))
    assert not [item for item in difference.items if item.kind.startswith(("nic", "config")) and not item.handled_by]
    unpack(after, root)
    return names_by_rule(after[RULES])


@pytest.mark.adapts("N1", "T1")
@pytest.mark.adapts("N3", "T1")
def test_systemd_networkd_finds_its_cards_by_name_address_and_slot(tmp_path: Path) -> None:
    files = {
        "/etc/systemd/network/10-lan.network": f"[Match]\nPermanentMACAddress={LAN}\nMACAddress={LAN}\n",
        "/etc/systemd/network/10-lan.network.d/static.conf": "[Network]\nAddress=10.0.0.5/24\n",
        "/etc/systemd/network/20-dmz.network": "[Match]\nName=ens4\n[Network]\nAddress=10.0.1.5/24\n",
    }
    # A virtual cable has no permanent address; that line was rewritten too.
    names = after_restore(files, tmp_path)
    lan = tmp_path / "etc/systemd/network/10-lan.network"
    assert f"PermanentMACAddress={NEW_LAN}\n" in lan.read_text()
    lan.write_text(lan.read_text().replace(f"PermanentMACAddress={NEW_LAN}\n", ""))
    program = NETWORKD.format(files=tmp_path / "etc/systemd/network", count=2)
    assert addresses_in_namespace(names, program) == EXPECTED


@pytest.mark.adapts("N1", "T1")
@pytest.mark.adapts("N3", "T1")
@pytest.mark.adapts("N7", "T1")
def test_netplan_generates_for_the_new_cards_and_networkd_carries_it_out(tmp_path: Path) -> None:
    yaml = (
        "network:\n  version: 2\n  renderer: networkd\n  ethernets:\n"
        f"    first:\n      match: {{macaddress: '{LAN.upper()}'}}\n      set-name: ens3\n"
        "      addresses: [10.0.0.5/24]\n"
        "    ens4:\n      addresses: [10.0.1.5/24]\n"
    )
    names = after_restore({"/etc/netplan/50-cloud-init.yaml": yaml}, tmp_path)
    run(["netplan", "generate", "--root-dir", tmp_path])
    made = tmp_path / "run/systemd/network"
    first = made / "10-netplan-first.network"
    assert NEW_LAN in first.read_text().lower()
    # A virtual cable has no permanent address to be found by.
    first.write_text(first.read_text().replace("PermanentMACAddress=", "MACAddress="))
    program = NETWORKD.format(files=made, count=2)
    assert addresses_in_namespace(names, program) == EXPECTED


@pytest.mark.adapts("N7", "T1")
def test_netplan_does_not_require_what_has_no_card(tmp_path: Path) -> None:
    yaml = (
        "network:\n  version: 2\n  ethernets:\n    ens3: {addresses: [10.0.0.5/24]}\n    ens4:\n      dhcp4: true\n"
        "  vlans:\n    dmz: {id: 5, link: ens4, addresses: [10.0.1.5/24]}\n"
    )
    after, _, _ = restored(case({"/etc/netplan/1.yaml": yaml}, nic(NEW_LAN), old=OLD))
    for name, files in (("before", {"/etc/netplan/1.yaml": yaml}), ("after", after)):
        unpack(files, tmp_path / name)
        run(["netplan", "generate", "--root-dir", tmp_path / name])

    def required(stage: str, interface: str) -> bool:
        text = (tmp_path / stage / f"run/systemd/network/10-netplan-{interface}.network").read_text()
        return "RequiredForOnline=no" not in text

    assert [required("before", name) for name in ("ens3", "ens4", "dmz")] == [True, True, True]
    assert [required("after", name) for name in ("ens3", "ens4", "dmz")] == [True, False, False]


@pytest.mark.adapts("N1", "T1")
def test_ifupdown_brings_up_the_right_cards(tmp_path: Path) -> None:
    interfaces = (
        "source interfaces.d/*\nauto lo ens3\niface lo inet loopback\niface ens3 inet static\n  address 10.0.0.5/24\n"
    )
    more = "auto ens4\niface ens4 inet static\n  address 10.0.1.5\n  netmask 255.255.255.0\n"
    names = after_restore({"/etc/network/interfaces": interfaces, "/etc/network/interfaces.d/dmz": more}, tmp_path)
    etc = tmp_path / "etc/network"
    program = IFUP.format(etc=etc)
    assert addresses_in_namespace(names, program) == EXPECTED


@pytest.mark.adapts("N7", "T1")
def test_ifupdown_starts_without_error_when_a_card_is_gone(tmp_path: Path) -> None:
    interfaces = (
        "auto lo ens3 ens4\niface lo inet loopback\niface ens3 inet static\n  address 10.0.0.5/24\n"
        "iface ens4 inet static\n  address 10.0.1.5/24\n"
    )
    after, _, _ = restored(case({"/etc/network/interfaces": interfaces}, nic(NEW_LAN), old=OLD))
    unpack(after, tmp_path)
    listed = run(["ifquery", "--list", "--all", "-i", tmp_path / "etc/network/interfaces"])
    assert listed.stdout.split() == ["lo", "ens3"]
    program = IFUP.format(etc=tmp_path / "etc/network")
    assert addresses_in_namespace(names_by_rule(after[RULES]), program) == {NEW_LAN: {"10.0.0.5"}}


@pytest.mark.adapts("N4", "T1")
def test_network_manager_reads_the_keyfile_with_its_new_address(tmp_path: Path) -> None:
    path = "/etc/NetworkManager/system-connections/lan.nmconnection"
    keyfile = (
        "[connection]\nid=lan\nuuid=6e1b3c9a-8a0e-4d6a-9b8f-2f0d3f3a1c11\ntype=ethernet\ninterface-name=ens3\n\n"
        f"[ethernet]\nmac-address={LAN.upper()}\n\n[ipv4]\naddress1=10.0.0.5/24,10.0.0.1\nmethod=manual\n"
    )
    after_restore({path: keyfile}, tmp_path)
    file = tmp_path / path.lstrip("/")
    done = run(["nmcli", "--offline", "connection", "modify", "connection.autoconnect-priority", "1"],
               stdin=file.read_bytes())  # fmt: skip
    read = configparser.ConfigParser()
    read.read_string(done.stdout)
    assert read["connection"]["interface-name"] == "ens3"
    assert read["ethernet"]["mac-address"].lower() == NEW_LAN
    assert read["ipv4"]["address1"] == "10.0.0.5/24,10.0.0.1"


@pytest.mark.adapts("N9", "T1")
def test_a_source_that_still_runs_is_heard_before_the_restart() -> None:
    """``source`` has the address; the restored machine asks from the other end of the cable."""
    source = {"52:54:00:cc:00:01": "source"}
    up = "ip link set source up && ip address add 10.0.0.5/24 dev source && ip address show source"
    own = "52:54:00:bb:00:01"
    asked = in_namespace(source, up, probe("cable0", own, "10.0.0.5"))
    assert read_json(asked) == [["10.0.0.5", "52:54:00:cc:00:01"]]  # and nobody is at 192.0.2.99
    assert read_json(in_namespace(source, "ip link set source up", probe("cable0", own, "10.0.0.5"))) == []
    (unasked,) = read_json(in_namespace(source, "true", probe("gone0", own, "10.0.0.5")))
    assert "could not ask" in unasked


def test_what_is_asked_for_is_what_the_cards_will_have() -> None:
    decided = case({"/etc/network/interfaces": "iface ens3 inet static\n  address 10.0.0.6/24\n"}, *HERE, old=OLD)
    assert map_nics(decided.source, decided.target)
    assert [(one.card, one.mac, one.addresses) for one in watched(decided.source, decided.target)] == [
        ("enp3s0", NEW_LAN, ("10.0.0.5", "10.0.0.6")),
        ("enp2s0", NEW_DMZ, ("10.0.1.5",)),
    ]
