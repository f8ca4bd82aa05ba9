"""LUKS devices, made anew with UUID, label, cipher and key size that they had, and a key that the caller gives.

The key goes to cryptsetup through a pipe or memory: it is on no command line, in no file and in no plan. Key files with
which the restored system opens a device at its boot become further keys of that device.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from agent.errors import PatchError, RefusedError, TargetIOError
from agent.model.luks_keys import LIMIT_BYTES
from agent.model.plan import EnrolKey, PlannedLuks
from agent.model.report import CheckResult
from agent.probe.stack import luks_of, read_header
from agent.probe.stack_open import open_luks
from agent.process import run
from agent.restore.filesystems import forget_signatures, signature
from agent.restore.inside import InsideRoot

# A key derivation is measured for two seconds, on one core of a slow machine for longer.
TIMEOUT_S = 600.0
NO_KEY = (1, 2)  # cryptsetup(8), "RETURN CODES": an empty slot was named; the key does not fit
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


def enrol_key(node: Path, step: EnrolKey, key: bytes, inside: InsideRoot) -> CheckResult:
    """Have a key file of the restored system open the device beside ``key``, and see that it does."""
    with _key_file(inside, step) as descriptor:
        if not _opens(node, step, descriptor):
            if step.slot >= 0 and _is_used(node, step.slot):
                _leave_slot(node, step, key)
            words = ["--key-file", "-", *_part(step, "new-keyfile")]
            words += ["--key-slot", str(step.slot)] if step.slot >= 0 else []
            _add_key(node, step, words, f"/proc/self/fd/{descriptor}", key, descriptor)
            if not _opens(node, step, descriptor):
                raise TargetIOError(
                    f"{step.path} was added to the keys of LUKS {step.uuid}, and does not open it",
                    "the disk may be failing; read the kernel log",
                )
    return CheckResult(name="crypttab", ok=True, detail=f"{step.path} opens {step.name}")


def _add_key(node: Path, step: EnrolKey, words: Sequence[str], new: str, stdin: bytes, *descriptors: int) -> None:
    kdf = ["--pbkdf", step.kdf] if step.kdf else []
    run(["cryptsetup", "luksAddKey", "--batch-mode", *words, *kdf, str(node), new], stdin=stdin, timeout_s=TIMEOUT_S,
        descriptors=descriptors)  # fmt: skip


def _is_used(node: Path, slot: int) -> bool:
    """As both versions of the header are printed."""
    said = run(["cryptsetup", "luksDump", str(node)], timeout_s=60).stdout
    return re.search(rf"^(?:Key Slot {slot}: ENABLED|  {slot}: luks2)", said, re.MULTILINE) is not None


def _leave_slot(node: Path, step: EnrolKey, key: bytes) -> None:
    """Free the only slot that the boot will try. It may be the given key's, which then opens by another one."""
    with os.fdopen(os.memfd_create("key"), "wb", buffering=0) as copy:
        copy.write(key)
        _add_key(node, step, ("--key-file", "-"), f"/proc/self/fd/{copy.fileno()}", key, copy.fileno())
    run(["cryptsetup", "luksKillSlot", "--batch-mode", "--key-file", "-", str(node), str(step.slot)], stdin=key,
        timeout_s=TIMEOUT_S)  # fmt: skip


def _opens(node: Path, step: EnrolKey, descriptor: int) -> bool:
    words = ["cryptsetup", "open", "--test-passphrase", "--type", "luks", *_part(step, "keyfile")]
    words += ["--key-slot", str(step.slot)] if step.slot >= 0 else []
    done = run([*words, "--key-file", f"/proc/self/fd/{descriptor}", str(node)], timeout_s=TIMEOUT_S,
               accept=(0, *NO_KEY), descriptors=(descriptor,))  # fmt: skip
    return done.status == 0


def _part(step: EnrolKey, name: str) -> list[str]:
    """The part of the file that is the key."""
    words = [f"--{name}-offset", str(step.offset_bytes)] if step.offset_bytes else []
    return [*words, *((f"--{name}-size", str(step.size_bytes)) if step.size_bytes else ())]


@contextmanager
def _key_file(inside: InsideRoot, step: EnrolKey) -> Iterator[int]:
    """A descriptor of the file; no link of the image leads out of its own root."""
    try:
        descriptor = inside.open(step.path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise PatchError(
            f"key file {step.path} of {step.name}: {error.strerror}", "capture the image again, or drop the key"
        ) from None
    try:
        found = os.fstat(descriptor)
        size_bytes = step.size_bytes or found.st_size - step.offset_bytes
        if not stat.S_ISREG(found.st_mode) or not 0 < size_bytes <= LIMIT_BYTES:
            raise PatchError(
                f"key file {step.path} of {step.name} gives a key of {size_bytes:,} bytes, "
                f"expected 1 to {LIMIT_BYTES:,}",
                "correct /etc/crypttab in the image: ‘regraft edit’",
            )
        yield descriptor
    finally:
        os.close(descriptor)


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
