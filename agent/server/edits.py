"""Edits of images, one after the other, each by the program itself in a process of its own.

The server never mounts an image and runs nothing of it: ``regraft edit`` and ``regraft image apply-recipe`` unpack it
below the depot's staging directory. What was asked, and what became of it, lies in ``edits/`` of the state directory.
"""

from __future__ import annotations

import os
import queue
import secrets
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import msgspec

from agent.console.recorder import now
from agent.depot.local import LocalDepot
from agent.depot.signing import regraft_home
from agent.errors import NoImageError, RegraftError, TemporaryError
from agent.model.edit_request import Edit, EditRequest, check
from agent.model.image import ImageRef
from agent.model.undecodable import UNDECODABLE
from agent.process import run

MOST_WAITING = 20
SHOWN = 100
TIMEOUT_S = 4 * 3600.0
PROGRAM = (sys.executable, "-m", "agent")


class _Ref(msgspec.Struct):
    machine: str
    time: str


class _Result(msgspec.Struct):
    ref: _Ref


class _Error(msgspec.Struct):
    code: str
    message: str


class _Said(msgspec.Struct):
    """What the program prints with --json, when it ends well or not."""

    changes: dict[str, str] = {}
    result: _Result | None = None
    error: _Error | None = None


class Edits:
    """The edits of one server."""

    def __init__(self, folder: Path, depot: LocalDepot) -> None:
        self._folder = folder
        self._depot = depot
        self._waiting: queue.Queue[tuple[Edit, EditRequest]] = queue.Queue(MOST_WAITING)
        self._worker: threading.Thread | None = None
        self._lock = threading.Lock()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for edit in self.newest():
            if edit.state in ("queued", "running"):  # its publishing is whole or not at all: the images tell
                self._end(edit, state="failed", code="stopped", message="the server was stopped before it ended")

    def newest(self) -> list[Edit]:
        """The newest SHOWN edits, newest first."""
        paths = sorted(self._folder.glob("*.json"), reverse=True)[:SHOWN]
        return [msgspec.json.decode(path.read_bytes(), type=Edit) for path in paths]

    def get(self, edit_id: str) -> Edit:
        path = self._folder / f"{edit_id}.json"
        if not edit_id.replace("-", "").isalnum() or not path.is_file():
            raise NoImageError(f"no edit has the id ‘{edit_id[:80]}’", "list them with GET /api/v1/edits")
        return msgspec.json.decode(path.read_bytes(), type=Edit)

    def ask(self, image: ImageRef, request: EditRequest) -> Edit:
        """Queue an edit. Raises UsageError or RefusedError for one that cannot be done."""
        check(request)
        asked = now()
        name = f"{asked.replace('-', '').replace(':', '').replace('.', '')}-{secrets.token_hex(4)}"
        edit = Edit(id=name, image=str(image), state="queued", asked=asked)
        self._keep(edit)
        try:
            self._waiting.put_nowait((edit, request))
        except queue.Full:
            (self._folder / f"{name}.json").unlink()
            raise TemporaryError(f"{MOST_WAITING} edits are waiting, the most allowed", "ask again later") from None
        self._start()
        return edit

    def _start(self) -> None:
        with self._lock:
            if self._worker is None or not self._worker.is_alive():  # what nobody expected ended it: the next is done
                # A daemon: a server that is stopped does not wait for an edit that takes minutes.
                self._worker = threading.Thread(target=self._work, name="edits", daemon=True)
                self._worker.start()

    def _work(self) -> None:
        while True:
            edit, request = self._waiting.get()
            running = msgspec.structs.replace(edit, state="running")
            try:
                self._keep(running)
                self._tell(running, self._done(running, request))
            except (RegraftError, OSError, *UNDECODABLE) as error:  # among them a program that was killed
                self._fail(running, error)

    def _fail(self, edit: Edit, error: Exception) -> None:
        print(f"regraft: edit {edit.id}: {error}", file=sys.stderr, flush=True)
        with suppress(OSError):  # a full disk: it is told as running until the server starts again
            self._end(edit, state="failed", code=getattr(error, "code", "unexpected"), message=str(error))

    def _tell(self, edit: Edit, said: _Said) -> None:
        if said.error:
            self._end(edit, state="failed", code=said.error.code, message=said.error.message)
            return
        result = str(ImageRef(said.result.ref.machine, said.result.ref.time)) if said.result else ""
        self._end(edit, state="done", result=result, changes=said.changes)

    def _done(self, edit: Edit, request: EditRequest) -> _Said:
        """Run the program on the edit; what it said."""
        with tempfile.TemporaryDirectory(prefix="edit-", dir=self._depot.staging) as folder:
            words = words_of(edit, request, Path(folder))
            place = ["--json", "--work", folder, "--depot", str(self._depot.root.resolve())]
            environment = {"REGRAFT_HOME": str(regraft_home())}
            told = run([*PROGRAM, *words, *place], timeout_s=TIMEOUT_S, accept=range(256), environment=environment)
            return msgspec.json.decode(told.stdout or b"{}", type=_Said)

    def _end(self, edit: Edit, **facts: object) -> None:
        self._keep(msgspec.structs.replace(edit, ended=now(), **facts))

    def _keep(self, edit: Edit) -> None:
        staged = self._folder / f".{edit.id}"
        staged.write_bytes(msgspec.json.encode(edit))
        staged.chmod(0o600)
        staged.rename(self._folder / f"{edit.id}.json")


def words_of(edit: Edit, request: EditRequest, folder: Path) -> list[str]:
    """The command for an edit; its files lie in ``folder``. Nothing of a request is an option: paths begin with /."""
    if request.recipe:
        recipe = folder / "recipe.toml"
        recipe.write_text(request.recipe, "utf-8")
        return ["image", "apply-recipe", edit.image, str(recipe)]
    words = ["edit", edit.image]
    for number, each in enumerate(request.write):
        place = folder / f"file-{number}"
        place.write_bytes(each.content)
        os.chmod(place, each.mode)  # noqa: PTH101 - as the file shall be
        words += ["--put", f"{place}:{each.path}"]
    for path in request.remove:
        words += ["--remove", path]
    return words
