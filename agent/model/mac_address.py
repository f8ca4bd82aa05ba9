"""MAC addresses in configuration files: with colons, dashes or dots, in either case."""

from __future__ import annotations

import re
from collections.abc import Iterator

_PAIR = "[0-9A-Fa-f]{2}"
_BEFORE = r"(?:(?<![0-9A-Fa-f:-])|(?<=\bmac:))"  # as NetworkManager's ‘mac:52:54:…’
MAC = re.compile(rf"{_BEFORE}{_PAIR}([:-])(?:{_PAIR}\1){{4}}{_PAIR}(?![0-9A-Fa-f:-])")


def macs_in(text: str) -> Iterator[str]:
    """Every address in the text, in lower case with colons."""
    for found in MAC.finditer(text):
        yield found[0].lower().replace("-", ":")


def mac_pattern(mac: str) -> re.Pattern[str] | None:
    """Finds ``mac`` however it is written (colons, dashes, as 5254.0012.3456); None when it is no MAC address."""
    if not MAC.fullmatch(mac):
        return None
    pairs = mac.lower().replace("-", ":").split(":")
    colons = "[:-]".join(pairs)
    dots = r"\.".join("".join(pairs[at : at + 2]) for at in (0, 2, 4))
    return re.compile(rf"(?i){_BEFORE}(?:{colons}|{dots})(?![0-9a-f:-])")
