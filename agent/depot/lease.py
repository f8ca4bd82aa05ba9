"""Leases: a capture or a copy says that it runs, so that prune deletes nothing that it may rely on.

    leases/<id>.json    who, since when, until when; renewed while the work goes on, removed at its end

A lease expires by itself: a machine that loses its power blocks nothing for longer than LEASE_S.
"""

from __future__ import annotations

import re
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec

from agent.depot.store import WritableDepot
from agent.errors import RegraftError, TemporaryError, UnreachableError, UsageError
from agent.model.image import TIME_IN_NAMES
from agent.model.undecodable import UNDECODABLE

FORMAT = 1
FOLDER = "leases"
LEASE_S = 3600
RENEW_S = 60.0
ID = re.compile(r"[0-9a-f]{32}")
PURPOSE_CHARS = 200


class LeaseFile(msgspec.Struct, frozen=True, kw_only=True):
    """leases/<id>.json; times are 20261123T204140Z."""

    format: int
    purpose: str  # for people: what runs, and where
    begun: str
    expires: str


@dataclass(slots=True)
class Lease:
    """A lease that is held; call `renew` often, it goes to the depot once a minute."""

    depot: WritableDepot
    id: str
    purpose: str
    _renewed: float = 0.0

    def renew(self) -> None:
        now = time.monotonic()
        if now - self._renewed < RENEW_S:
            return
        self._renewed = now
        # A network that pauses is no reason to give the work up: the lease has an hour.
        with suppress(UnreachableError, TemporaryError):
            self.depot.hold(self.id, self.purpose)


@contextmanager
def leased(depot: WritableDepot, what: str) -> Iterator[Lease]:
    """Hold a lease for the length of the block. Raises what `hold` raises: no key, no right to write."""
    lease = Lease(depot, secrets.token_hex(16), f"{what} on {socket.gethostname()}", time.monotonic())
    depot.hold(lease.id, lease.purpose)
    try:
        yield lease
    finally:
        with suppress(RegraftError, OSError):  # it expires; and what ended the block must not be hidden
            depot.release(lease.id)


def lease_path(lease: str) -> str:
    """Where a lease lies, or UsageError."""
    if not ID.fullmatch(lease):
        raise UsageError(f"‘{lease}’ is not the id of a lease; expected 32 hexadecimal digits")
    return f"{FOLDER}/{lease}.json"


def renewed(old: bytes | None, purpose: str, now: datetime) -> bytes:
    """The lease's file from now on; it goes on from ``old`` when that had not expired."""
    begun = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    found = decode(old) if old is not None else None
    if found is not None and found.expires >= begun:
        begun = min(found.begun, begun)
    expires = (now.astimezone(UTC) + timedelta(seconds=LEASE_S)).strftime("%Y%m%dT%H%M%SZ")
    lease = LeaseFile(format=FORMAT, purpose=purpose[:PURPOSE_CHARS], begun=begun, expires=expires)
    return msgspec.json.encode(lease) + b"\n"


def decode(data: bytes) -> LeaseFile | None:
    """A lease; None for what is none."""
    try:
        found = msgspec.json.decode(data, type=LeaseFile)
    except UNDECODABLE:
        return None
    good = found.format == FORMAT and TIME_IN_NAMES.fullmatch(found.begun) and TIME_IN_NAMES.fullmatch(found.expires)
    return found if good else None
