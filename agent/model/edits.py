"""Edits of text files, as functions from text to text: what recipes do to a system's configuration.

Each is idempotent: applied to its own result it changes nothing. Lines that are not meant stay as they are, to the
byte, comments included.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from agent.errors import PatchError
from agent.model import network_edits
from agent.model.recipe import (
    AddTo,
    AnyOperation,
    DropFrom,
    EditMounts,
    EditNetwork,
    Replace,
    SetValue,
    Truncate,
    Write,
)

MARK = "# regraft: "
Change = Callable[[list[str]], list[str]]
FileEdit = Write | SetValue | DropFrom | AddTo | EditMounts | EditNetwork | Replace | Truncate


def edit(operation: FileEdit, text: str | None) -> str | None:
    """The file's new text; ``text`` None means there is no such file, None back means there shall be none."""
    match operation:
        case Write(lines=lines, whole=True):
            return "".join(f"{line}\n" for line in lines)
        case Write(lines=lines):
            return append_lines(text or "", lines)
        case SetValue(format="shell", key=key, value=value):
            return set_shell(text or "", key, lambda _: value)
        case SetValue(section=section, key=key, value=value):
            return set_ini(text or "", section, key, value)
        case EditMounts(action="add", mountpoint=mountpoint, value=line):
            return add_mount(text or "", mountpoint, line)
    if text is None:
        return None
    return _edit_existing(operation, text)


def _edit_existing(operation: AnyOperation, text: str) -> str:
    match operation:
        case DropFrom(word=glob):
            return _change_words(operation, text, lambda words: [w for w in words if not fnmatchcase(w, glob)])
        case AddTo(word=word):
            return _change_words(operation, text, lambda words: words if word in words else [*words, word])
        case EditMounts():
            return edit_mounts(text, operation)
        case EditNetwork(action="rebind", path=path, name=name, value=value):
            return network_edits.rebind(path, text, name, value)
        case EditNetwork(action="rename", path=path, name=name, value=value):
            return network_edits.renamed(path, text, name, value)
        case EditNetwork(path=path, name=name):
            return network_edits.not_awaited(path, text, name)
        case Replace(pattern=pattern, text=new, before_lines=True):
            return re.sub(pattern, lambda found: _before_lines(found[0], new), text, flags=re.MULTILINE)
        case Replace(pattern=pattern, text=new):
            return re.sub(pattern, lambda _: new, text, flags=re.MULTILINE)
    return ""  # Truncate


def _before_lines(lines: str, new: str) -> str:
    return "".join(f"{new}{line}" for line in re.findall(r"[^\n]*\n|[^\n]+", lines))


def append_lines(text: str, lines: Iterable[str]) -> str:
    """Lines that are not there yet, at the end."""
    have = text.splitlines()
    missing = [line for line in lines if line not in have]
    if missing and text and not text.endswith("\n"):
        text += "\n"
    return text + "".join(f"{line}\n" for line in missing)


_QUOTED = re.compile(r""""(?:[^"\\]|\\[\s\S])*"|'[^']*'""")  # may go over several lines


@dataclass(frozen=True, slots=True)
class _Assigned:
    """The right-hand side of a shell assignment, without what stands behind it in its line."""

    begin: int
    end: int
    value: str
    quote: str = ""


def _assignments(text: str, key: str) -> list[_Assigned]:
    head = re.compile(rf"^[ \t]*(?:export[ \t]+)?{re.escape(key)}=", re.MULTILINE)
    found: list[_Assigned] = []
    reached = 0
    while begins := head.search(text, reached):
        found.append(_right_side(text, begins.end()))
        reached = found[-1].end
    return found


def _right_side(text: str, begin: int) -> _Assigned:
    """In double quotes a backslash takes the end of its line away.

    By hand, as expressions for what may stand behind a value take a time that grows by the square of its blanks.
    """
    quoted = _QUOTED.match(text, begin)
    if quoted and _is_no_word(_rest_of_line(text, quoted.end())):
        value, quote = quoted[0][1:-1], quoted[0][0]
        return _Assigned(begin, quoted.end(), value.replace("\\\n", "") if quote == '"' else value, quote)
    line = _rest_of_line(text, begin)
    comments = (line.find(f"{blank}#") for blank in " \t")
    value = line[: min((at for at in comments if at >= 0), default=len(line))].rstrip(" \t")
    return _Assigned(begin, begin + len(value), value)


def _rest_of_line(text: str, at: int) -> str:
    end = text.find("\n", at)
    return text[at:] if end < 0 else text[at:end]


def _is_no_word(rest: str) -> bool:
    """Whether nothing but blanks, a semicolon and a comment stands there."""
    bare = rest.strip(" \t")
    if bare.startswith(";"):
        rest, bare = bare[1:], bare[1:].strip(" \t")
    return not bare or (bare.startswith("#") and rest[0] in " \t")


def shell_values(text: str, key: str) -> list[str]:
    """Values assigned to ``key``, in order; the last one counts."""
    return [found.value for found in _assignments(text, key)]


def set_shell(text: str, key: str, change: Callable[[str], str]) -> str:
    """Change the last assignment of ``key``; add one when there is none.

    Raises PatchError where that goes on in further lines outside of quotes, or has no end.
    """
    found = _assignments(text, key)
    if not found:
        return append_lines(text, [f"{key}={_quoted(change(''), '')}"])
    last = found[-1]
    new = change(last.value)
    if new == last.value:
        return text
    if not last.quote and (last.value.endswith("\\") or set(last.value) & set("\"'")):
        line = text.count("\n", 0, last.begin) + 1
        raise PatchError(
            f"line {line}: {key}={last.value} goes on in the next line or in a second word, expected one value in "
            "quotes",
            "put the value into one pair of quotes on the source machine",
        )
    return f"{text[: last.begin]}{_quoted(new, last.quote)}{text[last.end :]}"


