"""Files that configure network interfaces: which names and cards they are about, which addresses they give.

Seven backends, each read only as far as it names interfaces, what it binds them to, what it makes of them, and static
addresses. Reads any tree. What a file *binds to* (HWADDR, match, mac-address) is told apart from what it *gives* to an
interface (MACADDR, macaddress, cloned-mac-address): the first must follow the card, the second stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePosixPath

from agent.model import netplan
from agent.model.mac_address import macs_in
from agent.model.network_backends import FOLDERS, named_as
from agent.model.profile import Assigned, Made, NetworkConfig
from agent.model.tree import Tree, read_text
from agent.probe.addresses import static
from agent.probe.ifupdown import interfaces_file, interfaces_files

CLOUD_INIT_MARK = "cloud-init"
DROP_INS = (".network.d", ".netdev.d", ".link.d")
_NM_CARDS = ("", "ethernet", "802-3-ethernet", "wifi", "802-11-wireless", "infiniband", "gsm", "pppoe", "loopback")
_NM_BINDS = (".mac-address", ".mac-address-blacklist", ".mac-address-denylist")


def read_configs(tree: Tree) -> tuple[NetworkConfig, ...]:
    """Every file that configures interfaces, in the order of the backends."""
    found: list[NetworkConfig] = [interfaces_file(path, read_text(tree, path)) for path in interfaces_files(tree)]
    for folder, endings, backend in FOLDERS:
        for name in tree.list_dir(folder):
            path = f"{folder}/{name}"
            if named_as(name, endings) and tree.is_file(path):
                found += READERS[backend](path, read_text(tree, path))
            elif backend == "networkd" and name.endswith(DROP_INS):
                found += _drop_ins(tree, path)
    return tuple(found)


def _drop_ins(tree: Tree, folder: str) -> Iterator[NetworkConfig]:
    for name in tree.list_dir(folder):
        if name.endswith(".conf") and tree.is_file(f"{folder}/{name}"):
            yield from networkd_file(f"{folder}/{name}", read_text(tree, f"{folder}/{name}"))


# --- netplan --------------------------------------------------------------------------------------------------------


def netplan_file(path: str, text: str) -> Iterator[NetworkConfig]:
    found = netplan.definitions(text)
    names = {one.id: one.name for one in found}
    backend = "cloud-init" if CLOUD_INIT_MARK in PurePosixPath(path).name else "netplan"
    yield config(
        backend,
        path,
        [name for one in found for name in (one.name, *(names.get(id, id) for id in one.members))],
        macs=[mac for one in found for text in one.macs for mac in macs_in(text)],
        addresses=[cidr for one in found for word in one.addresses for cidr in static(word)],
        made={one.name: [names.get(id, id) for id in one.members] for one in found if one.kind in netplan.MADE},
        sets_macs=[mac for one in found for text in one.sets_macs for mac in macs_in(text)],
        match_drivers=[word for one in found for word in one.drivers],
        assigned=[(one.name, cidr) for one in found for word in one.addresses for cidr in static(word)],
    )


# --- INI-like -------------------------------------------------------------------------------------------------------


def ini_values(text: str) -> Iterator[tuple[str, str, str]]:
    """(section, key, value) of every line of an INI-like file."""
    section = ""
    for line in text.splitlines():
        bare = line.strip()
        if bare.startswith("[") and bare.endswith("]"):
            section = bare[1:-1]
        elif "=" in bare and not bare.startswith(("#", ";")):
            key, _, value = bare.partition("=")
            yield section, key.strip(), value.strip()


def networkd_file(path: str, text: str) -> Iterator[NetworkConfig]:
    told = [(f"{section}.{key}", value) for section, key, value in ini_values(text)]
    names = _of(told, "Match.Name", "Match.OriginalName", "Link.Name", "NetDev.Name")
    made: dict[str, list[str]] = {name: [] for name in _of(told, "NetDev.Name")}
    about = _of(told, "Match.Name")
    for name in _of(told, "Network.Bond", "Network.Bridge", "Network.VLAN", "Network.MACVLAN", "Network.VRF",
                    "Network.IPVLAN", "Network.VXLAN", "Network.Tunnel"):  # fmt: skip
        made.setdefault(name, []).extend(about)
    yield config(
        "networkd", path, names,
        macs=macs_in(" ".join(_of(told, "Match.MACAddress", "Match.PermanentMACAddress"))),
        addresses=[one for value in _of(told, "Network.Address", "Address.Address") for one in static(value)],
        made=made,
        sets_macs=macs_in(" ".join(_of(told, "Link.MACAddress", "NetDev.MACAddress"))),
        match_paths=_of(told, "Match.Path"),
        match_drivers=_of(told, "Match.Driver"),
    )  # fmt: skip


def _of(told: Iterable[tuple[str, str]], *keys: str) -> list[str]:
    """The words of these keys' values."""
    return [word for key, value in told if key in keys for word in value.split()]


