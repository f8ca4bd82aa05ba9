"""What an edit changed, for people: one line a path. Pure."""

from __future__ import annotations

from collections.abc import Iterable

SHOWN = 20
_MARKS = {"is not in the image": "+", "No such file or directory": "-", "is absent or no directory": "-"}
_ONLY_TIME = "time "


def changed_paths(lines: Iterable[str]) -> dict[str, str]:
    """Path → ``+`` made, ``-`` removed, ``~`` changed, of the lines of a comparison with the image.

    A directory of which only the time is another says nothing that what was made or removed in it does not say.
    """
    said: dict[str, list[str]] = {}
    for line in lines:
        path, _, sentence = line.partition(": ")
        said.setdefault(path, []).append(sentence)
    touched = {path.rpartition("/")[0] or "/" for path in said}
    return {
        path: next((_MARKS[end] for end in _MARKS if sentences[0].endswith(end)), "~")
        for path, sentences in sorted(said.items())
        if not (path in touched and all(sentence.startswith(_ONLY_TIME) for sentence in sentences))
    }


def changes_text(lines: Iterable[str]) -> list[str]:
    """At most SHOWN paths, and how many more there are."""
    paths = changed_paths(lines)
    shown = [f"  {mark} {path}" for path, mark in list(paths.items())[:SHOWN]]
    return [*shown, *([f"  … and {len(paths) - SHOWN} more"] if len(paths) > SHOWN else [])]