def _quoted(value: str, quote: str) -> str:
    needed = not value or re.search(r"[^\w./:=,@%+-]", value)
    mark = quote or ('"' if needed else "")
    return f"{mark}{value}{mark}"


GRUBENV_BYTES = 1024  # GRUB, grub-core/lib/envblk.c: the block is padded with # and never grows


def words_at(path: str, text: str, key: str) -> list[str]:
    """The words of a value of the file at ``path``, as `recipe.DropFrom` sees them."""
    if _is_entry(path) or _is_environment(path):
        return [word for found in re.finditer(_assigned(path, key), text, re.MULTILINE) for word in found[2].split()]
    values = shell_values(text, key)[-1:] if key else [text]
    return [word for value in values for word in value.split()]


def _is_entry(path: str) -> bool:
    return "/loader/entries/" in path


def _is_environment(path: str) -> bool:
    return path.endswith("/grubenv")


def _assigned(path: str, key: str) -> str:
    """How a boot entry, or GRUB's environment, says (1: the key, 2: its words); neither knows quotes."""
    between = r"[ \t]+" if _is_entry(path) else "="
    return rf"^({re.escape(key)}{between})(.*)$"


def _change_words(operation: DropFrom | AddTo, text: str, change: Change) -> str:
    """Change the words of a value, in the form that the file's place tells."""
    path, key = operation.path, operation.key
    if not (_is_entry(path) or _is_environment(path)):
        return _change_shell_words(text, key, change)
    after = re.sub(_assigned(path, key), lambda found: found[1] + _changed(found[2], change), text, flags=re.MULTILINE)
    return _as_block(after, text) if _is_environment(path) and after != text else after


def _changed(value: str, change: Change) -> str:
    """The value as it is, spaces and all, unless its words change."""
    words = value.split()
    new = change(words)
    return value if new == words else " ".join(new)


def _as_block(after: str, before: str) -> str:
    """GRUB's environment, padded to the size it had. Raises PatchError where that is too small."""
    body = after.rstrip("#").encode("utf-8", "surrogateescape")
    size_bytes = max(GRUBENV_BYTES, len(before.encode("utf-8", "surrogateescape")))
    if len(body) > size_bytes:
        raise PatchError(
            f"GRUB's environment block has {size_bytes:,} bytes, and {len(body):,} would be needed",
            "shorten kernelopts on the source machine: grub2-editenv - set kernelopts=…",
        )
    return body.ljust(size_bytes, b"#").decode("utf-8", "surrogateescape")


def _change_shell_words(text: str, key: str, change: Change) -> str:
    """Change the words of a shell-style value; with key "" the whole file is one line of words (kernel/cmdline)."""
    if key:
        known = shell_values(text, key) or change([])
        return set_shell(text, key, lambda value: _changed(value, change)) if known else text
    new = _changed(text.rstrip("\n"), change)
    return new + "\n" if text.endswith("\n") else new


def set_ini(text: str, section: str, key: str, value: str) -> str:
    """Set ``key`` in ``[section]`` (made at the end when absent); section "" is what stands before the first one."""
    lines = text.splitlines()
    heads = [n for n, line in enumerate(lines) if re.match(r"\s*\[.*\]\s*$", line)]
    if section:
        start = next((n for n in heads if lines[n].strip() == f"[{section}]"), None)
        if start is None:
            gap = [""] if lines and lines[-1].strip() else []
            return "".join(f"{line}\n" for line in [*lines, *gap, f"[{section}]", f"{key}={value}"])
        first = start + 1
    else:
        first = 0
    end = next((n for n in heads if n >= first), len(lines))
    for number in range(first, end):
        found = re.match(rf"(\s*{re.escape(key)}\s*=\s*)(.*)$", lines[number])
        if found:
            lines[number] = f"{found[1]}{value}"
            break
    else:
        while end > first and not lines[end - 1].strip():
            end -= 1
        lines.insert(end, f"{key}={value}")
    return "".join(f"{line}\n" for line in lines)


def mount_fields(line: str) -> list[str]:
    """The fields of an fstab line (device, mount point, type, options, …); empty for comments and blank lines."""
    return [] if line.lstrip().startswith("#") else line.split()


def add_mount(text: str, mountpoint: str, line: str) -> str:
    if any(fields[1:2] == [mountpoint] for fields in map(mount_fields, text.splitlines())):
        return text
    return append_lines(text, [line])


def edit_mounts(text: str, operation: EditMounts) -> str:
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        fields = mount_fields(line)
        meant = fields[:1] == [operation.device] and operation.mountpoint in ("", *fields[1:2])
        if meant:
            lines[number] = _edited_mount(line, fields, operation)
    return "".join(lines)


def _edited_mount(line: str, fields: list[str], operation: EditMounts) -> str:
    match operation.action:
        case "set-device":
            return line.replace(fields[0], operation.value, 1)
        case "comment-out":
            why = f" ({operation.value})" if operation.value else ""
            return f"{MARK}not on this machine{why}: {line}"
        case "add-options" if len(fields) > 2:
            have = fields[3].split(",") if len(fields) > 3 else []
            missing = [option for option in operation.value.split(",") if option not in have]
            have = [option for option in have if option != "defaults"] if missing else have
            # Replace the fourth field only, keeping the columns before it. A line may end before it: fstab(5).
            bare = line.rstrip("\n").lstrip() if len(fields) > 3 else f"{line.strip()} -"
            parts = re.split(r"(\s+)", bare)
            parts[6] = ",".join([*have, *missing])
            return "".join(parts) + ("\n" if line.endswith("\n") else "")
    return line
