"""ifupdown's files: what ``/etc/network/interfaces`` and all that it sources say of interfaces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from agent.model.mac_address import macs_in
from agent.model.profile import Assigned, Made, NetworkConfig
from agent.model.tree import Tree, read_text
from agent.probe.addresses import static

MAIN = "/etc/network/interfaces"
DEPTH = 4  # of files that source files
_BEGINS = ("iface", "auto", "mapping", "source", "source-directory", "source-dir", "rename", "no-auto-down",
           "no-scripts", "template")  # fmt: skip
_MEMBERS = ("bond-slaves", "bond-ports", "bridge-ports", "slaves", "vlan-raw-device")
_MAKES = re.compile(r"(bond|bridge|vlan|vxlan|tunnel|ovs|batman|vrf)-")
_NOT_NAMES = ("none", "regex", "all", "noregex")
_IP_LINK_ADD = re.compile(r"\bip\s+link\s+add\s+(?:link\s+(\S+)\s+)?(?:name\s+|dev\s+)?(\S+)")


@dataclass(slots=True)
class _Found:
    names: list[str] = field(default_factory=list)
    addresses: list[tuple[str, str]] = field(default_factory=list)  # (interface, cidr)
    macs: list[str] = field(default_factory=list)
    sets_macs: list[str] = field(default_factory=list)
    made: dict[str, list[str]] = field(default_factory=dict)


def interfaces_files(tree: Tree, path: str = MAIN, depth: int = 0) -> Iterator[str]:
    """The file and what it sources; ifupdown sources by pattern, and by folder with run-parts' names."""
    if not tree.is_file(path) or depth > DEPTH:
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
    found = _Found()
    stanza: dict[str, str] = {}
    for line in [*continued_lines(text), "iface"]:
        word, value = (*line.split(maxsplit=1), "")[:2]
        if word in _BEGINS or word.startswith("allow-"):
            given = static(stanza.get("address", ""), stanza.get("netmask", ""))
            found.addresses += [(stanza.get("iface", ""), cidr) for cidr in given]
            stanza = {"iface": value.split()[0]} if word == "iface" and value else {}
            _begin(found, word, value)
        elif word == "map":
            found.macs += macs_in(value)
        else:
            key = word.replace("_", "-")
            stanza[key] = value
            _option(found, stanza.get("iface", ""), key, value)
    return NetworkConfig(
        backend="ifupdown",
        path=path,
        interfaces=_once(name for name in found.names if name != "lo"),
        macs=_once(found.macs),
        addresses=_once(cidr for _, cidr in found.addresses),
        made=tuple(Made(name, _once(of)) for name, of in found.made.items()),
        sets_macs=_once(found.sets_macs),
        assigned=tuple(Assigned(name, cidr) for name, cidr in found.addresses if name),
    )


def _begin(found: _Found, word: str, value: str) -> None:
    found.macs += macs_in(value)
    if word == "rename":
        found.names += [one.partition("=")[2] for one in value.split() if "=" in one]
    elif not word.startswith(("source", "no-", "template")):
        names = value.split()[:1] if word == "iface" else value.split()
        found.names += [name for name in names if "/" not in name]  # a pattern: mac/52:54:…
    for name in found.names:
        if "." in name or ":" in name:  # eth0.5 is a VLAN on eth0, eth0:1 another address of it
            found.made.setdefault(name, []).append(re.split(r"[.:]", name)[0])


def _option(found: _Found, iface: str, key: str, value: str) -> None:
    if key in _MEMBERS:
        members = [name for name in value.split() if name not in _NOT_NAMES and "*" not in name]
        found.names += members
        found.made.setdefault(iface, []).extend(members)
    elif key == "bond-master":
        found.made.setdefault(value, []).append(iface)
    elif key == "hwaddress":
        found.sets_macs += macs_in(value)
    elif _MAKES.match(key) and key != "bond-primary":
        found.made.setdefault(iface, [])
    elif key in ("pre-up", "up"):
        for under, name in _IP_LINK_ADD.findall(value):
            own = iface if name in ("$IFACE", "${IFACE}") else name
            found.made.setdefault(own, []).extend([under] if under else [])


def _once(values: Iterator[str] | list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value))
