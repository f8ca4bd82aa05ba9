"""LUKS devices, made anew with UUID, label, cipher and key size that they had, and a key that the caller gives.

The key goes to cryptsetup through a pipe: it is on no command line, in no file and in no plan.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

from agent.errors import RefusedError, TargetIOError
from agent.model.plan import PlannedLuks
from agent.probe.stack import luks_of, read_header
from agent.probe.stack_open import open_luks
from agent.process import run
from agent.restore.filesystems import forget_signatures, signature

# A key derivation is measured for two seconds, on one core of a slow machine for longer.
TIMEOUT_S = 600.0
SECTOR = 512
_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9+_.@:=-]{1,127}")
_UUID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}")
_CIPHER = re.compile(r"[a-z0-9_:()-]{1,64}", re.IGNORECASE)


def make_luks(node: Path, planned: PlannedLuks, key: bytes, closing: ExitStack) -> Path:
    """Make the device on ``node`` and open it; the node of what it holds."""
    refuse_bad_words(planned)
    if not key:
        raise RefusedError(f"LUKS {planned.uuid} cannot be made with an empty key", "give its passphrase or key file")
    forget_signatures(node)
    run(format_words(node, planned), stdin=key, timeout_s=TIMEOUT_S)
    wrong = differences(node, planned)
    if wrong:
        raise TargetIOError(
            f"LUKS on {node} reads back otherwise than it was made: {'; '.join(wrong)}",
            "the disk may be failing; read the kernel log",
        )
    return open_made(node, planned, key, closing)


def open_made(node: Path, planned: PlannedLuks, key: bytes, closing: ExitStack) -> Path:
    open_luks(node.name, planned.name, key, closing, "--allow-discards")
    return (Path("/dev/mapper") / planned.name).resolve(strict=True)


def format_words(node: Path, planned: PlannedLuks) -> list[str]:
    """The words for cryptsetup. Cost of the key derivation is left to its own measure of this machine."""
    words = ["cryptsetup", "luksFormat", "--batch-mode", "--type", f"luks{planned.version}", "--uuid", planned.uuid]
    words += ["--cipher", planned.cipher] if planned.cipher else []
    words += ["--key-size", str(planned.key_bytes * 8)] if planned.key_bytes else []
    words += ["--offset", str(planned.offset_bytes // SECTOR)] if planned.offset_bytes else []
    if planned.version == 2:
        words += ["--sector-size", str(planned.sector_bytes)]
        words += ["--label", planned.label] if planned.label else []
        words += ["--pbkdf", planned.kdf] if planned.kdf else []
    return [*words, "--key-file", "-", str(node)]


def matches(node: Path, planned: PlannedLuks) -> bool:
    """Whether the device is there already, from a run that was cut."""
    return signature(node).get("TYPE") == "crypto_LUKS" and not differences(node, planned)


def differences(node: Path, planned: PlannedLuks) -> list[str]:
    found = luks_of(*read_header(node.name), "", planned.name, (None, 0))
    pairs = (
        ("version", found.version, planned.version),
        ("UUID", found.uuid, planned.uuid),
        ("label", found.label, planned.label),
        ("cipher", found.cipher, planned.cipher or found.cipher),
        ("key size", found.key_bytes, planned.key_bytes or found.key_bytes),
        ("data offset", found.offset_bytes, planned.offset_bytes or found.offset_bytes),
    )
    return [f"{name} is {seen}, expected {wanted}" for name, seen, wanted in pairs if seen != wanted]


def refuse_bad_words(planned: PlannedLuks) -> None:
    """They come from an image and become words of a command line."""
    bad = [
        text
        for text, pattern in ((planned.name, _NAME), (planned.uuid, _UUID), (planned.cipher or "aes", _CIPHER))
        if not pattern.fullmatch(text) or text.startswith("-")
    ]
    if bad or planned.version not in (1, 2) or planned.kdf not in ("", "pbkdf2", "argon2i", "argon2id"):
        raise RefusedError(
            f"LUKS {planned.uuid or '-'}: ‘{bad[0] if bad else planned.kdf}’ is not what cryptsetup knows",
            "the image's stack is not usable",
        )
