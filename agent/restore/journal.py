"""The journal of adaptation: what each recipe found and left, beside the originals. ``regraft undo`` reads it."""

from __future__ import annotations

import hashlib
from itertools import count

import msgspec

from agent.errors import PatchError
from agent.model.recipe import BoundRecipe
from agent.model.undoing import ABSENT, FILE, LINK, Change
from agent.restore.inside import InsideRoot


def journal_path(undo: str) -> str:
    """Beside the folder of originals, whose names are those of the system's files."""
    return f"{undo}.jsonl"


def set_aside(inside: InsideRoot, undo: str) -> tuple[str, ...]:
    """Give what an earlier restore left, and the image brought along, names of its own; the paths that changed.

    Its originals are those of before that restore, and of an original the first one stays: undone, this restore would
    leave the files of the machine before the last.
    """
    both = (undo, journal_path(undo))
    there = [path for path in both if inside.lexists(path)]
    number = next(each for each in count(1) if not any(inside.lexists(f"{path}.{each}") for path in both))
    changed: list[str] = [undo.rpartition("/")[0]] if there else []
    for path in there:
        before = inside.below(path)
        inside.rename(path, f"{path}.{number}")
        changed += [*before, *inside.below(f"{path}.{number}")]
    return tuple(changed)


class Journal:
    """Lines of one recipe; written at its end, once, whatever came of it."""

    def __init__(self, inside: InsideRoot, undo: str, recipe: BoundRecipe) -> None:
        self._inside, self._path, self._recipe = inside, journal_path(undo), recipe
        self._lines: list[Change] = []

    def before(self, path: str) -> None:
        """Note what is at ``path`` before it is changed, once for each path."""
        if any(line.path == path for line in self._lines):
            return
        self._lines.append(self._change(path=path, **_state(self._inside, path)))

    def note(self, did: str, text: str) -> None:
        self._lines.append(self._change(kind="note", did=did, text=text))

    def request(self, what: str) -> None:
        self._lines.append(self._change(kind="request", text=what))

    def save(self) -> tuple[str, ...]:
        """Add the lines to the file; the paths that changed by it. A recipe that changed nothing leaves no line."""
        if all(line.kind == "request" for line in self._lines):
            return ()
        before = self._inside.read(self._path) or b""
        lines = [
            msgspec.structs.replace(line, after=content_of(self._inside, line.path)) if line.path else line
            for line in self._lines
        ]
        made = self._inside.make_directories(self._path.rpartition("/")[0])
        data = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
        self._inside.write(self._path, before + data, mode=0o600)
        return (self._path, self._path.rpartition("/")[0], *made)

    def _change(self, **fields: str | int) -> Change:
        table = {"recipe": self._recipe.id, "title": self._recipe.title, **fields}
        return msgspec.convert(table, type=Change)


def _state(inside: InsideRoot, path: str) -> dict[str, str | int]:
    if inside.read_link(path) is not None:
        return {"before": LINK}
    if not inside.lexists(path):
        return {"before": ABSENT}
    owner, group = inside.owner(path)
    return {"before": FILE, "owner": owner, "group": group, "mode": inside.mode(path)}


def content_of(inside: InsideRoot, path: str) -> str:
    """What a journal says of a path as it is now: a digest, a link's target, or nothing."""
    target = inside.read_link(path)
    if target is not None:
        return f"link {target}"
    try:
        data = inside.read(path)
    except PatchError:
        return "other"
    return "" if data is None else hashlib.sha256(data).hexdigest()
