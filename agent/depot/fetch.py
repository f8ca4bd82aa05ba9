"""Files whose name is their SHA-256, from any depot onto the local disk: believed only when the name fits."""

from __future__ import annotations

import hashlib
from pathlib import Path

from agent.depot.store import Depot
from agent.errors import DamagedError

BLOCK_BYTES = 8 << 20


def fetch_verified(depot: Depot, path: str, size_bytes: int, sha256: str, to: Path) -> None:
    """Copy a pack or a listing into the new file ``to``. Raises DamagedError, and leaves no file, when its bytes are
    not those that its name promises, or when it is absent."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(min(BLOCK_BYTES, max(1, size_bytes))))
    try:
        with to.open("xb") as file:
            for offset in range(0, size_bytes, BLOCK_BYTES):
                view = buffer[: min(BLOCK_BYTES, size_bytes - offset)]
                depot.read_into(path, offset, view)
                digest.update(view)
                file.write(view)
        if digest.hexdigest() != sha256:
            raise DamagedError(
                f"{path} of depot {depot.location} has SHA-256 {digest.hexdigest()}, expected what its name says",
                "heal that depot with ‘regraft check --heal-from’",
            )
    except FileNotFoundError:
        to.unlink(missing_ok=True)
        raise DamagedError(f"{path} is absent from depot {depot.location}", "copy it from a second depot") from None
    except BaseException:
        to.unlink(missing_ok=True)
        raise


def is_whole_length(depot: Depot, path: str, size_bytes: int) -> bool:
    """Whether the file is there and has exactly so many bytes; two small reads."""
    probe = memoryview(bytearray(1))
    try:
        if size_bytes:
            depot.read_into(path, size_bytes - 1, probe)
        elif not depot.exists(path):
            return False
    except (FileNotFoundError, DamagedError):
        return False
    try:
        depot.read_into(path, size_bytes, probe)
    except DamagedError:
        return True
    return False
