"""Who may do what. Nothing is allowed that is not named here.

A token is 256 random bits; the server keeps its SHA-256 only. `Guard` stands before the whole application: without
a good token nothing is reached but OPEN. Then every route names what it needs, and a route that names nothing is
closed to everybody. Writes and denials are recorded in audit.jsonl.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import msgspec
from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent.console.recorder import now
from agent.errors import DamagedError, NoImageError, NotAllowedError, UsageError
from agent.model.undecodable import UNDECODABLE
from agent.server.problems import NotAuthenticatedError, of_error

SHORTEST_GIVEN_TOKEN = 16
READING = ("GET", "HEAD")
OPEN = frozenset({"/healthz", "/api/v1/version", "/depot.json"})  # for GET and HEAD


class Need(StrEnum):
    """What a route needs."""

    OPEN = "open"
    FILES = "files"  # files of the depot
    READ = "read"  # jobs, targets, reports, pages
    AGENT = "agent"  # tell what a target is, take a job, tell of it
    WRITE = "write"  # publish, queue jobs
    ADMIN = "admin"  # tokens


class Role(StrEnum):
    """What a token is for."""

    READ = "read"
    AGENT = "agent"
    WRITE = "write"
    ADMIN = "admin"


GRANTS: Mapping[Role, frozenset[Need]] = {
    Role.READ: frozenset({Need.OPEN, Need.FILES, Need.READ}),
    Role.AGENT: frozenset({Need.OPEN, Need.FILES, Need.READ, Need.AGENT}),
    Role.WRITE: frozenset({Need.OPEN, Need.FILES, Need.READ, Need.AGENT, Need.WRITE}),
    Role.ADMIN: frozenset(Need),
}


class TokenRecord(msgspec.Struct, kw_only=True):
    id: str
    label: str
    role: Role
    sha256: str
    created: str
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks: a token, or nobody where reading is public."""

    id: str
    label: str
    grants: frozenset[Need]


NOBODY = Identity("", "nobody", frozenset({Need.OPEN}))
PUBLIC = Identity("", "public", frozenset({Need.OPEN, Need.FILES}))


class Tokens:
    """The tokens of one server, kept in ``tokens.json`` of its state directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: list[TokenRecord] = []
        self._given: list[TokenRecord] = []  # of the command line or environment: for this run, never stored
        if path.exists():
            try:
                self._records = msgspec.json.decode(path.read_bytes(), type=list[TokenRecord])
            except UNDECODABLE as error:
                raise DamagedError(f"{path} is not a list of tokens: {error}", "restore it, or remove it") from None

    def __len__(self) -> int:
        return len(self._records)

    def records(self) -> tuple[TokenRecord, ...]:
        return tuple(self._records + self._given)

    def create(self, role: Role, label: str) -> tuple[TokenRecord, str]:
        """A new token. It is returned this once and can never be told again."""
        token = f"rgt_{secrets.token_urlsafe(32)}"
        record = _record(role, label, token)
        self._records.append(record)
        self._save()
        return record, token

    def accept(self, role: Role, token: str, label: str) -> None:
        """Accept a token that a person chose, for this run."""
        if len(token) < SHORTEST_GIVEN_TOKEN:
            raise UsageError(
                f"the {role} token has {len(token)} characters, expected at least {SHORTEST_GIVEN_TOKEN}",
                "make one with ‘openssl rand -hex 32’, or give none and let the server make it",
            )
        self._given.append(_record(role, label, token))

    def disable(self, token_id: str) -> TokenRecord:
        for record in self._records:
            if record.id == token_id:
                record.enabled = False
                self._save()
                return record
        raise NoImageError(f"no stored token has the id ‘{token_id}’", "list them with GET /api/v1/tokens")

    def identify(self, token: str) -> Identity | None:
        # Looked up by digest: how long the comparison takes tells nothing about the token.
        digest = _digest(token)
        for record in self.records():
            if record.sha256 == digest and record.enabled:
                return Identity(record.id, record.label, GRANTS[record.role])
        return None

    def _save(self) -> None:
        new = self._path.with_suffix(".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(self._records), indent=1))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _record(role: Role, label: str, token: str) -> TokenRecord:
    return TokenRecord(id=secrets.token_hex(4), label=label, role=role, sha256=_digest(token), created=now())


# --- the guard ----------------------------------------------------------------------------------------------------


class Guard:
    """ASGI middleware: names who asks, or answers 401 before the application sees anything."""

    def __init__(self, app: ASGIApp, tokens: Tokens, audit: Path, public_read: bool = False) -> None:
        self._app = app
        self._tokens = tokens
        self._audit = audit
        self._public_read = public_read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no web sockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        identity = self._identify(scope)
        if identity is None:
            self._record(scope, NOBODY, 401)
            error = NotAuthenticatedError(
                f"{scope['method']} {scope['path']} needs a token", "give it by --token or REGRAFT_TOKEN"
            )
            await of_error(error)(scope, receive, send)
            return
        scope.setdefault("state", {})["identity"] = identity

        async def recording_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                status = int(message["status"])
                if status in (401, 403) or scope["method"] not in READING:
                    self._record(scope, identity, status)
            await send(message)

        await self._app(scope, receive, recording_send)

    def _identify(self, scope: Scope) -> Identity | None:
        reading = scope["method"] in READING
        token = _token_of(dict(scope["headers"]).get(b"authorization", b"").decode("latin-1"), reading)
        if token:
            known = self._tokens.identify(token)
            if known is not None:
                return known
        if reading and scope["path"] in OPEN:
            return NOBODY
        # A wrong token is told so even where reading is public: its owner believes to be somebody.
        return PUBLIC if reading and self._public_read and not token else None

    def _record(self, scope: Scope, identity: Identity, status: int) -> None:
        client = scope.get("client") or ("", 0)
        line = {"time": now(), "token": identity.id, "label": identity.label, "from": client[0],
                "method": scope["method"], "path": scope["path"][:500], "status": status}  # fmt: skip
        with self._audit.open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")


def _token_of(header: str, reading: bool) -> str:
    """The token of a Bearer header; of a Basic one only for reading, since browsers send that unasked."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic" and reading:
        try:
            return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return "?"  # something was given, and it is wrong
    return ""


def needs(need: Need) -> dict[str, str]:
    """For ``openapi_extra=`` of a route: what it needs, checked by `check_need` and shown in the API's description."""
    return {"x-needs": need.value}


def check_need(request: Request) -> None:
    """Dependency of the whole application: the identity must be granted what the route needs."""
    route = request.scope.get("route")
    need = (getattr(route, "openapi_extra", None) or {}).get("x-needs", "")
    identity: Identity = request.state.identity
    if need not in identity.grants and not identity.id:
        raise NotAuthenticatedError(
            f"{request.method} {request.url.path} needs a token", "give it by --token or REGRAFT_TOKEN"
        )
    if need not in identity.grants:
        raise NotAllowedError(
            f"{request.method} {request.url.path} needs the role ‘{need or 'none that exists'}’; "
            f"the token ‘{identity.label}’ does not have it",
            "use a token of that role",
        )
