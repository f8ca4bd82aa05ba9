"""Where network backends keep their files."""

from __future__ import annotations

UDEV_RULES = "/etc/udev/rules.d"
# Folder, endings (one with a star is a beginning; "" stands for a name without a dot), backend.
FOLDERS = (
    ("/etc/netplan", (".yaml", ".yml"), "netplan"),
    ("/lib/netplan", (".yaml",), "netplan"),
    ("/usr/lib/netplan", (".yaml",), "netplan"),
    ("/run/netplan", (".yaml",), "netplan"),
    ("/etc/systemd/network", (".network", ".link", ".netdev"), "networkd"),
    ("/usr/local/lib/systemd/network", (".network", ".link", ".netdev"), "networkd"),
    ("/etc/NetworkManager/system-connections", (".nmconnection", ""), "nm"),
    ("/usr/lib/NetworkManager/system-connections", (".nmconnection",), "nm"),
    ("/etc/NetworkManager/conf.d", (".conf",), "nm"),
    ("/etc/NetworkManager", ("NetworkManager.conf",), "nm"),
    ("/etc/sysconfig/network-scripts", ("ifcfg-*",), "ifcfg"),
    ("/etc/sysconfig/network", ("ifcfg-*",), "ifcfg"),
    ("/etc/wicked/ifconfig", (".xml",), "wicked"),
    (UDEV_RULES, (".rules",), "udev"),
)
_LEFTOVERS = (".bak", "~", ".rpmsave", ".rpmnew", ".orig", ".old", ".dpkg-old", ".dpkg-dist", ".swp")


def backend_of(path: str) -> str:
    """Of a file that configures interfaces; ifupdown's may lie anywhere that its main file names."""
    for folder, _, backend in FOLDERS:
        if path.startswith(f"{folder}/"):
            return backend
    return "ifupdown"


def named_as(name: str, endings: tuple[str, ...]) -> bool:
    """Whether a file of that name is read by the backend of these endings."""
    for ending in endings:
        if ending.endswith("*"):
            if name.startswith(ending[:-1]) and not name.endswith(_LEFTOVERS):
                return name != "ifcfg-lo"
        elif name.endswith(ending) if ending else "." not in name:
            return True
    return False
