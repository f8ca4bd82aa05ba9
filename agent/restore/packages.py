"""Removing packages by the image's own package tool, whichever it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from agent.errors import PatchError
from agent.restore.inside import InsideRoot
from agent.restore.sandbox import Sandbox

DPKG_STATUS = "/var/lib/dpkg/status"
RPM = "/usr/bin/rpm"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]*")  # nothing that a program would take for an option


def installed(inside: InsideRoot, names: Sequence[str]) -> dict[str, str]:
    """Which of these packages are (wholly) installed, with their versions, in the order given.

    rpm's database is not read here: of an image of its kind all count as installed, their versions unknown.
    """
    wrong = [name for name in names if not _NAME.fullmatch(name)]
    if wrong:
        raise PatchError(f"‘{wrong[0]}’ is no name of a package")
    if inside.exists(DPKG_STATUS):
        known = dpkg_versions(inside)
        return {name: known[name] for name in names if name in known}
    return dict.fromkeys(names, "") if inside.exists(RPM) else {}


def remove(inside: InsideRoot, sandbox: Sandbox, names: Sequence[str], limit_s: float) -> None:
    """Remove them in one go. Raises PatchError with what the tool said, or when it took longer than ``limit_s``."""
    if inside.exists(DPKG_STATUS):
        sandbox.remove_deb(names, limit_s)
    else:
        sandbox.remove_rpm(names, limit_s)


def dpkg_versions(inside: InsideRoot) -> dict[str, str]:
    """Package → version of everything that dpkg's own database calls installed."""
    status = (inside.read(DPKG_STATUS) or b"").decode("utf-8", "replace")
    return dict(_versions(status.split("\n\n")))


def _versions(paragraphs: Iterable[str]) -> Iterable[tuple[str, str]]:
    for paragraph in paragraphs:
        lines = [line for line in paragraph.splitlines() if ": " in line and line[0] != " "]
        fields = dict(line.split(": ", 1) for line in lines)
        if "Package" in fields and fields.get("Status", "").endswith(" installed"):
            yield fields["Package"], fields.get("Version", "")
