"""Where in a recipe's file we are: every refusal names the file, the line and the key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agent.errors import UsageError
from agent.model.toml_lines import Path, line_of
from agent.model.wording import printable

SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Place:
    file: str
    lines: Mapping[Path, int] = field(default_factory=dict)
    path: Path = ()

    def __truediv__(self, key: str) -> Place:
        return replace(self, path=(*self.path, key))

    def at(self, number: int) -> Place:
        return replace(self, path=(*self.path, number))

    @property
    def line(self) -> int:
        return line_of(self.lines, self.path)

    def error(self, key: str, found: object, expected: str) -> UsageError:
        """``key``: of the table that this place is; "" for the place itself."""
        place = self / key if key else self
        where = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in place.path)
        named = f"{printable(where.lstrip('.'), SHOWN_CHARACTERS)}: " if where else ""
        shown = printable(repr(found), SHOWN_CHARACTERS)
        return UsageError(f"{self.file}:{place.line}: {named}found {shown}, expected {expected}", "see docs/recipes.md")

    def keys(self, table: Any, *, required: Iterable[str] = (), optional: Iterable[str] = ()) -> None:
        if not isinstance(table, dict):
            raise self.error("", table, "a table")
        required = tuple(required)
        known = (*required, *optional)
        for key in table:
            if key not in known:
                raise self.error(key, key, f"one of {', '.join(known)}")
        for key in required:
            if key not in table:
                raise self.error(key, "nothing", "this key")

    def text(self, table: Mapping[str, Any], key: str) -> str:
        value = table[key]
        if not isinstance(value, str) or not value:
            raise self.error(key, value, "a text")
        return value

    def texts(self, table: Mapping[str, Any], key: str) -> tuple[str, ...]:
        """A list of texts; none when the key is absent."""
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.error(key, value, "a list of texts")
        return tuple(value)

    def table_of_texts(self, table: Mapping[str, Any], key: str) -> dict[str, str]:
        """A table whose values are texts; an empty one when the key is absent."""
        value = table.get(key, {})
        if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
            raise self.error(key, value, "a table of texts")
        return dict(value)

    def one_of(self, key: str, found: str, allowed: Iterable[str]) -> None:
        allowed = tuple(allowed)
        if found not in allowed:
            raise self.error(key, found, f"one of {', '.join(allowed)}")
