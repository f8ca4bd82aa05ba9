"""A network and mount namespace with cards of given MAC addresses, for the backends' own programs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.process import run

REPOSITORY = Path(__file__).resolve().parents[2]


def unpack(files: Mapping[str, str], root: Path) -> None:
    for path, text in files.items():
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o600)


def names_by_rule(rules: str) -> dict[str, str]:
    """MAC address → name, as udev's rules that the restore wrote give it."""
    return dict(re.findall(r'ATTR\{address\}=="([0-9a-f:]+)", NAME="([^"]+)"', rules))


def addresses_in_namespace(cards: Mapping[str, str], program: str) -> dict[str, set[str]]:
    """MAC address → IPv4 addresses, once ``program`` (shell) has worked on ``cards`` (MAC address → name).

    Of every card the other end of the cable, ``cable0`` …, is up too.
    """
    told = in_namespace(cards, program, "ip -j -4 address")
    found: dict[str, set[str]] = {mac: set() for mac in cards}
    names = {name: mac for mac, name in cards.items()}
    for link in json.loads(told):
        mac = names.get(link.get("ifname", ""))
        if mac:
            found[mac] |= {each["local"] for each in link["addr_info"]}
    return found


def in_namespace(cards: Mapping[str, str], *commands: str) -> str:
    """What the last of the commands prints, each of which must succeed."""
    made = [
        f"ip link add {name} address {mac} type veth peer name cable{number} && ip link set cable{number} up"
        for number, (mac, name) in enumerate(cards.items())
    ]
    quiet = [f"{{ {command}; }} >&2" for command in ("ip link set lo up", *made, *commands[:-1])]
    script = "\n".join(("set -e", "mount -t sysfs -o ro sysfs /sys", "mount -t tmpfs tmpfs /run", *quiet, commands[-1]))
    done = run(["unshare", "--net", "--mount", "bash", "-c", script], timeout_s=60)
    return done.stdout


def probe(card: str, mac: str, address: str) -> str:
    """Shell: the agent's question whether another machine has an address, as JSON."""
    code = (
        "import json; from agent.model.nic_map import Watched; from agent.pe.duplicate_address import find_duplicates; "
        f"found, unasked = find_duplicates([Watched('{card}', '{mac}', ('{address}', '192.0.2.99'))], ['{mac}']); "
        "print(json.dumps([[one.address, one.mac] for one in found] + unasked))"
    )
    return f'cd {REPOSITORY} && {sys.executable} -c "{code}"'


def read_json(text: str) -> Any:
    return json.loads(text)
