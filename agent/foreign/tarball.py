"""A root file system in a tar archive, unpacked by GNU tar: owners, modes, nanoseconds, attributes, holes and all.

GNU tar itself keeps absolute names, ``..`` and links of the archive from leading out of the folder: names are cut,
and a link that leads away is made only when everything else is there.
"""

from __future__ import annotations

import re
from pathlib import Path

from agent.errors import DamagedError
from agent.process import ProcessError, run

TAR = "tar"
_NAME = re.compile(r".*\.(tar|tgz|tbz2?|txz|tzst|tar\.(gz|bz2|xz|zst|zstd))", re.IGNORECASE)
_MAGIC_AT = 257
UNPACK_TIMEOUT_S = 24 * 3600.0


def is_tarball(path: Path) -> bool:
    """By its name, or by the mark of a tar archive."""
    if _NAME.fullmatch(path.name):
        return True
    with path.open("rb") as file:
        return file.read(_MAGIC_AT + 5)[_MAGIC_AT:] == b"ustar"


def unpack(path: Path, work: Path) -> Path:
    """The folder with the tree of the archive."""
    root = work / "root"
    root.mkdir(mode=0o755)
    try:
        run(
            ["tar", "--extract", f"--file={path.resolve()}", f"--directory={root}", "--force-local",
             "--numeric-owner", "--same-owner", "--preserve-permissions", "--delay-directory-restore",
             "--acls", "--xattrs", "--xattrs-include=*", "--sparse"],
            timeout_s=UNPACK_TIMEOUT_S,
        )  # fmt: skip
    except ProcessError as error:
        said = "\n".join(error.stderr.strip().splitlines()[:5])
        raise DamagedError(
            f"{path} cannot be unpacked whole: {said}", "fetch the archive again; as root, with room in the work folder"
        ) from error
    return root
