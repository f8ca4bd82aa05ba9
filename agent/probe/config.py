"""Configuration that is bound to hardware: a fixed list of files, and everything in them that names a device.

What is found here is what may point to nothing on another machine. Reads any tree; keeps digests, never contents.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

from agent.model.profile import ConfigFile, IdentityItem, Mention
from agent.model.tree import Tree, read_text

LIMIT_BYTES = 1 << 20
# The last part may be a pattern.
PATHS = (
    "/etc/fstab", "/etc/crypttab", "/etc/mdadm/mdadm.conf", "/etc/mdadm.conf", "/etc/lvm/lvm.conf",
    "/etc/lvm/devices/system.devices", "/etc/multipath.conf", "/etc/multipath/*",
    "/etc/default/grub", "/etc/default/grub.d/*.cfg", "/etc/kernel/cmdline", "/etc/kernel/install.conf",
    "/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/boot/grub/device.map", "/boot/grub2/device.map",
    "/boot/loader/entries/*.conf", "/etc/zipl.conf",
    "/etc/initramfs-tools/initramfs.conf", "/etc/initramfs-tools/modules", "/etc/initramfs-tools/conf.d/*",
    "/etc/dracut.conf", "/etc/dracut.conf.d/*.conf", "/etc/mkinitcpio.conf",
    "/etc/modules", "/etc/modules-load.d/*.conf", "/etc/modprobe.d/*.conf",
    "/etc/network/interfaces", "/etc/network/interfaces.d/*", "/etc/netplan/*.yaml",
    "/etc/systemd/network/*", "/etc/NetworkManager/system-connections/*", "/etc/NetworkManager/NetworkManager.conf",
    "/etc/sysconfig/network-scripts/ifcfg-*", "/etc/sysconfig/network/ifcfg-*", "/etc/wicked/ifconfig/*.xml",
    "/etc/udev/rules.d/*.rules", "/etc/hostapd/*.conf", "/etc/dhcp/dhcpd.conf", "/etc/default/isc-dhcp-server",
    "/etc/keepalived/keepalived.conf", "/etc/wireguard/*.conf", "/etc/dnsmasq.conf", "/etc/dnsmasq.d/*",
    "/etc/radvd.conf", "/etc/default/ufw", "/etc/ufw/*.rules", "/etc/shorewall/*", "/etc/sysconfig/iptables",
    "/etc/firewalld/*.xml", "/etc/frr/*.conf", "/etc/samba/smb.conf", "/etc/corosync/corosync.conf",
    "/etc/nftables.conf", "/etc/iptables/*", "/etc/firewalld/zones/*.xml",
    "/etc/sysctl.conf", "/etc/sysctl.d/*.conf", "/etc/smartd.conf", "/etc/hdparm.conf",
    "/etc/X11/xorg.conf", "/etc/X11/xorg.conf.d/*.conf", "/etc/systemd/system/*.mount", "/etc/systemd/system/*.swap",
    "/etc/iscsi/initiatorname.iscsi", "/etc/fancontrol", "/etc/sensors.d/*", "/etc/conserver.cf", "/etc/gpsd.conf",
)  # fmt: skip
MODULE_LISTS = ("/etc/modules", "/etc/modules-load.d/", "/etc/initramfs-tools/modules")

_UUID = r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
# In this order: what one pattern has taken, the next ones no longer see.
PATTERNS = (
    ("partuuid", re.compile(rf"(?:PARTUUID=|by-partuuid/)[\"']?({_UUID}|[0-9a-fA-F]{{8}}-[0-9a-fA-F]{{2}})\b")),
    ("uuid", re.compile(rf"(?:\bUUID=[\"']?|by-uuid/)({_UUID}|[0-9A-Fa-f]{{4}}-[0-9A-Fa-f]{{4}}|[0-9A-F]{{16}})\b")),
    ("uuid", re.compile(rf"\b({_UUID})\b")),
    ("label", re.compile(r"(?:\b(?:PART)?LABEL=[\"']?|by-(?:part)?label/)([^\s\"',]+)")),
    ("disk-id", re.compile(r"(/dev/disk/by-(?:id|path)/[^\s\"',;)]+)")),
    ("device-path", re.compile(
        r"(/dev/(?:[shvx]v?d[a-z]+\d*|nvme\d+n\d+(?:p\d+)?|mmcblk\d+(?:p\d+)?|md/?\w+|mapper/[\w.+-]+|"
        r"dri/\w+|ttyS\d+|ttyUSB\d+|input/[\w-]+))\b")),
    ("mac", re.compile(r"(?<![0-9A-Fa-f:])((?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2})(?![0-9A-Fa-f:])")),
    ("pci", re.compile(r"\b([0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7])\b")),
    ("pci", re.compile(r"\bPCI:(\d+:\d+:\d+)\b")),
    ("interface", re.compile(
        r"(?<![\w./-])(eth\d+|en(?:o\d+|s\d+\w*|p\d+s\d+\w*|x[0-9a-f]{12})|wl(?:an\d+|o\d+|s\d+\w*|p\d+s\d+\w*)|"
        r"ib\d+|ibp\d+s\d+\w*)(?![\w/-])")),
)  # fmt: skip
_MODPROBE = re.compile(r"^\s*(?:options|blacklist|install|remove|alias\s+\S+|softdep)\s+([\w-]+)")
_SERIAL_CONSOLE = re.compile(r"\bconsole=(tty\w+)")


def read_config_files(tree: Tree, interfaces: frozenset[str] = frozenset()) -> tuple[ConfigFile, ...]:
    """Files of the list that exist, with what they mention. ``interfaces``: names beyond the usual ones."""
    found: list[ConfigFile] = []
    for path in sorted(set(_existing(tree))):
        try:
            content = tree.read_bytes(path)
        except OSError:
            continue
        digest = hashlib.sha256(content).hexdigest()
        text = content[:LIMIT_BYTES].decode("utf-8", "surrogateescape")
        found.append(ConfigFile(path, digest, tuple(mentions(path, text, interfaces))))
    return tuple(found)


def _existing(tree: Tree) -> Iterator[str]:
    for path in PATHS:
        folder, _, name = path.rpartition("/")
        if "*" not in name:
            if tree.is_file(path):
                yield path
            continue
        for each in tree.list_dir(folder):
            if fnmatchcase(each, name) and tree.is_file(f"{folder}/{each}"):
                yield f"{folder}/{each}"


def mentions(path: str, text: str, interfaces: frozenset[str] = frozenset()) -> Iterator[Mention]:
    """What a file says about hardware, line by line; comments say nothing."""
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if not bare or bare.startswith(("#", ";")):
            continue
        yield from _line_mentions(path, bare, number, interfaces)


def _line_mentions(path: str, line: str, number: int, interfaces: frozenset[str]) -> Iterator[Mention]:
    if path.startswith(MODULE_LISTS):
        yield Mention("module", line.split(maxsplit=1)[0], number)
        return
    module = _MODPROBE.match(line) if path.startswith("/etc/modprobe.d/") else None
    if module:
        yield Mention("module", module[1], number)
    for console in _SERIAL_CONSOLE.findall(line):
        yield Mention("device-path", f"/dev/{console}", number)
    rest = line
    for kind, pattern in PATTERNS:
        for text in dict.fromkeys(pattern.findall(rest)):
            yield Mention(kind, text.lower() if kind == "mac" else text, number)
        rest = pattern.sub(" ", rest)
    for name in sorted(interfaces):
        if re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w/-])", rest):
            yield Mention("interface", name, number)


def read_identity(tree: Tree) -> tuple[IdentityItem, ...]:
    """What makes this system this one; as digests, because some of it is a secret."""
    paths = ["/etc/machine-id", "/var/lib/dbus/machine-id", "/etc/hostid", "/etc/iscsi/initiatorname.iscsi"]
    found = [IdentityItem(path.rpartition("/")[2] if path == paths[0] else path, digest)
             for path in paths if (digest := _digest(tree, path))]  # fmt: skip
    for name in tree.list_dir("/etc/ssh"):
        if name.startswith("ssh_host_") and name.endswith("_key.pub"):
            path = f"/etc/ssh/{name}"
            found.append(IdentityItem(f"ssh-host-key:{path}", _digest(tree, path)))
    return tuple(found)


def _digest(tree: Tree, path: str) -> str:
    try:
        return "sha256:" + hashlib.sha256(tree.read_bytes(path).strip()).hexdigest()
    except OSError:
        return ""


def read_hostname(tree: Tree) -> str:
    lines = [line.strip() for line in read_text(tree, "/etc/hostname").splitlines()]
    return next((line for line in lines if line and not line.startswith("#")), "")
