"""Boot entries as files (Boot Loader Specification): the kernel command line of each, and where else it stands.

    /boot/loader/entries/<machine-id>-<release>.conf    options root=… ro $tuned_params
    /boot/grub2/grubenv                                 kernelopts=…, which entries of RHEL 8 refer to
    /etc/kernel/cmdline                                 what the next entry gets

uapi-group.org, specifications/specs/boot_loader_specification; GRUB keeps its environment in a block of 1024 bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from agent.model.edits import words_at
from agent.model.tree import Tree, read_text

ENTRIES = "/boot/loader/entries"
ENVIRONMENTS = ("/boot/grub2/grubenv", "/boot/grub/grubenv")
_MACHINE_ID = re.compile(r"[0-9a-f]{32}")


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
    words = words_at(f"{ENTRIES}/", entry, "options")
    kept = _environment(tree) if "$kernelopts" in words else []
    return " ".join([*(word for word in words if not word.startswith("$")), *kept])


def _environment(tree: Tree) -> list[str]:
    return [word for path in ENVIRONMENTS for word in words_at(path, read_text(tree, path), "kernelopts")]


def entry_machine_id(tree: Tree) -> str:
    """The machine-id that names the entries, "" when they have none, or another than the system's."""
    own = read_text(tree, "/etc/machine-id").strip()
    named = any(path.startswith(f"{ENTRIES}/{own}-") for path, _ in entries(tree))
    return own if _MACHINE_ID.fullmatch(own) and named else ""


def named_files(text: str) -> tuple[str, ...]:
    """Kernel and initramfs of an entry, by their paths in the file system of /boot."""
    lines = (line.split(None, 1) for line in text.splitlines())
    return tuple(fields[1].split()[0] for fields in lines if len(fields) == 2 and fields[0] in ("linux", "initrd"))
