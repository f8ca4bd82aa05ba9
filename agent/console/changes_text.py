"""What changed between two images, in words: sections for people. Pure."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator

from agent.console.tree_text import shown
from agent.model.image_changes import ADDED, CHANGED, REMOVED, Counts, FileChange, SectionChanges, ValueChange
from agent.model.wording import printable

SHOWN = 40
SIGNS = {ADDED: "+", REMOVED: "-", CHANGED: "~"}
LIMIT = 400  # of a value, such as a kernel command line


def section_lines(section: SectionChanges, limit: int) -> Iterator[str]:
    """A section of the profiles, at most ``limit`` changes."""
    title = section.name.upper()
    if section.not_compared:
        yield f"{title}\n  not compared: {printable(section.not_compared)}"
        return
    ops = [change.op for change in section.changes]
    yield f"{title} ({_numbers(ops.count(ADDED), ops.count(REMOVED), ops.count(CHANGED))})"
    for change in section.changes[:limit]:
        yield f"  {SIGNS[change.op]} {value_text(change)}"
    yield from _rest(len(section.changes) - limit)


def value_text(change: ValueChange) -> str:
    name, old, new = (printable(text, LIMIT) for text in (change.name, change.old, change.new))
    return f"{name}: {old} -> {new}" if old and new else f"{name}: {old or new}"


def file_lines(title: str, counts: Counts, changes: Iterable[FileChange], limit: int) -> Iterator[str]:
    """A section of files. A directory that is new or gone stands for what is in it; a time alone is only counted."""
    yield f"{title} ({file_numbers(counts)})"
    lines = 0
    told = 0
    for text, count in _collapsed(change for change in changes if not change.only_time):
        if lines < limit:
            yield f"  {text}"
            lines += 1
            told += count
    yield from _rest(counts.added + counts.removed + counts.changed - counts.time - told)


def file_numbers(counts: Counts) -> str:
    text = _numbers(counts.added, counts.removed, counts.content + counts.metadata)
    more = [f"{counts.metadata:,} of these in metadata only"] * bool(counts.metadata)
    more += [f"{counts.time:,} in nothing but their time"] * bool(counts.time)
    return "; ".join([text, *more])


def file_text(change: FileChange, below: int = 0) -> str:
    """One path, ``below``: how many entries are in the directory that came or went with it."""
    folder = "/" if change.type == "dir" else ""
    text = f"{SIGNS[change.op]} {_path(change)}{folder}"
    if below:
        return f"{text}  with {below:,} entries in it"
    if change.op != CHANGED:
        return text
    words = list(change.differences)
    if change.old_type:
        words[words.index("type")] = f"{change.old_type} -> {change.type}"
    if "content" in words and change.old_size != change.size:
        words[words.index("content")] = f"content ({change.old_size:,} -> {change.size:,} bytes)"
    return f"{text}  {', '.join(words)}"


def _collapsed(changes: Iterable[FileChange]) -> Iterator[tuple[str, int]]:
    """A line and the number of changes it stands for."""
    folder: FileChange | None = None
    below = 0
    for change in changes:
        if folder is not None:
            if change.op == folder.op and change.path.startswith(folder.path.rstrip("/") + "/"):
                below += 1
                continue
            yield file_text(folder, below), below + 1
            folder = None
        if change.type == "dir" and change.op != CHANGED:
            folder, below = change, 0
        else:
            yield file_text(change), 1
    if folder is not None:
        yield file_text(folder, below), below + 1


def _path(change: FileChange) -> str:
    return shown(base64.b64decode(change.raw)) if change.raw else printable(change.path, 65_536)


def _numbers(added: int, removed: int, changed: int) -> str:
    parts = [f"{count:,} {word}" for count, word in ((added, ADDED), (removed, REMOVED), (changed, CHANGED)) if count]
    return ", ".join(parts) or "no change"


def _rest(count: int) -> Iterator[str]:
    if count > 0:
        yield f"  … and {count:,} more: --all shows them"
