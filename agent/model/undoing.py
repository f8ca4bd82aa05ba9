"""What adaptation did to a system, as its journal says: which recipe, which file, what was there before.

    journal (one JSON object a line) ──► Change … ──► what undoing some recipes takes, or why it cannot be done

A file has one original, the one of before the restore: recipes that changed one file can only be undone together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from agent.errors import DamagedError, RefusedError

FILE, LINK, ABSENT = "file", "link", "absent"


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the journal. ``kind``: changed (``path``), note, or request (``text``)."""

    recipe: str
    title: str = ""
    kind: str = "changed"
    path: str = ""
    before: str = ""  # file, link, absent
    owner: int = 0
    group: int = 0
    mode: int = 0
    after: str = ""  # sha256 of the content, or "link TARGET"; "" when nothing is there any more
    text: str = ""
    did: str = ""  # of a note: removed-package, installed-package, removed-secret, ran


class Undo(msgspec.Struct, frozen=True, kw_only=True):
    """What is done to undo some recipes: files first, then what is made of them."""

    recipes: tuple[str, ...]
    files: tuple[Change, ...]  # each path once, as the first recipe found it, with what the last one left
    requests: tuple[str, ...]  # initramfs, bootloader
    notes: tuple[Change, ...]  # what no file can bring back


def read_journal(data: bytes) -> tuple[Change, ...]:
    """Raises DamagedError with the line that cannot be read."""
    changes = []
    for number, line in enumerate(data.splitlines(), 1):
        try:
            changes.append(msgspec.json.decode(line, type=Change))
        except msgspec.DecodeError as error:
            raise DamagedError(
                f"the journal's line {number} cannot be read: {error}", "put files back by hand"
            ) from error
    return tuple(changes)


def recipes_of(changes: Iterable[Change]) -> dict[str, str]:
    """Recipes that did something, in order: id → title."""
    found: dict[str, str] = {}
    for change in changes:
        found.setdefault(change.recipe, change.title)
    return found


def plan_undo(changes: Sequence[Change], recipes: Sequence[str]) -> Undo:
    """What undoing these recipes takes; of all when none is named.

    Raises RefusedError for a recipe that did nothing here, or whose file another one, not named, changed too.
    """
    known = recipes_of(changes)
    chosen = tuple(recipes) or tuple(known)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise RefusedError(f"recipe {unknown[0]} changed nothing here", f"those that did: {', '.join(known) or 'none'}")
    files = [change for change in changes if change.kind == "changed"]
    ours: dict[str, list[Change]] = {}
    for change in files:
        if change.recipe in chosen:
            ours.setdefault(change.path, []).append(change)
    for change in files:
        if change.path in ours and change.recipe not in chosen:
            raise RefusedError(
                f"{change.path} was changed by {change.recipe} too, and has one original only",
                f"undo {' and '.join(sorted({change.recipe, *(one.recipe for one in ours[change.path])}))} together",
            )
    return Undo(
        recipes=chosen,
        files=tuple(msgspec.structs.replace(found[0], after=found[-1].after) for found in ours.values()),
        requests=tuple(dict.fromkeys(c.text for c in changes if c.kind == "request" and c.recipe in chosen)),
        notes=tuple(change for change in changes if change.kind == "note" and change.recipe in chosen),
    )


def without(changes: Iterable[Change], recipes: Iterable[str]) -> bytes:
    """The journal once these recipes are undone."""
    gone = set(recipes)
    return b"".join(msgspec.json.encode(change) + b"\n" for change in changes if change.recipe not in gone)
