"""A root file system in a tar archive, unpacked by GNU tar: owners, modes, nanoseconds, attributes, holes and all.

GNU tar itself keeps absolute names, ``..`` and links of the archive from leading out of the folder: names are cut,
and a link that leads away is made only when everything else is there.
"""

from __future__ import annotations

import re
from pathlib import Path

from agent.errors import DamagedError, RefusedError
from agent.model.events import Emit, Event
from agent.model.wording import printable
from agent.process import ProcessError, run

TAR = "tar"
_NAME = re.compile(r".*\.(tar|tgz|tbz2?|txz|tzst|tar\.(gz|bz2|xz|zst|zstd))", re.IGNORECASE)
_MAGIC_AT = 257
UNPACK_TIMEOUT_S = 24 * 3600.0
# GNU tar only warns of an attribute that it cannot set, and ends with status 0 (1.34, src/xattrs.c). What belongs to no
# name space of Linux (com.apple.…) no file system here can have: a remark, like all else that it says.
_NOT_SET = re.compile(r"tar: \w+: Cannot set (POSIX ACLs|SELinux context|'(user|trusted|security|system)\.).*")
REMARKS = 20


def is_tarball(path: Path) -> bool:
    """By its name, or by the mark of a tar archive."""
    if _NAME.fullmatch(path.name):
        return True
    with path.open("rb") as file:
        return file.read(_MAGIC_AT + 5)[_MAGIC_AT:] == b"ustar"


def unpack(path: Path, work: Path, emit: Emit) -> Path:
    """The folder with its tree. RefusedError where a file cannot have all that the archive says of it."""
    root = work / "root"
    root.mkdir(mode=0o755)
    try:
        done = run(
            ["tar", "--extract", f"--file={path.resolve()}", f"--directory={root}", "--force-local",
             "--numeric-owner", "--same-owner", "--preserve-permissions", "--delay-directory-restore",
             "--acls", "--xattrs", "--xattrs-include=*", "--sparse", "--warning=no-timestamp"],
            timeout_s=UNPACK_TIMEOUT_S,
        )  # fmt: skip
    except ProcessError as error:
        said = "\n".join(error.stderr.strip().splitlines()[:5])
        raise DamagedError(
            f"{path} cannot be unpacked whole: {said}", "fetch the archive again; as root, with room in the work folder"
        ) from error
    _heed(done.stderr.splitlines(), path, emit)
    return root


def _heed(lines: list[str], path: Path, emit: Emit) -> None:
    """What tar said although it came to its end: lost attributes refuse, all else is told, each sentence once."""
    lost = [line for line in lines if _NOT_SET.fullmatch(line)]
    if lost:
        more = f", and {len(lost) - 1:,} more of the kind" if len(lost) > 1 else ""
        raise RefusedError(
            f"{path} cannot be unpacked as it is, an attribute would be lost: {printable(lost[0])}{more}",
            "work as root, with --work on a file system that holds such attributes, such as xfs",
        )
    remarks = list(dict.fromkeys(line for line in lines if line.strip()))
    for line in remarks[:REMARKS]:
        emit(Event(seq=0, time="", kind="warning", phase="profile", text=f"{path}: {printable(line)}"))
    if len(remarks) > REMARKS:
        text = f"{path}: tar said {len(remarks) - REMARKS:,} lines more"
        emit(Event(seq=0, time="", kind="warning", phase="profile", text=text))
