"""What follows for the files of every backend when cards change: bound, renamed, not waited for, reported."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.model.compare import compare
from agent.model.difference import Difference, Item, Op, Tier
from agent.model.profile import Address, ConfigFile, Mention, Network, Nic
from agent.model.recipe import BoundRecipe
from agent.model.recipe_match import bind_all
from agent.model.recipe_test import apply
from agent.model.situation import Situation
from agent.model.tree import MemoryTree
from agent.probe.config import read_config_files
from agent.probe.network_config import read_configs
from agent.restore.recipe_folder import read_recipes
from tests.model.machines_of_tests import NEW_MAC, OLD_MAC, THIRD_MAC, nic, situation, source, target

RECIPES = read_recipes()
STATIC = (Address("10.0.0.5/24"),)


def case(files: dict[str, str], *cards: Nic, old: tuple[Nic, ...] | None = None, **more: object) -> Situation:
    """An image with these files, whose cards are ``old``, on a machine with ``cards``."""
    tree = MemoryTree({path: text.encode() for path, text in files.items()})
    configs = read_configs(tree)
    names = frozenset(name for config in configs for name in config.interfaces)
    nics = old if old is not None else (Nic(OLD_MAC, "ens3", driver="virtio_net", addresses=STATIC),)
    base = source(network=Network(nics=nics, configs=configs), config_files=read_config_files(tree, names))
    return situation(files, source=base, target=target(network=Network(nics=cards or (nic(NEW_MAC),))), **more)


def restored(decided: Situation) -> tuple[dict[str, str], Difference, list[BoundRecipe]]:
    """The image's files after every network recipe that applies."""
    bound, difference = bind_all(RECIPES, compare(decided), decided)
    network = [recipe for recipe in bound if recipe.phase == "network"]
    assert isinstance(decided.tree, MemoryTree)
    files = {path: content.decode() for path, content in decided.tree.files.items()}
    for recipe in network:
        files = apply(recipe.operations, files)
    return files, difference, network


def items(difference: Difference, *kinds: str) -> list[Item]:
    return [item for item in difference.items if item.kind in kinds]


FILES = {
    "ifupdown": (
        "/etc/network/interfaces.d/lan",
        "rename mac/{mac}=ens3\nauto ens3\niface ens3 inet static\n  hwaddress {gives}\n  address 10.0.0.5/24\n",
    ),
    "netplan": (
        "/etc/netplan/01.yaml",
        "network:\n  ethernets:\n    lan:\n      match:\n        macaddress: '{mac}'\n      set-name: ens3\n"
        "      macaddress: {gives}\n      addresses: [10.0.0.5/24]\n",
    ),
    "cloud-init": (
        "/etc/netplan/50-cloud-init.yaml",
        "# This file is generated from information provided by the datasource.\nnetwork:\n    ethernets:\n"
        "        ens3:\n            dhcp4: true\n            match:\n                macaddress: {mac}\n"
        "            set-name: ens3\n            macaddress: {gives}\n    version: 2\n",
    ),
    "networkd": (
        "/etc/systemd/network/10-lan.network.d/bind.conf",
        "[Match]\nPermanentMACAddress={mac}\n[Link]\nMACAddress={gives}\n",
    ),
    "nm": (
        "/etc/NetworkManager/system-connections/lan.nmconnection",
        "[connection]\nid=lan\ntype=ethernet\ninterface-name=ens3\n[ethernet]\nmac-address={mac}\n"
        "cloned-mac-address={gives}\n[ipv4]\naddress1=10.0.0.5/24,10.0.0.1\nmethod=manual\n",
    ),
    "nm-conf": (
        "/etc/NetworkManager/conf.d/10-lan.conf",
        "[main]\nno-auto-default={mac}\n[keyfile]\nunmanaged-devices=mac:{mac}\n[device-lan]\nmatch-device=mac:{mac}\n"
        "# {gives}\n",
    ),
    "ifcfg-rhel": (
        "/etc/sysconfig/network-scripts/ifcfg-ens3",
        "DEVICE=ens3\nHWADDR={mac}\nMACADDR={gives}\nIPADDR=10.0.0.5\nPREFIX=24\n",
    ),
    "wicked": (
        "/etc/wicked/ifconfig/lan.xml",
        "<interface><name namespace='ethernet'><permanent-address>{mac}</permanent-address></name>"
        "<link><address>{gives}</address></link></interface>\n",
    ),
    "udev-other": (
        "/etc/udev/rules.d/60-lan.rules",
        'SUBSYSTEM=="net", ATTR{{address}}=="{mac}", RUN+="/sbin/ethtool -s $name wol g"  # {gives}\n',
    ),
}


