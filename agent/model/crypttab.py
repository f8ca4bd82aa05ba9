"""/etc/crypttab: which encrypted devices a system opens at its boot, and with what. Pure.

Source of the fields and options: crypttab(5) of systemd and of Debian's cryptsetup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agent.model.edits import mount_fields
from agent.model.luks_keys import LIMIT_BYTES
from agent.model.plan import EnrolKey, MakeLuks, StackStep
from agent.model.tree import Tree, read_text

CRYPTTAB = "/etc/crypttab"
SLOTS = {1: 8, 2: 32}  # key slots of a header, by version
_ASKS = ("", "none", "-")
_OWN_KEYS = "/etc/cryptsetup-keys.d"  # NAME.key there opens NAME where the table names no key (systemd 248)
_NOT_FILES = ("/dev/", "/proc/", "/run/", "/sys/")
_ASKING_SCRIPTS = ("decrypt_keyctl", "askpass")  # that ask a person, the one once for several devices
_ELSEWHERE = re.compile(r":(?:/dev/.+|[A-Z]+=.+)$")  # FILE:DEVICE, a key on another file system


@dataclass(frozen=True, slots=True)
class CryptEntry:
    """A line: the name of the mapping, the device as it is written, the key as it is written, options."""

    name: str
    device: str
    key: str = ""
    options: tuple[str, ...] = ()

    def option(self, *names: str) -> str | None:
        """The value of the last of these options; "" where it has none, None where it is not there."""
        found = None
        for each in self.options:
            name, _, value = each.partition("=")
            found = value if name in names else found
        return found

    def number(self, *names: str) -> int:
        """The same as a number; 0 where it is none."""
        value = self.option(*names) or ""
        return int(value) if value.isascii() and value.isdecimal() else 0


def crypt_entries(text: str) -> tuple[CryptEntry, ...]:
    """Every entry of a crypttab."""
    lines = (mount_fields(line) for line in text.splitlines())
    filled = ((*fields, "", "")[:4] for fields in lines if len(fields) > 1)
    return tuple(CryptEntry(name, device, key, tuple(filter(None, options.split(","))))
                 for name, device, key, options in filled)  # fmt: skip


def is_of(entry: CryptEntry, uuid: str, name: str) -> bool:
    """Whether a line speaks of the LUKS device with this UUID; by the mapping's name where it does not say a UUID."""
    tag, equals, value = entry.device.partition("=")
    if equals and tag == "UUID":
        return value.strip("\"'").lower() == uuid.lower()
    if entry.device.startswith("/dev/disk/by-uuid/"):
        return entry.device.removeprefix("/dev/disk/by-uuid/").lower() == uuid.lower()
    return entry.name == name


def key_file(entry: CryptEntry, tree: Tree) -> str:
    """Path of the key file in the system itself; "" where the key is none, lies elsewhere, or is no key."""
    if entry.option("keyscript") is not None:
        return ""
    path = f"{_OWN_KEYS}/{entry.name}.key" if entry.key in _ASKS else entry.key
    if not path.startswith("/") or path.startswith(_NOT_FILES) or _ELSEWHERE.search(path):
        return ""
    return path if tree.is_file(path) and is_key(entry, tree.read_bytes(path)) else ""


def is_key(entry: CryptEntry, content: bytes) -> bool:
    """Whether cryptsetup can take a file for the key that a line means: the part that it names is there."""
    end = entry.number("keyfile-offset") + max(1, entry.number("keyfile-size"))
    return end <= len(content) <= LIMIT_BYTES


def lost_key(entry: CryptEntry, tree: Tree) -> str:
    """What opened the device at the boot without a person, and does not open the one that is made anew; or ""."""
    script = entry.option("keyscript")
    if script is not None:
        return "" if script.endswith(_ASKING_SCRIPTS) else f"the script {script or '-'}"
    if entry.key in _ASKS or key_file(entry, tree):
        return ""
    return f"the key {entry.key}"


def slot_of(entry: CryptEntry, version: int) -> int:
    """The only key slot that the boot tries; -1: all of them."""
    if not entry.option("keyslot", "key-slot"):
        return -1
    slot = entry.number("keyslot", "key-slot")
    return slot if slot < SLOTS[version] else -1


def enrolments(stack: Iterable[StackStep], tree: Tree) -> Iterator[EnrolKey]:
    """The key files of the image's system that open its encrypted devices, for those that are made anew."""
    entries = crypt_entries(read_text(tree, CRYPTTAB))
    for step in stack:
        if not isinstance(step, MakeLuks):
            continue
        for entry in entries:
            if is_of(entry, step.luks.uuid, step.luks.name) and (path := key_file(entry, tree)):
                yield EnrolKey(
                    on=step.on,
                    uuid=step.luks.uuid,
                    name=entry.name,
                    path=path,
                    offset_bytes=entry.number("keyfile-offset"),
                    size_bytes=entry.number("keyfile-size"),
                    slot=slot_of(entry, step.luks.version),
                    kdf=step.luks.kdf if step.luks.version == 2 else "",
                )
