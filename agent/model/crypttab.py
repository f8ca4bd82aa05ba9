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
from agent.model.wording import printable, well_formed

CRYPTTAB = "/etc/crypttab"
SLOTS = {1: 8, 2: 32}  # key slots of a header, by version
_ASKS = ("", "none", "-")
_OWN_KEYS = "/etc/cryptsetup-keys.d"  # NAME.key there opens NAME where the table names no key (systemd 248)
_NOT_FILES = ("/dev/", "/proc/", "/run/", "/sys/")
MOST_DIGITS = 15
_PRINTS_THE_FILE = ("cat", "/bin/cat", "/usr/bin/cat")
# With these the file holds what a token, a chip or a card decrypts: systemd-cryptsetup(8).
_SEALS = ("tpm2-device", "fido2-device", "pkcs11-uri")
_RANDOM = ("/dev/urandom", "/dev/random", "/dev/hw_random", "/dev/hwrng")
_WITHOUT_HEADER = ("swap", "tmp", "plain", "tcrypt")
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
        """The same as a number; -1 where it is none."""
        value = self.option(*names) or ""
        return int(value) if value.isascii() and value.isdecimal() and len(value) <= MOST_DIGITS else -1

    @property
    def offset_bytes(self) -> int:
        """Where in its file the key begins."""
        return max(0, self.number("keyfile-offset"))

    @property
    def size_bytes(self) -> int:
        """Of the key; 0: to the end of its file."""
        return max(0, self.number("keyfile-size"))

    @property
    def script(self) -> str:
        """The program that prints the key; "" where that is the file as it is."""
        script = self.option("keyscript") or ""
        return "" if script in _PRINTS_THE_FILE else script

    @property
    def overwrites(self) -> bool:
        """Whether each boot makes the device anew, whatever lies on it: a random key, swap, /tmp, or no header."""
        return self.key in _RANDOM or any(each.partition("=")[0] in _WITHOUT_HEADER for each in self.options)

    @property
    def seal(self) -> str:
        """The option by which what lies in the file is no key, but has yet to be decrypted by a device."""
        return next((each for each in self.options if each.partition("=")[0] in _SEALS), "")


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


def key_path(entry: CryptEntry, tree: Tree) -> str:
    """Path of the file in the system itself that a line means; "" where it means none, or one that lies elsewhere."""
    path = f"{_OWN_KEYS}/{entry.name}.key" if entry.key in _ASKS else entry.key
    is_here = path.startswith("/") and not path.startswith(_NOT_FILES) and not _ELSEWHERE.search(path)
    return path if is_here and tree.is_file(path) else ""


def key_file(entry: CryptEntry, tree: Tree) -> str:
    """The same where what lies there is the key; ""."""
    path = key_path(entry, tree)
    if not path or entry.script or entry.seal or not (_is_utf8(path) and _is_utf8(entry.name)):
        return ""
    return path if is_key(entry, tree.size(path)) else ""


def is_key(entry: CryptEntry, file_bytes: int) -> bool:
    """Whether cryptsetup can take the part of a file that a line means for a key."""
    size_bytes = entry.size_bytes or file_bytes - entry.offset_bytes
    return 0 < size_bytes <= LIMIT_BYTES and entry.offset_bytes + size_bytes <= file_bytes


def _is_utf8(text: str) -> bool:
    return well_formed(text) == text


def lost_key(entry: CryptEntry, tree: Tree) -> str:
    """What opened the device at the boot without a person, and does not open the one that is made anew; or ""."""
    if entry.script:
        asks = entry.script.endswith(_ASKING_SCRIPTS)
        return "" if asks else f"the script {printable(entry.script)}, which asks nobody"
    if entry.seal:
        return f"a file that {printable(entry.seal)} decrypts" if key_path(entry, tree) else ""
    if entry.key in _ASKS or key_file(entry, tree):
        return ""
    return f"the key {printable(entry.key)}, which is no file of the image that can be a key"


def lost_keys(stack: Iterable[StackStep], tree: Tree) -> Iterator[tuple[CryptEntry, str]]:
    """Lines whose device is made anew, and what opened it and does not any more."""
    made = [step.luks for step in stack if isinstance(step, MakeLuks)]
    for entry in crypt_entries(read_text(tree, CRYPTTAB)) if made else ():
        if any(is_of(entry, luks.uuid, luks.name) for luks in made) and (lost := lost_key(entry, tree)):
            yield entry, lost


def lost_sentence(entry: CryptEntry, lost: str) -> str:
    return (
        f"{printable(entry.name)} was opened by {lost}: what the restore is given opens it now; give it that key, "
        "or add it with ‘cryptsetup luksAddKey’"
    )


def slot_of(entry: CryptEntry, version: int) -> int:
    """The only key slot that the boot tries; -1: all of them."""
    slot = entry.number("keyslot", "key-slot")
    return slot if slot < SLOTS[version] else -1


def enrolments(stack: Iterable[StackStep], tree: Tree) -> tuple[EnrolKey, ...]:
    """The key files of the image's system that open its encrypted devices, for those that are made anew.

    Those that need a certain slot come first.
    """
    made = [step for step in stack if isinstance(step, MakeLuks)]
    entries = crypt_entries(read_text(tree, CRYPTTAB)) if made else ()
    found = [
        EnrolKey(
            on=step.on,
            uuid=step.luks.uuid,
            name=entry.name,
            path=path,
            offset_bytes=entry.offset_bytes,
            size_bytes=entry.size_bytes,
            slot=slot_of(entry, step.luks.version),
            kdf=step.luks.kdf if step.luks.version == 2 else "",
        )
        for step in made
        for entry in entries
        if is_of(entry, step.luks.uuid, step.luks.name) and (path := key_file(entry, tree))
    ]
    return tuple(sorted(found, key=lambda step: step.slot < 0))
