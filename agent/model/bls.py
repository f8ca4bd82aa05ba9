"""Boot entries as files (Boot Loader Specification): the kernel command line of each, and where else it stands.

    /boot/loader/entries/<machine-id>-<release>.conf    options root=… ro $tuned_params
    /boot/grub2/grubenv                                 kernelopts=…, which entries of RHEL 8 refer to
    /etc/kernel/cmdline                                 what the next entry gets

uapi-group.org, specifications/specs/boot_loader_specification; GRUB keeps its environment in a block of 1024 bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from agent.model.tree import Tree, read_text

ENTRIES = "/boot/loader/entries"
ENVIRONMENTS = ("/boot/grub2/grubenv", "/boot/grub/grubenv")
GRUBENV_BYTES = 1024
_OPTIONS = re.compile(r"^(options[ \t]+)(.*)$", re.MULTILINE)
_MACHINE_ID = re.compile(r"[0-9a-f]{32}")
Change = Callable[[list[str]], list[str]]


def is_entry(path: str) -> bool:
    return "/loader/entries/" in path and path.endswith(".conf")


def is_environment(path: str) -> bool:
    return path.endswith("/grubenv")


def change_options(text: str, change: Change) -> str:
    """An entry with other words on its kernel command line; ``$kernelopts`` and its like stay."""

    def rewritten(found: re.Match[str]) -> str:
        words = found[2].split()
        new = change(words)
        return found[0] if new == words else f"{found[1]}{' '.join(new)}"

    return _OPTIONS.sub(rewritten, text)


def change_environment(text: str, key: str, change: Change) -> str:
    """A GRUB environment block with other words in ``key``, as long as it was; as it is where ``key`` is not set."""
    found = re.search(rf"^{re.escape(key)}=(.*)$", text, re.MULTILINE)
    if not found:
        return text
    words = found[1].split()
    new = change(words)
    if new == words:
        return text
    plain = f"{text[: found.start()]}{key}={' '.join(new)}{text[found.end() :]}".rstrip("#")
    room = GRUBENV_BYTES - len(plain.encode())
    return plain + "#" * room if room >= 0 else text  # GRUB refuses a longer block; the recipe's check tells


def entries(tree: Tree) -> Iterator[tuple[str, str]]:
    """(path, text) of every boot entry, but for those of rescue systems."""
    for name in tree.list_dir(ENTRIES):
        if name.endswith(".conf") and "rescue" not in name:
            yield f"{ENTRIES}/{name}", read_text(tree, f"{ENTRIES}/{name}")


def entry_words(tree: Tree) -> list[str]:
    """Words on the command lines of all entries, ``$kernelopts`` as GRUB's environment has it."""
    return list(dict.fromkeys(word for _, text in entries(tree) for word in options(text, tree).split()))


def options(entry: str, tree: Tree) -> str:
    """The command line of one entry, variables of GRUB's environment filled in."""
    words = [word for line in _OPTIONS.findall(entry) for word in line[1].split()]
    kept = _environment(tree) if "$kernelopts" in words else []
    return " ".join([*(word for word in words if not word.startswith("$")), *kept])


def _environment(tree: Tree) -> list[str]:
    values = (re.search(r"^kernelopts=(.*)$", read_text(tree, path), re.MULTILINE) for path in ENVIRONMENTS)
    return [word for value in values if value for word in value[1].split()]


def entry_machine_id(tree: Tree) -> str:
    """The machine-id that names the entries, "" when they have none, or another than the system's."""
    own = read_text(tree, "/etc/machine-id").strip()
    named = any(path.startswith(f"{ENTRIES}/{own}-") for path, _ in entries(tree))
    return own if _MACHINE_ID.fullmatch(own) and named else ""


def named_files(text: str) -> tuple[str, ...]:
    """Kernel and initramfs of an entry, by their paths in the file system of /boot."""
    lines = (line.split(None, 1) for line in text.splitlines())
    return tuple(fields[1].split()[0] for fields in lines if len(fields) == 2 and fields[0] in ("linux", "initrd"))
