"""Keys of LUKS devices as values: what a job or a medium says, and which device each is for. Pure.

They are told apart by the header's UUID; a key without one is for every device that no other key names. No key is
ever part of a plan, an event or a report, and a value of this module does not show it when it is printed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from agent.errors import UsageError

LIMIT_BYTES = 8 << 20  # cryptsetup's own, of key files
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_FOR_ONE = re.compile(rf"({UUID.pattern})=(.+)", re.DOTALL)


class LuksKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A passphrase as text, or a key as bytes (base64 in JSON); exactly one of them."""

    uuid: str = ""
    passphrase: str = ""
    key: bytes = b""

    def __repr__(self) -> str:
        return f"LuksKey(uuid={self.uuid!r}, …)"

    @property
    def secret(self) -> bytes:
        return self.key or self.passphrase.encode("utf-8", "surrogateescape")


def by_uuid(keys: Sequence[LuksKey]) -> Mapping[str, bytes]:
    """UUID, or "" for every other device → key. Raises UsageError, whose words never hold a key."""
    found: dict[str, bytes] = {}
    for each in keys:
        what = f"the key for LUKS {each.uuid}" if each.uuid else "the key for every LUKS device"
        if each.uuid and not UUID.fullmatch(each.uuid):
            raise UsageError("a key names a LUKS device that is no UUID; expected such as " + "-".join(_EXAMPLE))
        if bool(each.passphrase) == bool(each.key):
            raise UsageError(f"{what} has {'both' if each.key else 'neither'}, expected one of passphrase and key")
        if len(each.secret) > LIMIT_BYTES:
            raise UsageError(f"{what} has {len(each.secret):,} bytes, expected at most {LIMIT_BYTES:,}")
        if each.uuid in found:
            raise UsageError("two keys are given for the same encrypted device", "give every UUID once")
        found[each.uuid] = each.secret
    return found


def fitting(keys: Mapping[str, bytes], uuid: str) -> bytes | None:
    """The key for a device: its own, else the one for all."""
    return keys.get(uuid, keys.get(""))


def file_word(word: str) -> tuple[str, str]:
    """``UUID=FILE`` or ``FILE`` → (UUID or "", file)."""
    found = _FOR_ONE.fullmatch(word)
    return (found[1], found[2]) if found else ("", word)


_EXAMPLE = ("0c1f6a52", "52d5", "44c1", "8d5e", "4d4a6cb0a2a1")
