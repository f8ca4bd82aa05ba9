"""SELinux labels of what a restore wrote, given by the image's own setfiles in the sandbox; else at the first boot.

setfiles needs no kernel with SELinux: it reads the policy's file contexts and writes extended attributes.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from agent.errors import PatchError
from agent.model.edits import shell_values
from agent.restore.inside import InsideRoot
from agent.restore.sandbox import VISIBLE, Sandbox

CONFIG, SETFILES, LATER = "/etc/selinux/config", "/usr/sbin/setfiles", "/.autorelabel"
_POLICY = re.compile(r"[A-Za-z0-9_-]+")
_NOT_LABELLED = ("/dev", "/proc", "/sys", "/run", "/tmp")


def relabel(root: Path, sandbox: Sandbox, changed: Iterable[str]) -> tuple[tuple[str, ...], str]:
    """Label the paths that changed; (paths that this changed itself, a warning or "").

    Where it cannot be done from here, /.autorelabel lets the system do it at its first boot, which takes minutes and
    a second boot.
    """
    inside = InsideRoot(root)
    config = (inside.read(CONFIG) or b"").decode("utf-8", "replace")
    kind = (shell_values(config, "SELINUXTYPE") or ["targeted"])[-1]
    contexts = f"/etc/selinux/{kind}/contexts/files/file_contexts"
    if not _POLICY.fullmatch(kind) or not inside.exists(contexts) or not inside.exists(SETFILES):
        return _later(inside, f"the image has no {SETFILES} or no {contexts}")
    wanted = [path for path in sorted(set(changed)) if _labelled(inside, path)]
    with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
        names = Path(folder) / "paths"
        names.write_bytes(b"".join(path.encode("utf-8", "surrogateescape") + b"\0" for path in wanted))
        try:
            # -m: it believes no mount table, which says nothing of labels while this kernel has no SELinux.
            sandbox.run([SETFILES, "-m", "-F", "-0", "-f", f"{VISIBLE}/paths", contexts], files=[names])
        except PatchError as error:
            return _later(inside, error.message)
    return (), ""


def _labelled(inside: InsideRoot, path: str) -> bool:
    return "\n" not in path and not path.startswith(_NOT_LABELLED) and inside.lexists(path)


def _later(inside: InsideRoot, why: str) -> tuple[tuple[str, ...], str]:
    inside.write(LATER, b"")
    return (LATER, "/"), f"labels of SELinux are given at the first boot: {why}"
