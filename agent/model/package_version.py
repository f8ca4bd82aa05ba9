"""Debian package versions and relations: what a component needs, decided before anything is written.

Order as deb-version(7): epoch, upstream, revision; "~" sorts before everything, letters before other characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cmp_to_key

from agent.model.profile import Package

_RELATION = re.compile(r"([a-z0-9][a-z0-9+.-]*)(?::\w+)?\s*(?:\(\s*(<<|<=|=|>=|>>)\s*([^)\s]+)\s*\))?")
# Names that no package has and several provide, as far as kernels and firmware need them.
PROVIDED_BY = {
    "linux-initramfs-tool": ("initramfs-tools", "dracut", "tiny-initramfs"),
    "debconf-2.0": ("debconf", "cdebconf"),
}


def compare_versions(one: str, other: str) -> int:
    """Negative, zero or positive, as ``one`` is earlier than, the same as or later than ``other``."""
    a, b = _parts(one), _parts(other)
    if a[0] != b[0]:
        return a[0] - b[0]
    return _compare_text(a[1], b[1]) or _compare_text(a[2], b[2])


version_key = cmp_to_key(compare_versions)


def _parts(version: str) -> tuple[int, str, str]:
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "0")
    return int(epoch) if epoch.isdigit() else 0, upstream, revision


def _compare_text(one: str, other: str) -> int:
    pairs = re.findall(r"(\D*)(\d*)", one), re.findall(r"(\D*)(\d*)", other)
    for number in range(max(map(len, pairs))):
        (text_a, digits_a), (text_b, digits_b) = (p[number] if number < len(p) else ("", "") for p in pairs)
        difference = _compare_plain(text_a, text_b) or int(digits_a or 0) - int(digits_b or 0)
        if difference:
            return difference
    return 0


def _compare_plain(one: str, other: str) -> int:
    for number in range(max(len(one), len(other))):
        a, b = (_rank(text[number : number + 1]) for text in (one, other))
        if a != b:
            return a - b
    return 0


def _rank(letter: str) -> int:
    if letter == "~":
        return -1
    if not letter:
        return 0
    return ord(letter) if letter.isalpha() else ord(letter) + 256


def satisfied(relation: str, installed: Mapping[str, str]) -> bool:
    """Whether "a (>= 1) | b" holds; ``installed``: package name → version."""
    return any(_alternative(one.strip(), installed) for one in relation.split("|"))


def _alternative(text: str, installed: Mapping[str, str]) -> bool:
    found = _RELATION.fullmatch(text)
    if not found:
        return False
    name, sign, version = found.groups()
    if not sign:
        return any(one in installed for one in (name, *PROVIDED_BY.get(name, ())))
    if name not in installed:
        return False
    order = compare_versions(installed[name], version)
    return {"<<": order < 0, "<=": order <= 0, "=": order == 0, ">=": order >= 0, ">>": order > 0}[sign]


def missing(depends: Iterable[str], packages: Iterable[Package], also: Mapping[str, str] | None = None) -> list[str]:
    """The relations that do not hold on a system with these packages (and ``also``: name → version)."""
    installed = {package.name: package.version for package in packages} | dict(also or {})
    return [relation for relation in depends if not satisfied(relation, installed)]
