"""From what people write to a depot: a path, or an http(s) URL."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from agent.depot.local import LocalDepot
from agent.depot.store import Depot, WritableDepot
from agent.errors import RefusedError, UsageError


def open_depot(location: str, token: str = "") -> Depot:
    """The depot at a path or URL, for reading. Nothing is fetched yet."""
    return open_writable(location, token)


def open_writable(location: str, token: str = "") -> WritableDepot:
    """The depot at a path or URL. Whether writing is allowed shows when something is published."""
    scheme = urlsplit(location).scheme
    if scheme in ("http", "https"):
        from agent.depot.http import HttpDepot  # noqa: PLC0415 - a directory needs no network

        return HttpDepot(location, token)
    if "://" in location:
        raise UsageError(f"depot ‘{location}’: expected a path, http:// or https://")
    if not location:
        raise UsageError("no depot is given", "name it with --depot or REGRAFT_DEPOT")
    return LocalDepot(Path(location))


def open_local(location: str, act: str) -> LocalDepot:
    """The depot in a directory, for what is done there only. ``act`` says what, for the refusal of a URL."""
    depot = open_writable(location)
    if not isinstance(depot, LocalDepot):
        raise RefusedError(
            f"depot {location} is behind a URL, and {act} is done in a depot’s directory only",
            "run it where the directory is; for a depot that is served, on its server",
        )
    depot.info  # noqa: B018 - raises when there is no depot
    return depot
