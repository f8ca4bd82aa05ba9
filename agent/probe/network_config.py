"""Files that configure network interfaces: which names and cards they are about, which addresses they give.

Seven backends, each read only as far as it names interfaces, MAC addresses and static addresses. Reads any tree.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath

from agent.model.profile import NetworkConfig
from agent.model.tree import Tree, read_text

MAC = re.compile(r"(?<![0-9A-Fa-f:])(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}(?![0-9A-Fa-f:])")
# Folder, ending, backend.
FOLDERS = (
    ("/etc/netplan", (".yaml", ".yml"), "netplan"),
    ("/lib/netplan", (".yaml",), "netplan"),
    ("/run/netplan", (".yaml",), "netplan"),
    ("/etc/systemd/network", (".network", ".link", ".netdev"), "networkd"),
    ("/etc/NetworkManager/system-connections", (".nmconnection", ""), "nm"),
    ("/etc/sysconfig/network-scripts", ("ifcfg-*",), "ifcfg"),
    ("/etc/sysconfig/network", ("ifcfg-*",), "ifcfg"),
    ("/etc/wicked/ifconfig", (".xml",), "wicked"),
)
UDEV_RULES = "/etc/udev/rules.d/70-persistent-net.rules"
CLOUD_INIT_MARK = "cloud-init"


def read_configs(tree: Tree) -> tuple[NetworkConfig, ...]:
    """Every file that configures interfaces, in the order of the backends."""
    found: list[NetworkConfig] = [
        interfaces_file(path, read_text(tree, path)) for path in interfaces_files(tree, "/etc/network/interfaces")
    ]
    for folder, endings, backend in FOLDERS:
        for name in tree.list_dir(folder):
            path = f"{folder}/{name}"
            if _named(name, endings) and tree.is_file(path):
                found.append(READERS[backend](path, read_text(tree, path)))
    if tree.is_file(UDEV_RULES):
        found.append(udev_rules(UDEV_RULES, read_text(tree, UDEV_RULES)))
    return tuple(found)


def _named(name: str, endings: tuple[str, ...]) -> bool:
    for ending in endings:
        if ending.endswith("*"):
            if name.startswith(ending[:-1]) and not name.endswith((".bak", "~", ".rpmsave", ".orig")):
                return name != "ifcfg-lo"
        elif name.endswith(ending) if ending else "." not in name:
            return True
    return False


# --- ifupdown -------------------------------------------------------------------------------------------------------


def interfaces_files(tree: Tree, path: str, depth: int = 0) -> Iterator[str]:
    """The file and what it sources; ifupdown sources by pattern, and by folder with run-parts' names."""
    if not tree.is_file(path) or depth > 4:
        return
    yield path
    for line in continued_lines(read_text(tree, path)):
        words = line.split()
        if len(words) < 2 or words[0] not in ("source", "source-directory", "source-dir"):
            continue
        where = PurePosixPath("/etc/network") / words[1]
        if words[0] == "source":
            names = [n for n in tree.list_dir(str(where.parent)) if PurePosixPath(n).match(where.name)]
            below = [str(where.parent / name) for name in names]
        else:
            below = [str(where / n) for n in tree.list_dir(str(where)) if re.fullmatch(r"[A-Za-z0-9_-]+", n)]
        for each in below:
            yield from interfaces_files(tree, each, depth + 1)


def continued_lines(text: str) -> Iterator[str]:
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield line.strip()


def interfaces_file(path: str, text: str) -> NetworkConfig:
    names: list[str] = []
    addresses: list[str] = []
    address, prefix = "", ""
    for line in [*continued_lines(text), "iface"]:
        word, _, value = line.partition(" ")
        value = value.strip()
        if word in ("iface", "auto", "allow-auto", "allow-hotplug", "mapping", "source"):
            addresses += static(address, prefix)
            address, prefix = "", ""
            names += value.split()[:1] if word == "iface" else value.split() if word != "source" else []
        elif word == "address":
            address = value
        elif word == "netmask":
            prefix = value
        elif word in ("bond-slaves", "bond-ports", "bridge-ports", "bridge_ports", "slaves", "vlan-raw-device"):
            names += [name for name in value.split() if name not in ("none", "regex")]
    return config("ifupdown", path, names, text, addresses)


def static(address: str, prefix: str = "") -> list[str]:
    """``address/prefix`` from an address and a prefix length or netmask; nothing when it is no address."""
    address = address.strip().strip("\"'")
    if not address:
        return []
    whole = address if "/" in address or not prefix else f"{address}/{prefix}"
    try:
        return [str(ipaddress.ip_interface(whole))]
    except ValueError:
        return []


# --- the others -----------------------------------------------------------------------------------------------------


