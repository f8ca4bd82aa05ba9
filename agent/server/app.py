"""The application: a depot, its jobs and its pages over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import Depends, FastAPI

from agent.depot.local import LocalDepot
from agent.depot.open_jobs import DATABASE_FILE
from agent.server import pages, problems
from agent.server.api import Services, files, router
from agent.server.auth import Guard, Tokens, check_need
from agent.server.database import Database
from agent.server.edits import Edits
from agent.server.held_keys import HeldKeys
from agent.server.jobs import Jobs
from agent.server.rehearsals import Rehearsals
from agent.server.targets import Targets
from agent.version import VERSION

AUDIT_FILE = "audit.jsonl"
EDITS_FOLDER = "edits"
KEYS_FOLDER = "keys"
REHEARSALS_FOLDER = "rehearsals"


def create_app(  # noqa: PLR0913 - the properties of one server
    depot: LocalDepot,
    state_dir: Path,
    tokens: Tokens,
    *,
    public_read: bool = False,
    database_url: str = "",
    floor_bytes: int | None = None,
    rehearse: bool = False,
) -> FastAPI:
    """The whole server as one ASGI application.

    ``floor_bytes``: room that uploads must leave free; ``rehearse``: decide for every known target whenever something
    arrives.
    """
    database = Database(database_url or f"sqlite:///{state_dir / DATABASE_FILE}")
    jobs = Jobs(database, HeldKeys(state_dir / KEYS_FOLDER))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        database.close()

    # The API's own description and explorer are off: they would need nothing, and the explorer loads from elsewhere.
    app = FastAPI(
        title="regraft", version=VERSION, docs_url=None, redoc_url=None, openapi_url=None,
        dependencies=[Depends(check_need)], redirect_slashes=False, lifespan=lifespan,
    )  # fmt: skip
    edits = Edits(state_dir / EDITS_FOLDER, depot)
    targets = Targets(database, depot, jobs)
    rehearsals = Rehearsals(state_dir / REHEARSALS_FOLDER, depot, targets, jobs, rehearse)
    app.state.services = Services(depot, jobs, targets, tokens, edits, rehearsals, floor_bytes)
    problems.install(app)
    app.include_router(router)
    app.include_router(pages.router)
    app.include_router(files)
    app.add_middleware(Guard, tokens=tokens, audit=state_dir / AUDIT_FILE, public_read=public_read)
    return app