def nm_file(path: str, text: str) -> Iterator[NetworkConfig]:
    """A keyfile (profile), or NetworkManager's own configuration, which only names cards to leave alone or to match."""
    told = [(f"{section}.{key}", value) for section, key, value in ini_values(text)]
    values = dict(told)
    if path.endswith(".conf"):
        words = " ".join(value for key, value in told if re.search(r"\.(unmanaged-devices|match-device|no-auto-)", key))
        found = config("nm", path, (), macs=macs_in(words))
        if found.macs:
            yield found
        return
    name = values.get("connection.interface-name", "")
    made: dict[str, list[str]] = {}
    if values.get("connection.type", "") not in _NM_CARDS and name:
        parent = values.get("vlan.parent", "") or values.get("macvlan.parent", "")
        made[name] = [parent] if parent else []
    for key in ("connection.master", "connection.controller"):
        if values.get(key) and name:
            made.setdefault(values[key], []).append(name)
    addresses = [
        one for key, value in told if re.fullmatch(r"ipv[46]\.address(es)?\d*", key)
        for word in value.split(";") for one in static(word.split(",")[0])
    ]  # fmt: skip
    yield config(
        "nm", path, [name, *(value for key, value in told if key.endswith(".parent"))],
        macs=macs_in(" ".join(value for key, value in told if key.endswith(_NM_BINDS))),
        addresses=addresses,
        made=made,
        sets_macs=macs_in(" ".join(value for key, value in told if key.endswith(".cloned-mac-address"))),
        match_paths=values.get("match.path", "").replace(";", " ").split(),
        match_drivers=values.get("match.driver", "").replace(";", " ").split(),
    )  # fmt: skip


# --- ifcfg of two families, wicked's XML, udev's rules ----------------------------------------------------------------


def ifcfg_file(path: str, text: str) -> Iterator[NetworkConfig]:
    values = {key: value.strip("\"'") for _, key, value in ini_values(text)}
    own = values.get("DEVICE", "")
    if not own and not ("network-scripts" in path and values.get("HWADDR")):
        own = path.rpartition("/ifcfg-")[2]  # without a name, RHEL's are bound by the address
    under = [values[key] for key in ("PHYSDEV", "ETHERDEVICE") if values.get(key)]
    under += [value for key, value in values.items() if re.fullmatch(r"BONDING_SLAVE_?\d+", key)]
    under += values.get("BRIDGE_PORTS", "").split()
    made: dict[str, list[str]] = {}
    if own and (under or _is_made(values)):
        made[own] = under or ([own.partition(".")[0]] if "." in own else [])
    for key in ("MASTER", "TEAM_MASTER", "BRIDGE"):
        if own and values.get(key, "no").lower() not in ("no", "yes"):
            made.setdefault(values[key], []).append(own)
    addresses: list[str] = []
    for key, value in values.items():
        found = re.fullmatch(r"(IPADDR|IPV6ADDR)(\d*|_\w+)", key)
        if found:
            prefix = values.get(f"PREFIX{found[2]}") or values.get(f"PREFIXLEN{found[2]}") or ""
            addresses += static(value, prefix or values.get(f"NETMASK{found[2]}", ""))
    yield config(
        "ifcfg", path, [own, *under], macs=macs_in(values.get("HWADDR", "")), addresses=addresses, made=made,
        sets_macs=macs_in(" ".join(values.get(key, "") for key in ("MACADDR", "LLADDR"))),
    )  # fmt: skip