def netplan_file(path: str, text: str) -> NetworkConfig:
    """YAML without a YAML parser: keys by their depth below ethernets, bonds, bridges, vlans, wifis."""
    names: list[str] = []
    addresses: list[str] = []
    stack: list[tuple[int, str]] = []
    for line in text.splitlines():
        bare = line.split(" #")[0].rstrip()
        if not bare.strip() or bare.lstrip().startswith("#"):
            continue
        indent = len(bare) - len(bare.lstrip())
        item = bare.strip()
        while stack and stack[-1][0] >= indent and not (item.startswith("- ") and stack[-1][0] == indent):
            stack.pop()
        key, colon, value = item.lstrip("- ").partition(":")
        here = [name for _, name in stack]
        if colon and not item.startswith("- ") and (not value or value.startswith(" ")):
            key = key.strip("\"'")
            if here and here[-1] in ("ethernets", "bonds", "bridges", "vlans", "wifis", "tunnels"):
                names.append(key)
            if key in ("set-name", "link"):
                names.append(value.strip().strip("\"'"))
            names += _flow(value) if key == "interfaces" else []
            if key == "addresses" and "nameservers" not in here:
                addresses += [one for word in _flow(value) for one in static(word)]
            stack.append((indent, key))
        elif item.startswith("- ") and here and here[-1] == "interfaces":
            names.append(item[2:].strip("\"' "))
        elif item.startswith("- ") and here and here[-1] == "addresses" and "nameservers" not in here:
            addresses += static(item[2:].strip().strip("\"'").removesuffix(":").strip("\"'"))
    backend = "cloud-init" if CLOUD_INIT_MARK in PurePosixPath(path).name else "netplan"
    return config(backend, path, names, text, addresses)


def _flow(value: str) -> list[str]:
    """Words of ``[a, "b"]``."""
    found = re.fullmatch(r"\s*\[(.*)\]\s*", value)
    return [word.strip().strip("\"'") for word in found[1].split(",") if word.strip()] if found else []


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


def networkd_file(path: str, text: str) -> NetworkConfig:
    names: list[str] = []
    addresses: list[str] = []
    for section, key, value in ini_values(text):
        if (section, key) in (("Match", "Name"), ("Match", "OriginalName"), ("Link", "Name"), ("NetDev", "Name")):
            names += value.split()
        elif (section, key) in (("Network", "Address"), ("Address", "Address")):
            addresses += static(value)
    return config("networkd", path, names, text, addresses)


def nm_file(path: str, text: str) -> NetworkConfig:
    names: list[str] = []
    addresses: list[str] = []
    for section, key, value in ini_values(text):
        if key == "interface-name" or (section, key) == ("vlan", "parent"):
            names.append(value)
        elif section in ("ipv4", "ipv6") and re.fullmatch(r"address(es)?\d*", key):
            addresses += static(value.split(",")[0])
    return config("nm", path, names, text, addresses)


def ifcfg_file(path: str, text: str) -> NetworkConfig:
    values = {key: value.strip("\"'") for _, key, value in ini_values(text)}
    names = [values.get("DEVICE") or path.rpartition("/ifcfg-")[2]]
    names += [values[key] for key in ("PHYSDEV", "ETHERDEVICE") if values.get(key)]
    addresses: list[str] = []
    for key, value in values.items():
        found = re.fullmatch(r"(IPADDR|IPV6ADDR)(\d*|_\w+)", key)
        if found:
            prefix = values.get(f"PREFIX{found[2]}") or values.get(f"PREFIXLEN{found[2]}") or ""
            addresses += static(value, prefix or values.get(f"NETMASK{found[2]}", ""))
    return config("ifcfg", path, names, text, addresses)


def wicked_file(path: str, text: str) -> NetworkConfig:
    names = re.findall(r"<name>\s*([^<\s]+)\s*</name>", text)
    addresses = [one for word in re.findall(r"<local>\s*([^<\s]+)\s*</local>", text) for one in static(word)]
    return config("wicked", path, names, text, addresses)


def udev_rules(path: str, text: str) -> NetworkConfig:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return config("udev", path, re.findall(r'NAME(?:=|:=)"([^"]+)"', "\n".join(lines)), "\n".join(lines), ())


READERS: dict[str, Callable[[str, str], NetworkConfig]] = {
    "netplan": netplan_file,
    "networkd": networkd_file,
    "nm": nm_file,
    "ifcfg": ifcfg_file,
    "wicked": wicked_file,
}


def config(backend: str, path: str, names: Iterable[str], text: str, addresses: Iterable[str]) -> NetworkConfig:
    """``text`` without comments is searched for MAC addresses; the loopback interface is no card."""
    told = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith(("#", ";")))
    return NetworkConfig(
        backend=backend,
        path=path,
        interfaces=tuple(dict.fromkeys(name for name in names if name and name != "lo")),
        macs=tuple(dict.fromkeys(mac.lower() for mac in MAC.findall(told))),
        addresses=tuple(dict.fromkeys(addresses)),
    )
