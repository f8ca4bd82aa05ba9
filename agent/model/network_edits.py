"""Edits of files that configure networks, by backend: text to text, everything that is not meant stays to the byte.

    rebind        what the file binds to – MAC address, slot, driver – is another one now
    rename        an interface has another name
    not-awaited   an interface that has no card must not keep the system from starting

A MAC address that a file *gives* to an interface (cloned-mac-address, hwaddress, MACADDR) is left alone by ``rebind``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from agent.model import netplan
from agent.model.mac_address import mac_pattern
from agent.model.network_backends import backend_of

# By backend: (section, key) globs of the values that bind a file to a card; section "" stands for any.
_BINDING_KEYS = {
    "networkd": r"(?:MACAddress|PermanentMACAddress|Path|Driver)",
    "nm": r"(?:mac-address|mac-address-blacklist|mac-address-denylist|path|driver|unmanaged-devices|match-device|"
    r"no-auto-default)",
    "ifcfg": r"HWADDR",
}
_BINDING_SECTIONS = {
    "networkd": ("Match",),
    "nm": ("ethernet", "802-3-ethernet", "wifi", "802-11-wireless", "match", "keyfile", "main", "infiniband", "device",
           "connection"),
    "ifcfg": ("",),
}  # fmt: skip
_IFUPDOWN_BINDS = re.compile(r"\s*(?:auto|allow-\S+|rename|iface|mapping|map|no-auto-down|no-scripts)\s")


def rebind(path: str, text: str, old: str, new: str) -> str:
    backend = backend_of(path)
    if backend == "netplan":
        return netplan.rebind(text, old, new)
    word = mac_pattern(old) or re.compile(rf"(?<![\w:.-]){re.escape(old)}(?![\w:.-])")
    if backend in ("ifupdown", "udev"):
        binds = _IFUPDOWN_BINDS if backend == "ifupdown" else re.compile("")
        return _by_line(text, lambda _, line: word.sub(new, line) if binds.match(line) else line)
    if backend == "wicked":
        return word.sub(new, text)
    key = re.compile(rf"\s*{_BINDING_KEYS[backend]}\s*=")

    def changed(section: str, line: str) -> str:
        base = section.partition("-")[0] if section.startswith(("device-", "connection-")) else section
        return word.sub(new, line) if base in _BINDING_SECTIONS[backend] and key.match(line) else line

    return _by_line(text, changed)


def renamed(path: str, text: str, old: str, new: str) -> str:
    """The name wherever it is a word: also in ``eth0.5`` and ``eth0:1``, and in ``net.ipv4.conf.eth0``."""
    if backend_of(path) == "netplan":
        return netplan.renamed(text, old, new)
    word = re.compile(rf"(?:(?<![\w.-])|(?<=\bconf\.)|(?<=\bneigh\.)){re.escape(old)}(?![\w-])")
    return _by_line(text, lambda _, line: word.sub(new, line))


def not_awaited(path: str, text: str, name: str) -> str:
    backend = backend_of(path)
    if backend == "netplan":
        return netplan.not_awaited(text, name)
    change = _NOT_AWAITED.get(backend)
    return change(text, name) if change else text


def _by_line(text: str, change: Callable[[str, str], str]) -> str:
    """Every line that is no comment through ``change(section, line)``."""
    section, lines = "", []
    for line in text.splitlines(keepends=True):
        bare = line.strip()
        if bare.startswith("[") and bare.endswith("]"):
            section = bare[1:-1]
        lines.append(line if bare.startswith(("#", ";")) else change(section, line))
    return "".join(lines)


# --- interfaces without a card --------------------------------------------------------------------------------------


def _ifupdown_not_awaited(text: str, name: str) -> str:
    """``allow-hotplug`` instead of ``auto``: brought up when its card comes, and no failed service before."""

    def changed(_: str, line: str) -> str:
        words = line.split()
        if words[:1] not in (["auto"], ["allow-auto"]) or name not in words[1:] or line.rstrip().endswith("\\"):
            return line
        others = [word for word in words[1:] if word != name]
        kept = f"{words[0]} {' '.join(others)}\n" if others else ""
        return f"{kept}allow-hotplug {name}\n"

    return _by_line(text, changed)


def _networkd_not_awaited(text: str, name: str) -> str:
    """``RequiredForOnline=no`` in a file that is about this interface alone."""
    matches = re.findall(r"^\s*Name\s*=\s*(.*?)\s*$", text, re.MULTILINE)
    if matches != [name] or not re.search(r"^\s*\[Network\]", text, re.MULTILINE):
        return text
    if re.search(r"^\s*RequiredForOnline\s*=.*$", text, re.MULTILINE):
        return re.sub(r"^(\s*RequiredForOnline\s*=\s*).*$", r"\1no", text, flags=re.MULTILINE)
    head = re.search(r"^\s*\[Link\][^\n]*\n", text, re.MULTILINE)
    if head:
        return f"{text[: head.end()]}RequiredForOnline=no\n{text[head.end() :]}"
    end = "" if text.endswith("\n") else "\n"
    return f"{text}{end}\n[Link]\nRequiredForOnline=no\n"


def _nm_not_awaited(text: str, name: str) -> str:
    """NetworkManager waits for an absent device only where a profile says so."""
    if not re.search(rf"^\s*interface-name\s*=\s*{re.escape(name)}\s*$", text, re.MULTILINE):
        return text
    return re.sub(r"^(\s*wait-device-timeout\s*=\s*).*$", r"\g<1>0", text, flags=re.MULTILINE)


def _ifcfg_not_awaited(text: str, name: str) -> str:
    """RHEL: not at start (``ONBOOT``). SUSE: when its card comes (``STARTMODE``)."""
    text = re.sub(r"^(\s*ONBOOT\s*=\s*)([\"']?)yes\2[ \t]*$", r"\1\2no\2", text, flags=re.MULTILINE | re.IGNORECASE)
    return re.sub(r"^(\s*STARTMODE\s*=\s*)([\"']?)(?:auto|boot|onboot|on)\2[ \t]*$", r"\1\2hotplug\2", text,
                  flags=re.MULTILINE | re.IGNORECASE)  # fmt: skip


def _wicked_not_awaited(text: str, name: str) -> str:
    def changed(found: re.Match[str]) -> str:
        if not re.search(rf"<name>\s*{re.escape(name)}\s*</name>", found[0]):
            return found[0]
        return re.sub(r"(<mode>\s*)boot(\s*</mode>)", r"\1hotplug\2", found[0])

    return re.sub(r"<interface\b.*?</interface>", changed, text, flags=re.DOTALL)


_NOT_AWAITED: Mapping[str, Callable[[str, str], str]] = {
    "ifupdown": _ifupdown_not_awaited,
    "networkd": _networkd_not_awaited,
    "nm": _nm_not_awaited,
    "ifcfg": _ifcfg_not_awaited,
    "wicked": _wicked_not_awaited,
}