def _is_made(values: Mapping[str, str]) -> bool:
    kind = values.get("TYPE", "").lower() or values.get("DEVICETYPE", "").lower()
    yes = any(values.get(key, "").lower() == "yes" for key in ("VLAN", "BRIDGE", "BONDING_MASTER"))
    return yes or "BONDING_OPTS" in values or "TEAM_CONFIG" in values or "TUNNEL" in values or (
        kind in ("bond", "bridge", "vlan", "team", "ovsbridge", "ovsport", "ipsec", "gre", "sit", "dummy", "wireguard")
    )  # fmt: skip


def wicked_file(path: str, text: str) -> Iterator[NetworkConfig]:
    names: list[str] = []
    made: dict[str, list[str]] = {}
    for block in re.findall(r"<interface\b.*?</interface>", text, re.DOTALL):
        own = re.findall(r"<name\b[^>]*>\s*([^<\s]+)\s*</name>", block)
        under = re.findall(r"<device>\s*([^<\s]+)\s*</device>", block)
        names += [*own, *under]
        if own and re.search(r"<(bond|bridge|vlan|macvlan|team|tuntap)\b", block):
            made[own[0]] = under
    yield config(
        "wicked", path, names,
        macs=macs_in(" ".join(re.findall(r"<permanent-address>([^<]*)<", text))),
        addresses=[one for word in re.findall(r"<local>\s*([^<\s]+)\s*</local>", text) for one in static(word)],
        made=made,
    )  # fmt: skip


def udev_rules(path: str, text: str) -> Iterator[NetworkConfig]:
    """Rules for cards; a file without any is none of ours. One that names none binds (MTU, offloads, wake-up)."""
    lines = [line for line in re.sub(r"\\\n", " ", text).splitlines() if not line.lstrip().startswith("#")]
    own = [line for line in lines if re.search(r'SUBSYSTEMS?=="net"|ATTRS?\{address\}|\bNAME:?="', line)]
    names = re.findall(r'\bNAME:?="([^"%$]+)"', "\n".join(own))
    found = config("udev", path, names if "net" in "".join(own) else (), macs=macs_in("\n".join(own)))
    if found.macs or path.endswith("70-persistent-net.rules"):
        yield found


READERS: dict[str, Callable[[str, str], Iterator[NetworkConfig]]] = {
    "netplan": netplan_file,
    "networkd": networkd_file,
    "nm": nm_file,
    "ifcfg": ifcfg_file,
    "wicked": wicked_file,
    "udev": udev_rules,
}


def config(  # noqa: PLR0913 - what a file may say
    backend: str, path: str, names: Iterable[str], *, macs: Iterable[str] = (), addresses: Iterable[str] = (),
    made: Mapping[str, Iterable[str]] | None = None, sets_macs: Iterable[str] = (), match_paths: Iterable[str] = (),
    match_drivers: Iterable[str] = (), assigned: Iterable[tuple[str, str]] = (),
) -> NetworkConfig:  # fmt: skip
    """Everything once; the loopback interface is no card."""
    return NetworkConfig(
        backend=backend,
        path=path,
        interfaces=tuple(dict.fromkeys(name for name in names if name and name != "lo")),
        macs=tuple(dict.fromkeys(macs)),
        addresses=tuple(dict.fromkeys(addresses)),
        made=tuple(Made(name, tuple(dict.fromkeys(of))) for name, of in (made or {}).items() if name),
        sets_macs=tuple(dict.fromkeys(sets_macs)),
        match_paths=tuple(dict.fromkeys(match_paths)),
        match_drivers=tuple(dict.fromkeys(match_drivers)),
        assigned=tuple(Assigned(name, cidr) for name, cidr in assigned if name),
    )