@pytest.mark.adapts("N3", "T1")
@pytest.mark.adapts("N4", "T1")
@pytest.mark.parametrize("backend", FILES)
def test_what_binds_follows_the_card_and_what_it_gives_stays(backend: str) -> None:
    """Also where the address that is given happens to be the card's own; udev's comment is the exception."""
    path, text = FILES[backend]
    gives = "02:00:00:00:00:01" if backend in ("udev-other", "wicked", "nm-conf") else OLD_MAC
    old = text.format(mac=OLD_MAC.upper(), gives=gives)
    main = {} if backend != "ifupdown" else {"/etc/network/interfaces": "source interfaces.d/*\n"}
    files, difference, _ = restored(case({**main, path: old}))
    assert files[path] == text.format(mac=NEW_MAC, gives=gives)
    assert not [item for item in items(difference, "config") if not item.handled_by]
    rules = files["/etc/udev/rules.d/70-persistent-net.rules"]
    assert f'ATTR{{address}}=="{NEW_MAC}", NAME="ens3"' in rules


@pytest.mark.adapts("N5", "T1")
def test_stale_rules_go_rules_that_hold_stay_and_new_ones_come() -> None:
    path = "/etc/udev/rules.d/70-persistent-net.rules"
    stale = f'SUBSYSTEM=="net", ATTR{{address}}=="{OLD_MAC}", KERNEL=="eth*", NAME="ens3"\n'
    other = 'SUBSYSTEM=="net", ATTR{address}=="52:54:00:cc:00:09", KERNEL=="eth*", NAME="gone"\n'
    holds = f'SUBSYSTEM=="net", ATTR{{address}}=="{THIRD_MAC}", KERNEL=="eth*", NAME="lan"\n'
    wakes = f'SUBSYSTEM=="net", ATTR{{address}}=="{OLD_MAC}", RUN+="/sbin/ethtool -s $name wol g"\n'
    # The same card is found again, the address is on the card that came.
    old = (Nic(OLD_MAC, "ens3", addresses=STATIC), Nic(THIRD_MAC, "lan", addresses=(Address("10.9.0.1/24"),)))
    files, _, _ = restored(case({path: stale + other + holds + wakes}, nic(THIRD_MAC), nic(NEW_MAC), old=old))
    assert files[path].startswith(holds + wakes.replace(OLD_MAC, NEW_MAC))
    assert files[path].count("NAME=") == 2 and f'"{NEW_MAC}", NAME="ens3"' in files[path]


@pytest.mark.adapts("N3", "T1")
def test_slots_and_drivers_follow_and_several_drivers_are_a_persons_choice() -> None:
    old = (Nic(OLD_MAC, "ens3", "0000:00:03.0", "virtio_net", addresses=STATIC),)
    path = "/etc/systemd/network/20.network"
    text = "[Match]\nPath=pci-0000:00:03.0\nDriver=virtio_net\n[Network]\nAddress=10.0.0.5/24\n"
    files, _, _ = restored(case({path: text}, old=old))
    assert "Path=pci-0000:00:02.0\nDriver=e1000e\n" in files[path]
    yaml = "/etc/netplan/1.yaml"
    files, _, _ = restored(
        case({yaml: "network: {ethernets: {all: {match: {driver: virtio_net}, dhcp4: true}}}\n"}, old=old)
    )
    assert "driver: e1000e" in files[yaml]
    two = (*old, Nic("52:54:00:aa:00:02", "ens4", "0000:00:04.0", "virtio_net", addresses=STATIC))
    decided = case({path: text}, nic(NEW_MAC), nic(THIRD_MAC, "igb"), old=two)
    (found,) = items(compare(decided), "config-driver")
    assert (found.tier, found.target) == (Tier.SHOULD, "") and "e1000e, igb" in found.reason


@pytest.mark.adapts("N6", "T1")
def test_leftovers_of_cloud_init_are_bound_anew_and_not_written_again() -> None:
    files = {
        "/etc/cloud/cloud.cfg": "datasource_list: [OpenStack]\n",
        "/etc/network/interfaces": "source /etc/network/interfaces.d/*.cfg\n",
        "/etc/network/interfaces.d/50-cloud-init.cfg": "auto ens3\niface ens3 inet dhcp\n",
        "/etc/netplan/50-cloud-init.yaml": FILES["cloud-init"][1].format(mac=OLD_MAC, gives=OLD_MAC),
    }
    after, _, _ = restored(case(files))
    assert f"macaddress: {NEW_MAC}" in after["/etc/netplan/50-cloud-init.yaml"]
    assert "disabled" in after["/etc/cloud/cloud.cfg.d/99-disable-network-config.cfg"]
    clone, _, _ = restored(case(files, mode="clone"))
    assert "/etc/cloud/cloud.cfg.d/99-disable-network-config.cfg" not in clone


