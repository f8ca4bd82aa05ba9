"""Puts back what recipes changed, on the restored system itself or on its disk mounted somewhere.

Originals lie in /var/lib/regraft/undo. A file that was changed since, by whomever, is left alone unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent.errors import PatchError, RefusedError
from agent.model.undoing import ABSENT, LINK, Change, Undo, read_journal, without
from agent.process import run
from agent.restore.inside import InsideRoot
from agent.restore.journal import content_of, journal_path
from agent.restore.patch import UNDO
from agent.restore.sandbox import Sandbox

TIMEOUT_S = 900.0
# What a request was, done again on a system that runs: the first program that is there.
PROGRAMS = {
    "initramfs": (
        ("/usr/sbin/update-initramfs", "-u", "-k", "all"),
        ("/usr/bin/dracut", "--force", "--regenerate-all"),
        ("/usr/sbin/dracut", "--force", "--regenerate-all"),
        ("/usr/bin/mkinitcpio", "-P"),
    ),
    "bootloader": (
        ("/usr/sbin/update-grub",),
        ("/usr/sbin/grub2-mkconfig", "-o", "/boot/grub2/grub.cfg"),
    ),
}


def journal(root: Path) -> tuple[Change, ...]:
    """What was done below ``root``. Raises RefusedError where no recipe ever changed anything."""
    data = InsideRoot(root).read(journal_path(str(UNDO)))
    if data is None:
        raise RefusedError(
            f"{journal_path(str(UNDO))} is not in {root}: no recipe changed this system",
            "run this on the restored machine, or give its root by --root",
        )
    return read_journal(data)


def changed_since(root: Path, undo: Undo) -> tuple[str, ...]:
    """Paths that are neither as the recipes left them nor put back already, by an attempt that was cut."""
    inside = InsideRoot(root)
    return tuple(
        change.path
        for change in undo.files
        if content_of(inside, change.path) not in (change.after, _original(inside, change))
    )


def _original(inside: InsideRoot, change: Change) -> str:
    return "" if change.before == ABSENT else content_of(inside, f"{UNDO}{change.path}")


def put_back(root: Path, changes: Sequence[Change], undo: Undo, *, force: bool) -> tuple[str, ...]:
    """Put the originals back, and take the recipes out of the journal; the paths put back.

    Raises RefusedError, with nothing done, when a file was changed since or an original is gone.
    """
    inside = InsideRoot(root)
    touched = changed_since(root, undo)
    if touched and not force:
        raise RefusedError(
            f"changed since the restore: {', '.join(touched)}; nothing was put back", "--force puts the originals back"
        )
    lost = [c.path for c in undo.files if c.before != ABSENT and not inside.lexists(f"{UNDO}{c.path}")]
    if lost:
        raise RefusedError(f"no original of {', '.join(lost)} in {UNDO}; nothing was put back")
    for change in undo.files:
        _put_back(inside, change)
    inside.write(journal_path(str(UNDO)), without(changes, undo.recipes), mode=0o600)
    # Last: an attempt that is cut, or fails at one file, finds every original again.
    for change in undo.files:
        inside.remove(f"{UNDO}{change.path}")
    return tuple(change.path for change in undo.files)


def _put_back(inside: InsideRoot, change: Change) -> None:
    kept = f"{UNDO}{change.path}"
    if change.before == ABSENT:
        inside.remove(change.path)
        return
    if change.before == LINK:
        inside.remove(change.path)
        inside.link(change.path, inside.read_link(kept) or "")
    else:
        if inside.read_link(change.path) is not None:
            inside.remove(change.path)  # a link that took the file's place, not what it leads to
        inside.write(change.path, inside.read(kept) or b"", mode=change.mode)
        inside.set_owner(change.path, change.owner, change.group, change.mode)


def make_again(root: Path, undo: Undo) -> tuple[str, ...]:
    """Make the initramfs and the boot menu of the files as they are now; what was run.

    Raises PatchError when the system has no program for it, or when that fails.
    """
    inside = InsideRoot(root)
    done: list[str] = []
    for what in undo.requests:
        if what not in PROGRAMS:
            continue
        argv = next((argv for argv in PROGRAMS[what] if inside.exists(argv[0])), None)
        if argv is None:
            raise PatchError(f"no program in {root} makes the {what} again", "make it by hand before the next start")
        if root == Path("/"):
            run(argv, timeout_s=TIMEOUT_S)
        else:
            Sandbox(root).run(argv, TIMEOUT_S)
        done.append(" ".join(argv))
    return tuple(done)
