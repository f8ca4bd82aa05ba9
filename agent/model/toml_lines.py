"""Where every key of a TOML document stands. tomllib reads the values and forgets the lines.

Only for documents that tomllib has read: what is not TOML ends the walk, and what was found so far is what is told.
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections.abc import Mapping

Path = tuple[str | int, ...]  # ("do", 0, "write", "path")

_BLANK = re.compile(r"[ \t]*")
_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2}(?="*))|' + r"'''.*?'''(?:'{0,2}(?='*))|" + r'"(?:\\.|[^"\\\n])*"|' + r"'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\n]*")


def toml_lines(text: str) -> Mapping[Path, int]:
    """Path of every key, table and element → its line, from 1."""
    walk = _Walk(text)
    with contextlib.suppress(_LostError, RecursionError):
        walk.document()
    return walk.found


def line_of(lines: Mapping[Path, int], path: Path) -> int:
    """The line of a path, or of the innermost thing around it that stands somewhere; 1 for the document itself."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


class _LostError(Exception):
    """This is not TOML."""


class _Walk:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.found: dict[Path, int] = {}
        self._counts: dict[Path, int] = {}  # elements of arrays of tables
        self._line, self._counted = 1, 0

    def document(self) -> None:
        table: Path = ()
        while self._skip(_SPACE) < len(self.text):
            if self._next("["):
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> Path:
        """[a.b] or [[a.b]]; inside an array of tables the last element is meant."""
        line, double = self._here(), self._next("[")
        path: Path = ()
        keys = self._keys()
        for number, key in enumerate(keys):
            path = (*path, key)
            last = number == len(keys) - 1
            if double and last:
                self._counts[path] = self._counts.get(path, -1) + 1
            self.found.setdefault(path, line)
            if path in self._counts:
                path = (*path, self._counts[path])
                self.found.setdefault(path, line)
        self._expect("]")
        if double:
            self._expect("]")
        return path

    def _pair(self, table: Path) -> None:
        line = self._here()
        path = table
        for key in self._keys():
            path = (*path, key)
            self.found.setdefault(path, line)
        self._expect("=")
        self._value(path)

    def _value(self, path: Path) -> None:
        self._skip(_BLANK)
        if self._next("["):
            self._several("]", lambda number: self._element((*path, number)))
        elif self._next("{"):
            self._several("}", lambda _: self._pair(path))
        elif not self._matched(_STRING):
            self._matched(_SCALAR)

    def _element(self, path: Path) -> None:
        self.found[path] = self._here()
        self._value(path)

    def _several(self, end: str, read: object) -> None:
        assert callable(read)
        number = 0
        while True:
            self._skip(_SPACE)
            if self._next(end):
                return
            read(number)
            number += 1
            self._skip(_SPACE)
            if not self._next(",") and not self.text.startswith(end, self.at):
                raise _LostError

    def _keys(self) -> list[str]:
        keys = [self._key()]
        while self._skip(_BLANK) < len(self.text) and self._next("."):
            keys.append(self._key())
        return keys

    def _key(self) -> str:
        self._skip(_BLANK)
        if bare := self._matched(_BARE):
            return bare
        quoted = self._matched(_STRING)
        try:
            return next(iter(tomllib.loads(f"{quoted} = 0")))
        except (tomllib.TOMLDecodeError, StopIteration) as error:
            raise _LostError from error

    def _expect(self, word: str) -> None:
        self._skip(_BLANK)
        if not self._next(word):
            raise _LostError

    def _next(self, word: str) -> bool:
        if not self.text.startswith(word, self.at):
            return False
        self.at += len(word)
        return True

    def _skip(self, pattern: re.Pattern[str]) -> int:
        self._matched(pattern)
        return self.at

    def _matched(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            return ""
        self.at = match.end()
        return match[0]

    def _here(self) -> int:
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line
