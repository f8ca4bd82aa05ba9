"""Interfaces that network configuration means by globs: ``name: eth*`` of netplan, ``Name=en* eth*`` of networkd,
``interface-name=eth*;`` of NetworkManager. Nothing in such a file can be renamed; a new name has to suit it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from agent.model import netplan
from agent.model.network_backends import backend_of

_GLOB = re.compile(r"[*?\[!]")
_KEYS = {"networkd": re.compile(r"\s*Name\s*=(.*)"), "nm": re.compile(r"\s*interface-name\s*=(.*)")}
Words = tuple[str, ...]


def name_lists(path: str, text: str) -> tuple[Words, ...]:
    """Each list of names that the file matches interfaces by, if it has a glob; words with ``!`` are exceptions."""
    backend = backend_of(path)
    if backend == "netplan":
        found = netplan.match_names(text)
    elif backend in _KEYS:
        found = (_words(backend, text),)
    else:
        return ()
    return tuple(words for words in found if any(_GLOB.search(word) for word in words))


def _words(backend: str, text: str) -> Words:
    """Of the section [match] of a networkd file or of a profile; what stands in several lines is one list."""
    section, words = "", list[str]()
    for line in text.splitlines():
        if line.strip().startswith("["):
            section = line.strip().lower()
        found = _KEYS[backend].match(line) if section == "[match]" else None
        words += re.split(r"[\s;,]+", found[1].strip(" ;,")) if found else []
    if backend == "networkd" and words and words[0].startswith("!"):
        return tuple(f"!{word.lstrip('!')}" for word in words)  # systemd.network(5): the first one's inverts them all
    return tuple(word.lstrip("|&") for word in words)


def means(words: Sequence[str], name: str) -> bool:
    """Whether a list is about an interface of that name."""
    wanted = [word for word in words if not word.startswith("!")]
    excepted = [word[1:] for word in words if word.startswith("!")]
    return (not wanted or _any(name, wanted)) and not _any(name, excepted)


def _any(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob.replace("[^", "[!")) for glob in globs)


def suits(lists: Iterable[Words], old: str, new: str) -> bool:
    """Whether every list is about ``new`` as it was about ``old``; where it says ``old`` itself, it is edited."""
    return all(means(words, old) == means([new if word == old else word for word in words], new) for words in lists)
