"""Detached Ed25519 signatures, and whose signatures count.

A signature lies beside its file as ``<file>.sig``. What is signed is the pre-authentication encoding of the
document's type and its bytes (DSSE 1.0, "protocol"), so that a signed profile never passes as a manifest.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from agent.depot.store import Depot, read_info
from agent.errors import DamagedError, NotTrustedError, UsageError
from agent.model.undecodable import UNDECODABLE

PREFIX = "ed25519:"
KEY_BYTES = 32
SIGNATURE_LIMIT_BYTES = 4096

MANIFEST = "application/vnd.regraft.manifest+json"
PROFILE = "application/vnd.regraft.profile+xml"
COMPONENT = "application/vnd.regraft.component+xml"
RECIPES = "application/vnd.regraft.recipes+json"


class SignatureFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``<file>.sig``."""

    format: int
    type: str
    key: str  # public key, ed25519:BASE64
    signature: str  # base64


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """Public keys whose signatures count. ``origin`` says where they come from, for messages."""

    keys: frozenset[str]
    origin: str = ""


@dataclass(frozen=True, slots=True)
class SigningKey:
    private: Ed25519PrivateKey

    @property
    def public(self) -> str:
        """ed25519:BASE64."""
        raw = self.private.public_key().public_bytes_raw()
        return PREFIX + base64.b64encode(raw).decode()

    def sign(self, type_: str, data: bytes) -> bytes:
        """The content of ``<file>.sig``."""
        signature = base64.b64encode(self.private.sign(encoding(type_, data))).decode()
        return msgspec.json.encode(SignatureFile(format=1, type=type_, key=self.public, signature=signature)) + b"\n"


def encoding(type_: str, data: bytes) -> bytes:
    """The bytes that are signed."""
    name = type_.encode()
    return b"DSSEv1 %d %s %d %s" % (len(name), name, len(data), data)


def verify(trust: TrustedKeys, type_: str, path: str, data: bytes, signature: bytes) -> None:
    """Raise NotTrustedError naming the file and the key unless a trusted key signed exactly these bytes."""
    try:
        found = msgspec.json.decode(signature, type=SignatureFile)
        raw = base64.b64decode(found.signature, validate=True)
        if base64.b64encode(raw).decode() != found.signature:
            raise binascii.Error("base64 with stray bits")
    except (*UNDECODABLE, binascii.Error) as error:
        raise NotTrustedError(f"{path}.sig is not a signature: {error}", "fetch it again, or publish again") from None
    if found.key not in trust.keys:
        known = ", ".join(sorted(trust.keys)) or "none"
        raise NotTrustedError(
            f"{path} is signed by {found.key}, trusted keys are: {known}",
            "if the depot’s key really changed, give the new one with --trust",
        )
    try:
        public_key(found.key).verify(raw, encoding(type_, data))
    except InvalidSignature:
        raise NotTrustedError(
            f"{path}: its signature by {found.key} does not fit its content",
            "it was changed or is damaged: copy it and its .sig from a second depot, or use an older image",
        ) from None
    if (found.format, found.type) != (1, type_):
        raise NotTrustedError(f"{path}.sig says format {found.format} type {found.type}, expected 1 {type_}")


def read_signed(depot: Depot, trust: TrustedKeys, type_: str, path: str, limit_bytes: int) -> bytes:
    """A file of the depot whose signature is good. Raises FileNotFoundError when the file itself is absent."""
    data = depot.read(path, limit_bytes)
    try:
        signature = depot.read(path + ".sig", SIGNATURE_LIMIT_BYTES)
    except FileNotFoundError:
        raise NotTrustedError(f"{path} has no signature: {path}.sig is absent", "publish it again") from None
    verify(trust, type_, path, data, signature)
    return data


def public_key(text: str) -> Ed25519PublicKey:
    """The key that ``ed25519:BASE64`` says, or UsageError."""
    try:
        raw = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if not text.startswith(PREFIX) or len(raw) != KEY_BYTES:
        raise UsageError(f"‘{text}’ is not a public key; expected ed25519: and {KEY_BYTES} bytes in base64")
    return Ed25519PublicKey.from_public_bytes(raw)


def regraft_home() -> Path:
    """Where this user's keys and pins are: $REGRAFT_HOME, by default ~/.config/regraft."""
    told = os.environ.get("REGRAFT_HOME")
    return Path(told) if told else Path(os.environ.get("HOME", "/root")) / ".config/regraft"


def trusted_keys(depot: Depot, explicit: Iterable[str] = ()) -> TrustedKeys:
    """Whose signatures count for this depot: the keys given; else $REGRAFT_TRUST; else the pinned one.

    A depot in a local directory is pinned at first use. A depot behind a URL is never: NotTrustedError.
    """
    given = [key for word in explicit for key in word.replace(",", " ").split()]
    if not given:
        given = os.environ.get("REGRAFT_TRUST", "").replace(",", " ").split()
    for key in given:
        public_key(key)
    if given:
        return TrustedKeys(frozenset(given), "given")
    info = read_info(depot)
    pin = regraft_home() / "depots" / info.id / "trusted"
    if pin.is_file():
        keys = frozenset(pin.read_text().split())
        return TrustedKeys(keys, str(pin))
    if "://" in depot.location:
        raise NotTrustedError(
            f"no key is known for depot {info.id} at {depot.location}",
            "give its public key with --trust ed25519:…; ‘regraft depot init’ and ‘regraft serve’ print it",
        )
    if not info.public_key:
        raise NotTrustedError(f"depot {depot.location} names no public key in depot.json", "give its key with --trust")
    public_key(info.public_key)
    pin_key(info.id, info.public_key)
    return TrustedKeys(frozenset({info.public_key}), str(pin))


def pin_key(depot_id: str, key: str) -> None:
    """Remember the key of a depot."""
    pin = regraft_home() / "depots" / depot_id / "trusted"
    pin.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pin.write_text(key + "\n")


def make_key(depot_id: str) -> SigningKey:
    """A new signing key for a depot, kept outside of it."""
    key = SigningKey(Ed25519PrivateKey.generate())
    path = regraft_home() / "depots" / depot_id / "signing.key"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        raw = key.private.private_bytes_raw()
        file.write(base64.b64encode(raw) + b"\n")
    return key


def load_key(depot_id: str) -> SigningKey:
    """The signing key of a depot on this machine, or NotTrustedError."""
    path = regraft_home() / "depots" / depot_id / "signing.key"
    try:
        raw = base64.b64decode(path.read_bytes(), validate=False)
    except FileNotFoundError:
        raise NotTrustedError(
            f"this machine has no signing key for depot {depot_id}: {path} is absent",
            "publish where the depot was made, or through its server",
        ) from None
    if len(raw) != KEY_BYTES:
        raise DamagedError(f"{path} holds {len(raw)} bytes, expected {KEY_BYTES}", "restore the key from its copy")
    return SigningKey(Ed25519PrivateKey.from_private_bytes(raw))
