"""Edits of text files, as functions from text to text: what recipes do to a system's configuration.

Each is idempotent: applied to its own result it changes nothing. Lines that are not meant stay as they are, to the
byte, comments included.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from agent.model import bls
from agent.model.recipe import AddTo, AnyOperation, DropFrom, EditMounts, Replace, SetValue, Truncate, Write

MARK = "# regraft: "
FileEdit = Write | SetValue | DropFrom | AddTo | EditMounts | Replace | Truncate


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
        case DropFrom(path=path, key=key, word=glob):
            return _change_words(path, text, key, lambda words: [w for w in words if not fnmatchcase(w, glob)])
        case AddTo(path=path, key=key, word=word):
            return _change_words(path, text, key, lambda words: words if word in words else [*words, word])
        case EditMounts():
            return edit_mounts(text, operation)
        case Replace(pattern=pattern, text=new):
            return re.sub(pattern, lambda _: new, text, flags=re.MULTILINE)
    return ""  # Truncate


def append_lines(text: str, lines: Iterable[str]) -> str:
    """Lines that are not there yet, at the end."""
    have = text.splitlines()
    missing = [line for line in lines if line not in have]
    if missing and text and not text.endswith("\n"):
        text += "\n"
    return text + "".join(f"{line}\n" for line in missing)


def _shell_value(raw: str) -> tuple[str, str]:
    """(value, quote) of the right-hand side of a shell assignment."""
    raw = raw.strip()
    if len(raw) > 1 and raw[0] in "\"'" and raw[-1] == raw[0]:
        return raw[1:-1], raw[0]
    return raw, ""


def shell_values(text: str, key: str) -> list[str]:
    """Values assigned to ``key``, in order; the last one counts."""
    pattern = re.compile(rf"^\s*(?:export\s+)?{re.escape(key)}=(.*)$", re.MULTILINE)
    return [_shell_value(found[1])[0] for found in pattern.finditer(text)]


def set_shell(text: str, key: str, change: Callable[[str], str]) -> str:
    """Change the last assignment of ``key``; add one when there is none."""
    pattern = re.compile(rf"^(\s*(?:export\s+)?{re.escape(key)}=)(.*)$", re.MULTILINE)
    found = list(pattern.finditer(text))
    if not found:
        return append_lines(text, [f"{key}={_quoted(change(''), '')}"])
    last = found[-1]
    value, quote = _shell_value(last[2])
    new = change(value)
    return text if new == value else f"{text[: last.start()]}{last[1]}{_quoted(new, quote)}{text[last.end() :]}"


def _quoted(value: str, quote: str) -> str:
    needed = not value or re.search(r"[^\w./:=,@%+-]", value)
    mark = quote or ('"' if needed else "")
    return f"{mark}{value}{mark}"


def _change_words(path: str, text: str, key: str, change: bls.Change) -> str:
    """Change the words of a shell-style value; with key "" the whole file is one line of words (kernel/cmdline).

    Boot entries and GRUB's environment have forms of their own.
    """
    if bls.is_entry(path):
        return bls.change_options(text, change)
    if bls.is_environment(path):
        return bls.change_environment(text, key, change)

    def rewritten(value: str) -> str:
        words = value.split()
        new = change(words)
        return value if new == words else " ".join(new)

    if key:
        return set_shell(text, key, rewritten) if shell_values(text, key) or change([]) else text
    new = rewritten(text.rstrip("\n"))
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
        case "add-options" if len(fields) > 3:
            have = fields[3].split(",")
            missing = [option for option in operation.value.split(",") if option not in have]
            have = [option for option in have if option != "defaults"] if missing else have
            # Replace the fourth field only, keeping the columns before it.
            parts = re.split(r"(\s+)", line.rstrip("\n").lstrip())
            parts[6] = ",".join([*have, *missing])
            return "".join(parts) + ("\n" if line.endswith("\n") else "")
    return line