@pytest.mark.adapts("N7", "T1")
def test_fewer_cards_than_configured_keep_the_best_and_await_none_of_the_others() -> None:
    yaml = (
        "network:\n  ethernets:\n    ens3: {addresses: [10.0.0.5/24]}\n    ens4:\n      dhcp4: true\n    ens5: {}\n"
        "  bonds:\n    uplink:\n      interfaces: [ens4, ens5]\n  vlans:\n    dmz: {id: 5, link: uplink}\n"
        "    office: {id: 6, link: ens3}\n"
    )
    interfaces = "auto lo ens3 ens4\niface ens3 inet manual\niface ens4 inet dhcp\n"
    old = tuple(Nic(f"52:54:00:aa:00:0{n}", f"ens{n}", addresses=STATIC if n == 3 else ()) for n in (3, 4, 5))
    decided = case({"/etc/netplan/1.yaml": yaml, "/etc/network/interfaces": interfaces}, old=old)
    files, difference, _ = restored(decided)
    lost = [item for item in items(difference, "nic") if item.op is Op.REMOVE]
    assert [(item.source, item.tier) for item in lost] == [("ens4", Tier.SHOULD), ("ens5", Tier.SHOULD)]
    after = files["/etc/netplan/1.yaml"]
    for name in ("ens4:\n      optional: true", "ens5: {optional: true}", "uplink:\n      optional: true",
                 "dmz: {optional: true, id: 5"):  # fmt: skip
        assert name in after
    assert "ens3: {addresses" in after and "office: {id: 6" in after
    assert files["/etc/network/interfaces"].startswith("auto lo ens3\nallow-hotplug ens4\n")


KERNEL_NAMED = {
    "/etc/network/interfaces": "auto eth0\niface eth0 inet static\n  address 10.0.0.5/24\n",
    "/etc/netplan/1.yaml": "network: {ethernets: {eth0: {dhcp4: true}}, vlans: {office: {id: 5, link: eth0}}}\n",
    "/etc/systemd/network/1.network": "[Match]\nName=eth0\n[Network]\nAddress=10.0.0.5/24\n",
    "/etc/NetworkManager/system-connections/a.nmconnection": "[connection]\ntype=ethernet\ninterface-name=eth0\n",
    "/etc/sysconfig/network-scripts/ifcfg-eth0": "DEVICE=eth0\nIPADDR=10.0.0.5\n",
    "/etc/sysconfig/network-scripts/route-eth0": "10.1.0.0/16 via 10.0.0.1 dev eth0\n",
    "/etc/sysconfig/network/ifcfg-eth0": "IPADDR='10.0.0.5/24'\n",
    "/etc/sysconfig/network/ifcfg-eth0.5": "ETHERDEVICE='eth0'\nVLAN_ID='5'\n",
    "/etc/wicked/ifconfig/a.xml": "<interface><name>eth0</name></interface>\n",
    "/etc/nftables.conf": 'iifname "eth0" accept\n',
    "/etc/wireguard/wg0.conf": "PostUp = iptables -A FORWARD -o eth0 -j ACCEPT\n",
    "/etc/firewalld/zones/public.xml": '<zone><interface name="eth0"/></zone>\n',
}


@pytest.mark.adapts("N1", "T1")
@pytest.mark.adapts("N8", "T1")
def test_a_name_of_the_kernels_is_exchanged_everywhere_where_it_can_collide() -> None:
    old = (Nic(OLD_MAC, "eth0", driver="e1000e", addresses=STATIC),)
    files, difference, _ = restored(case(KERNEL_NAMED, nic(NEW_MAC), nic(THIRD_MAC, link="down"), old=old))
    left = {path for path, text in files.items() if "eth0" in text.replace("rg-eth0", "")}
    assert not left & KERNEL_NAMED.keys(), left
    assert not [path for path in files if path.rpartition("/")[2].endswith(("-eth0", "-eth0.5")) and "rg-" not in path]
    assert files["/etc/sysconfig/network/ifcfg-rg-eth0.5"] == "ETHERDEVICE='rg-eth0'\nVLAN_ID='5'\n"
    assert f'"{NEW_MAC}", NAME="rg-eth0"' in files["/etc/udev/rules.d/70-persistent-net.rules"]
    assert {item.key for item in items(difference, "mention")} >= {"/etc/nftables.conf", "/etc/wireguard/wg0.conf"}


GLOBS = {
    "/etc/netplan/90-default.yaml": "network: {ethernets: {all: {match: {name: '@'}, dhcp4: true}}}\n",
    "/etc/systemd/network/80-any.network": "[Match]\nName=en* @\n[Network]\nDHCP=yes\n",
    "/etc/NetworkManager/system-connections/any.nmconnection":
        "[connection]\ntype=ethernet\n[match]\ninterface-name=@;!eth1;\n",
}  # fmt: skip


