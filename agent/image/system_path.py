"""Paths as the captured system knows them, and as its manifest prints them."""

from __future__ import annotations

import os


def system_path(mountpoint: str, name: bytes) -> str:
    """Of a name in a volume, by the place where the volume belongs."""
    return (mountpoint.rstrip("/") + "/" + os.fsdecode(name)).rstrip("/") or "/"


def printed(path: str) -> str:
    """Fit for JSON: what is not UTF-8 in it becomes U+FFFD, so that several paths may be printed alike."""
    return os.fsencode(path).decode(errors="replace")
