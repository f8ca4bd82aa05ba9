"""The last address that each interface was given, as DHCP clients keep it: dhclient, NetworkManager, wicked."""

from __future__ import annotations

import re
from collections.abc import Iterator

from agent.model.profile import Lease
from agent.model.tree import Tree, read_text
from agent.probe.addresses import static

FOLDERS = ("/var/lib/dhcp", "/var/lib/dhclient", "/var/lib/NetworkManager", "/var/lib/wicked")
_NM_FILE = re.compile(r"(?:internal|dhclient)-[0-9a-f-]{36}-(\S+)\.lease")
_WICKED_FILE = re.compile(r"lease-(\S+)-(?:dhcp|auto)-ipv4\.xml")
_BLOCK = re.compile(r"^lease\s*\{(.*?)^\}", re.DOTALL | re.MULTILINE)


def read_leases(tree: Tree) -> tuple[Lease, ...]:
    """One an interface: the newest of each file, the last file wins."""
    found: dict[str, Lease] = {}
    for folder in FOLDERS:
        for name in tree.list_dir(folder):
            path = f"{folder}/{name}"
            if name.endswith((".lease", ".leases", ".xml")) and tree.is_file(path):
                for interface, cidr in _leases(name, read_text(tree, path)):
                    found[interface] = Lease(interface, cidr, path)
    return tuple(found.values())


def _leases(name: str, text: str) -> Iterator[tuple[str, str]]:
    for block in _BLOCK.findall(text):
        interface = _value(r'interface\s+"([^"]+)"', block)
        yield from _pair(interface, _value(r"fixed-address\s+([^;]+)", block),
                         _value(r"option\s+subnet-mask\s+([^;]+)", block))  # fmt: skip
    network_manager, wicked = _NM_FILE.fullmatch(name), _WICKED_FILE.fullmatch(name)
    if network_manager:
        yield from _pair(network_manager[1], _value(r"^ADDRESS=(\S+)", text), _value(r"^NETMASK=(\S+)", text))
    elif wicked:
        yield from _pair(wicked[1], _value(r"<address>\s*([^<\s]+)", text), _value(r"<netmask>\s*([^<\s]+)", text))


def _pair(interface: str, address: str, netmask: str) -> Iterator[tuple[str, str]]:
    for cidr in static(address, netmask):
        if interface:
            yield interface, cidr


def _value(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1].strip() if found else ""