@pytest.mark.adapts("N1", "T1")
@pytest.mark.parametrize("path", GLOBS)
@pytest.mark.parametrize(
    ("glob", "name"),
    [("eth*", "eth100"), ("eth?", "eth9"), ("e*", "eth100"), ("et[!x]*", "eth100"), ("*", "rg-eth0"),
     ("wl*", "rg-eth0"), ("eth0", "rg-eth0")],
)  # fmt: skip
def test_what_means_an_interface_by_a_glob_means_it_by_its_new_name(path: str, glob: str, name: str) -> None:
    old = (Nic(OLD_MAC, "eth0", driver="hv_netvsc", addresses=(Address("10.0.0.5/24", "dhcp"),)),)
    before = {path: GLOBS[path].replace("@", glob), "/etc/nftables.conf": 'iifname "eth0" accept\n'}
    files, difference, _ = restored(case(before, nic(NEW_MAC), nic(THIRD_MAC, link="down"), old=old))
    assert files[path] == GLOBS[path].replace("@", glob.replace("eth0", name))
    assert f'"{NEW_MAC}", NAME="{name}"' in files["/etc/udev/rules.d/70-persistent-net.rules"]
    assert [item.handled_by for item in items(difference, "nic-kernel-name")] == [("net.kernel-names",)]


@pytest.mark.adapts("N1", "T1")
def test_two_names_of_the_kernels_get_two_and_none_that_is_in_use() -> None:
    old = (Nic(OLD_MAC, "eth0", addresses=STATIC), Nic("52:54:00:aa:00:02", "eth1", addresses=STATIC))
    files = {"/etc/systemd/network/a.network": "[Match]\nName=eth*\n",
             "/etc/systemd/network/b.network": "[Match]\nName=!wl* eth7\n[Network]\nBond=eth100\n"}  # fmt: skip
    after, difference, _ = restored(case(files, nic(NEW_MAC), nic(THIRD_MAC), old=old))
    assert {item.source: item.key for item in items(difference, "nic-kernel-name")} == {
        "eth0": "eth101",
        "eth1": "eth102",
    }
    assert {path: after[path] for path in files} == files


@pytest.mark.adapts("N8", "T1")
def test_a_name_that_is_kept_needs_no_edit_and_one_without_a_card_is_reported() -> None:
    files = {path: text.replace("eth0", "ens3") for path, text in KERNEL_NAMED.items() if "sysconfig" not in path}
    after, difference, _ = restored(case(files))
    assert {path: after[path] for path in files} == files and not items(difference, "mention", "config-name")
    old = (Nic(OLD_MAC, "ens9", addresses=STATIC), Nic("52:54:00:aa:00:02", "ens3"))
    decided = case({"/etc/nftables.conf": files["/etc/nftables.conf"]}, old=old)
    mentions = (ConfigFile("/etc/nftables.conf", "0", (Mention("interface", "ens3", 1),)),)
    decided = replace(decided, source=replace(decided.source, config_files=mentions))
    (found,) = items(compare(decided), "mention-absent")
    assert (found.key, found.tier) == ("/etc/nftables.conf", Tier.LATER)


def test_addresses_that_configuration_gives_to_cards_are_told_of_in_a_clone() -> None:
    path, text = FILES["nm"]
    decided = case({path: text.format(mac=OLD_MAC, gives="02:00:00:00:00:01")}, mode="clone")
    assert [item.key for item in items(compare(decided), "identity")] == ["static addresses", "MAC addresses"]


def test_cards_that_change_places_in_one_file_are_not_edited_by_halves() -> None:
    from agent.model.nic_map import parse_wishes  # noqa: PLC0415

    path = "/etc/netplan/1.yaml"
    text = "".join(f"    l{mac[-1]}: {{match: {{macaddress: '{mac}'}}}}\n" for mac in (NEW_MAC, THIRD_MAC))
    old = (Nic(NEW_MAC, "ens3", addresses=STATIC), Nic(THIRD_MAC, "ens4", addresses=STATIC))
    swap = parse_wishes([f"ens3={THIRD_MAC}", f"ens4={NEW_MAC}"])
    decided = case({path: f"network:\n  ethernets:\n{text}"}, nic(NEW_MAC), nic(THIRD_MAC), old=old, nic_wishes=swap)
    assert [item.op for item in items(compare(decided), "config")] == [Op.BLOCK, Op.BLOCK]


def test_a_profile_may_be_called_anything_and_keeps_its_name() -> None:
    path = "/etc/NetworkManager/system-connections/Büro (5G) $HOME's.nmconnection"
    files, difference, _ = restored(case({path: FILES["nm"][1].format(mac=OLD_MAC, gives="02:00:00:00:00:01")}))
    assert f"mac-address={NEW_MAC}\n" in files[path]
    assert not [item for item in items(difference, "config") if not item.handled_by]
