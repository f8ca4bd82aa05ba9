"""Images that jobs of the server still wait for. Its database, where it lies beside the depot, is read and no more.

The server's own code is not in the program for sources and media, so that its tables (server/database.py) are named
here again; a test queues a job with the one and reads it with the other.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from agent.depot.catalogue import with_time
from agent.depot.local import LocalDepot
from agent.depot.signing import regraft_home
from agent.errors import DamagedError, NoImageError
from agent.model.image import ImageRef
from agent.model.jobs import ENDED

DATABASE_FILE = "state.sqlite"
_OPEN = f"""
select distinct jobs.id, jobs.image from jobs join attempts on attempts.job_id = jobs.id
where attempts.state not in ({", ".join("?" for _ in ENDED)}) order by jobs.created, jobs.id
"""


def state_folder(depot_id: str) -> Path:
    """Where this user's server keeps its state: never inside the depot."""
    return regraft_home() / "servers" / depot_id


def images_of_jobs(depot: LocalDepot) -> dict[ImageRef, str]:
    """Image → id of the first job that is not ended and names it; by its machine alone is the newest one."""
    found: dict[ImageRef, str] = {}
    for job, name in _open_jobs(state_folder(depot.id) / DATABASE_FILE):
        machine, _, time = name.partition("@")
        try:
            found.setdefault(with_time(depot, ImageRef(machine, time)), job)
        except NoImageError:  # it will fail for that; nothing can be kept for it
            continue
    return found


def _open_jobs(database: Path) -> Iterator[tuple[str, str]]:
    if not database.exists():
        return
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            yield from connection.execute(_OPEN, ENDED)
    except sqlite3.Error as error:
        raise DamagedError(
            f"which images jobs wait for is not known: {database}: {error}",
            "mend it, or move it away if this depot is served no more; nothing was removed",
        ) from error
