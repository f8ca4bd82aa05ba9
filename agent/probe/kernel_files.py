"""Small files that the kernel makes: below /sys and /proc of a machine.

Devices come and go while we read: a file that vanished, or that its driver refuses to answer, reads as empty.
"""

from __future__ import annotations

import os
from pathlib import Path


def text_of(path: Path) -> str:
    """Content without surrounding blanks and NULs; undecodable bytes are kept as surrogates."""
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape").strip(" \t\n\r\0")
    except OSError:
        return ""


def number_of(path: Path, default: int = 0) -> int:
    text = text_of(path)
    try:
        return int(text, 0)
    except ValueError:
        return default


def link_name(path: Path) -> str:
    """Last part of a symbolic link's target: the driver of ``…/driver``, the subsystem of ``…/subsystem``."""
    try:
        return os.readlink(path).rpartition("/")[2]  # noqa: PTH115 - the text itself, it is not followed
    except OSError:
        return ""


def names_in(path: Path) -> list[str]:
    try:
        return sorted(os.listdir(path))  # noqa: PTH208 - names only
    except OSError:
        return []


def uevent_value(device: Path, key: str) -> str:
    """A value of a device's uevent file, where SSB and others keep the alias that they have no file for."""
    for line in text_of(device / "uevent").splitlines():
        name, _, value = line.partition("=")
        if name == key:
            return value
    return ""
