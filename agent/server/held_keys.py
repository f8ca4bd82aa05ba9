"""Keys of LUKS devices that jobs carry: a file each, beside the database and never in it, until the job has ended.

Not in the database: its rows are what lists, pages and backups show, and what is deleted there stays in its journal.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

from agent.model.luks_keys import LuksKey

_JOB = re.compile(r"[0-9a-f]{1,64}")


class HeldKeys:
    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        self._folder = folder

    def keep(self, job_id: str, keys: Iterable[LuksKey]) -> None:
        """On the medium before the job can be claimed."""
        path = self._path(job_id)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(tuple(keys)))
            file.flush()
            os.fsync(file.fileno())

    def has(self, job_id: str) -> bool:
        return self._path(job_id).exists()

    def of(self, job_id: str) -> tuple[LuksKey, ...]:
        try:
            return msgspec.json.decode(self._path(job_id).read_bytes(), type=tuple[LuksKey, ...])
        except FileNotFoundError:
            return ()

    def forget(self, job_id: str) -> None:
        """Overwritten, then removed. A file system or a drive may keep the old blocks all the same: docs/safety.md."""
        path = self._path(job_id)
        try:
            with path.open("r+b") as file:
                file.write(bytes(path.stat().st_size))
                file.flush()
                os.fsync(file.fileno())
            path.unlink()
        except FileNotFoundError:
            return

    def jobs(self) -> tuple[str, ...]:
        """Ids of the jobs whose keys are held."""
        return tuple(sorted(path.name for path in self._folder.iterdir() if _JOB.fullmatch(path.name)))

    def _path(self, job_id: str) -> Path:
        if not _JOB.fullmatch(job_id):
            raise ValueError(f"‘{job_id}’ is no id of a job")
        return self._folder / job_id
