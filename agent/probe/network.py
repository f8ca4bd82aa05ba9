"""Network cards: permanent address, driver, link, addresses, and every device on the way to them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.model.profile import Address, NetworkConfig, Nic
from agent.probe.hardware import Inventory, bus_order, chain_of, driver_of, pci_address
from agent.probe.kernel_files import names_in, number_of, text_of
from agent.probe.udev import UdevDatabase

CARRIERS = frozenset({1, 32})  # ARPHRD_ETHER (wireless too), ARPHRD_INFINIBAND
FOREVER = 0xFFFFFFFF  # seconds: an address that nobody leased
NO_MAC = frozenset({"", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"})


@dataclass(frozen=True, slots=True)
class Links:
    """What netlink tells, by interface name."""

    permanent: Mapping[str, str]
    addresses: Mapping[str, tuple[Address, ...]]
    problem: str = ""


def read_links() -> Links:
    """Asks the kernel; where it does not answer, sysfs still knows the cards but not their addresses."""
    from pyroute2 import IPRoute  # noqa: PLC0415 - 70 ms, and a tree or an image has no links
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 - loads all of pyroute2, too

    try:
        with IPRoute() as route:
            links = list(route.get_links())
            addresses = list(route.get_addr())
    except (OSError, NetlinkError) as error:
        return Links({}, {}, f"netlink does not answer: {error}")
    names = {link["index"]: str(link.get_attr("IFLA_IFNAME")) for link in links}
    # A bond, a bridge or a team holds the addresses of its cards.
    masters = {str(link.get_attr("IFLA_IFNAME")): names.get(link.get_attr("IFLA_MASTER"), "") for link in links}
    permanent = {names[link["index"]]: str(link.get_attr("IFLA_PERM_ADDRESS") or "").lower() for link in links}
    held: dict[str, tuple[Address, ...]] = {}
    for each in addresses:
        name = names.get(each["index"], "")
        held[name] = (*held.get(name, ()), address_of(each))
    found = {name: held.get(name, ()) + held.get(masters[name], ()) for name in names.values()}
    return Links(permanent, found)


def address_of(told: Any) -> Address:
    """An address and where it comes from; with a lifetime, somebody leased or announced it."""
    text = str(told.get_attr("IFA_LOCAL") or told.get_attr("IFA_ADDRESS"))
    lifetime = (told.get_attr("IFA_CACHEINFO") or {}).get("ifa_valid", FOREVER)
    return Address(f"{text}/{told['prefixlen']}", origin(text, lifetime))


def origin(address: str, lifetime_s: int) -> str:
    if ipaddress.ip_address(address).is_link_local:
        return "link"
    return "static" if lifetime_s == FOREVER else "dhcp"


def read_nics(inventory: Inventory, links: Links, root: Path = Path("/")) -> tuple[Nic, ...]:
    """Cards, in the order of the buses. What software made (bridges, bonds, VLANs, virtual functions) is no card."""
    folder = root / "sys/class/net"
    found: list[tuple[str, Nic]] = []
    for name in names_in(folder):
        device = folder / name / "device"
        if not device.exists() or number_of(folder / name / "type") not in CARRIERS or (device / "physfn").exists():
            continue
        found.append((str(device.resolve()), read_nic(name, inventory, links, root)))
    return tuple(nic for _, nic in sorted(found, key=lambda each: (bus_order(each[0]), each[1].name)))


def read_nic(name: str, inventory: Inventory, links: Links, root: Path) -> Nic:
    interface = root / "sys/class/net" / name
    device = (interface / "device").resolve()
    permanent = links.permanent.get(name, "")
    return Nic(
        mac=text_of(interface / "address").lower() if permanent in NO_MAC else permanent,
        name=name,
        address=pci_address(device),
        driver=driver_of(device),
        link={"1": "up", "0": "down"}.get(text_of(interface / "carrier"), "unknown"),
        speed_mbps=max(0, number_of(interface / "speed")),
        addresses=links.addresses.get(name, ()),
        device_key=inventory.keys.get(device, ""),
        chain=chain_of(device, root),
    )


# --- names, as another system than the running one gives them -------------------------------------------------------


def named_by_system(nics: tuple[Nic, ...], configs: tuple[NetworkConfig, ...], cmdline: str) -> tuple[Nic, ...]:
    """Cards under the names that the system on the disk has for them, with the addresses that it gives them.

    The running system (the PE) may call them otherwise, and its leases are nothing of the other's.
    """
    udev = UdevDatabase.open()
    configured = {name for config in configs for name in config.interfaces}
    by_mac = {mac: config.interfaces[0] for config in configs for mac in config.macs if len(config.interfaces) == 1}
    found = []
    for nic in nics:
        known = udev.properties(Path("/sys/class/net") / nic.name)
        name = system_name(nic, known, configured, by_mac, "net.ifnames=0" in cmdline.split())
        static = [one for config in configs if config.interfaces == (name,) for one in config.addresses]
        static += [one.cidr for config in configs for one in config.assigned if one.interface == name]
        found.append(replace(nic, name=name, addresses=tuple(Address(one) for one in dict.fromkeys(static))))
    return tuple(found)


def system_name(
    nic: Nic, known: Mapping[str, str], configured: set[str], by_mac: Mapping[str, str], kernel_names: bool
) -> str:
    """By MAC where a file says so; else what udev would choose, preferring a name that is configured."""
    if nic.mac in by_mac:
        return by_mac[nic.mac]
    policy = ("ID_NET_NAME_FROM_DATABASE", "ID_NET_NAME_ONBOARD", "ID_NET_NAME_SLOT", "ID_NET_NAME_PATH")
    names = [known[key] for key in (*policy, "ID_NET_NAME_MAC") if known.get(key)]
    if kernel_names or not names:
        return nic.name
    return next((name for name in (*names, nic.name) if name in configured), names[0])
