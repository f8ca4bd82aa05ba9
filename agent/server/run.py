"""``regraft serve``: make what is missing, say how to reach it, serve until stopped."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import uvicorn

from agent.depot.local import LocalDepot
from agent.depot.open_jobs import state_folder
from agent.depot.store import DEPOT_FILE
from agent.errors import UsageError
from agent.server.app import create_app
from agent.server.auth import Role, Tokens

TOKENS_FILE = "tokens.json"
BACKLOG = 128
GRACE_SECONDS = 10
KEEP_ALIVE_SECONDS = 75  # a restore writes for a while between two fetches on one connection


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What a server may be told beyond where it listens. Empty: the default."""

    write_token: str = ""
    token_file: Path | None = None  # holds the write token
    agent_token: str = ""
    public_read: bool = False
    state_dir: Path | None = None  # never inside the depot: $REGRAFT_HOME/servers/<depot id>
    database_url: str = ""
    rehearse: bool = False  # decide for every known target whenever something arrives
    tls_certificate: Path | None = None
    tls_key: Path | None = None


def serve(directory: Path, host: str, port: int, options: ServeOptions, out: TextIO | None = None) -> None:
    """Serve the depot in ``directory``, made when it does not exist, until SIGINT or SIGTERM."""
    prepared = prepare(directory, host, port, options)
    print("\n".join(prepared.lines), file=out or sys.stdout, flush=True)
    with prepared.listener, suppress(KeyboardInterrupt):  # uvicorn has ended in order, and raises the signal again
        prepared.server.run(sockets=[prepared.listener])


@dataclass(frozen=True, slots=True)
class PreparedServer:
    """A server that listens already, and what is to be said of it."""

    server: uvicorn.Server
    listener: socket.socket
    url: str
    lines: tuple[str, ...]


def prepare(directory: Path, host: str, port: int, options: ServeOptions) -> PreparedServer:
    """Everything up to the first request."""
    depot = open_or_make(directory)
    state_dir = prepare_state(depot, options)
    tokens = Tokens(state_dir / TOKENS_FILE)
    token_lines = give_tokens(tokens, options)
    app = create_app(
        depot, state_dir, tokens, public_read=options.public_read, database_url=options.database_url,
        rehearse=options.rehearse,
    )  # fmt: skip
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, lifespan="on",
        timeout_graceful_shutdown=GRACE_SECONDS, timeout_keep_alive=KEEP_ALIVE_SECONDS,
        ssl_certfile=options.tls_certificate, ssl_keyfile=options.tls_key,
    )  # fmt: skip
    listener = listen(host, port)
    address = listener.getsockname()
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    url = f"{'https' if options.tls_certificate else 'http'}://{shown}:{address[1]}"
    lines = (
        f"regraft serves {directory} at {url}",
        f"depot {depot.id}",
        f"key, for --trust of those who read: {depot.public_key}",
        f"state: {state_dir}",
        *token_lines,
        *warnings(host, options),
    )
    return PreparedServer(uvicorn.Server(config), listener, url, lines)


def open_or_make(directory: Path) -> LocalDepot:
    return LocalDepot(directory) if (directory / DEPOT_FILE).exists() else LocalDepot.init(directory)


def prepare_state(depot: LocalDepot, options: ServeOptions) -> Path:
    """The state directory, readable for its owner only."""
    place = options.state_dir or state_folder(depot.id)
    if place.resolve().is_relative_to(depot.root.resolve()):
        raise UsageError(
            f"the state directory {place} lies inside the depot {depot.root}, which is served to others",
            "choose a directory outside of it",
        )
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    return place


def give_tokens(tokens: Tokens, options: ServeOptions) -> list[str]:
    """Accept the tokens given, make those missing at the first start; lines that tell each new one, once."""
    given = options.write_token or (options.token_file.read_text().strip() if options.token_file else "")
    if given:
        tokens.accept(Role.WRITE, given, "given at start")
    if options.agent_token:
        tokens.accept(Role.AGENT, options.agent_token, "given at start")
    if len(tokens):
        return []
    wanted = [(Role.AGENT, "restores machines: give it to the PE")]
    if not given:
        wanted.insert(0, (Role.WRITE, "publishes images and queues jobs: REGRAFT_TOKEN of sources and technicians"))
    lines = ["New tokens, shown this once:"]
    for role, purpose in wanted:
        _, token = tokens.create(role, "made at the first start")
        lines.append(f"  {role} token: {token}  ({purpose})")
    return lines


def warnings(host: str, options: ServeOptions) -> list[str]:
    lines = []
    if options.public_read:
        lines.append("WARNING: everybody who reaches this address can read the images, with all secrets in them")
    if not options.tls_certificate and host not in ("127.0.0.1", "::1", "localhost"):
        lines.append("WARNING: without TLS, tokens and images can be read on the way; use this in networks you trust")
    return lines


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host} port {port}: {os.strerror(error.errno or 0)}", "choose another --host or --port"
        ) from None
    listener.set_inheritable(True)
    return listener
