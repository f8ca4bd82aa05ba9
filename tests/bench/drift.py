"""What time and administrators do to a machine: a second one with the same software, a drifted copy of the first.

Deterministic: the same tree changes the same way.
"""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

from tests.bench.identity import SECOND, give_identity

CHANGED_SHARE = 0.002  # of a second machine's files, beside its identity: what its administrator and its time changed
DRIFTED_SHARE = 0.01  # of a drifted machine's files
PIECE_BYTES = 512


def make_second(root: Path) -> str:
    """The same software on another machine; how it was made."""
    give_identity(root, SECOND)
    chosen = some_files(root, CHANGED_SHARE, "second")
    for number, path in enumerate(chosen):
        overwrite(path, number)
    return f"the system with another identity, and {len(chosen)} files changed"


def make_drifted(root: Path) -> str:
    """1 % of the files; of ten: six overwritten in part, one of another mode, cut, joined by a new one, gone.

    How it was made.
    """
    chosen = some_files(root, DRIFTED_SHARE, "drift")
    for number, path in enumerate(chosen):
        match number % 10:
            case 6:
                path.chmod(stat.S_IMODE(path.stat().st_mode) ^ stat.S_IXOTH)
            case 7:
                os.truncate(path, path.stat().st_size // 2)
            case 8:
                path.with_name(f"new-{number}").write_bytes(random.Random(number).randbytes(PIECE_BYTES))
            case 9:
                path.unlink()
            case _:
                overwrite(path, number)
    return f"the system with {len(chosen)} files changed, {DRIFTED_SHARE:.0%} of them"


def overwrite(path: Path, seed: int) -> None:
    """Other bytes in the middle, and the time that writing sets."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(random.Random(seed).randbytes(PIECE_BYTES))


def some_files(root: Path, share: float, seed: str) -> list[Path]:
    """That share of the regular files that have one name and content, chosen evenly, in a fixed order."""
    found = []
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_size:
                found.append(Path(path))
    return random.Random(seed).sample(found, max(1, round(len(found) * share)))
