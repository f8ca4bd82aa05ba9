"""An edit that is asked of the server: files to write and remove, or one recipe. Pure.

The server runs no program of an image: a recipe with a verb that does is refused, and made on a machine that may.
"""

from __future__ import annotations

import re

import msgspec

from agent.errors import RefusedError, UsageError
from agent.model.recipe_file import Recipe, load_recipe
from agent.model.wording import printable

RUNS_PROGRAMS = frozenset({"install", "remove", "run", "request"})
MOST_FILES = 1000
_PATH = re.compile(r"(/[^/\0]+)+")


class WrittenFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str
    content: bytes  # base64 in JSON
    mode: int = 0o644  # of a file that is not there yet


class EditRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    write: tuple[WrittenFile, ...] = ()
    remove: tuple[str, ...] = ()
    recipe: str = ""  # TOML


class Edit(msgspec.Struct, frozen=True, kw_only=True):
    """One edit, and what became of it."""

    id: str
    image: str  # that is edited: NAME@TIME
    state: str  # queued, running, done, failed
    asked: str
    ended: str = ""
    result: str = ""  # the new image, "" when nothing changed
    changes: dict[str, str] = {}
    code: str = ""  # of agent.errors, where it failed
    message: str = ""


def check(request: EditRequest) -> None:
    """Raises UsageError or RefusedError for what cannot be done, before anything is."""
    files = len(request.write) + len(request.remove)
    if bool(request.recipe) == bool(files):
        raise UsageError("an edit names files to write or remove, or one recipe", "see docs/server.md")
    if files > MOST_FILES:
        raise UsageError(f"an edit of {files:,} files, expected at most {MOST_FILES:,}")
    for path in (*(each.path for each in request.write), *request.remove):
        if not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
            raise UsageError(f"‘{printable(path, 200)}’ is not a path from the system’s root")
    for each in request.write:
        if not 0 <= each.mode <= 0o777:
            raise UsageError(f"{printable(each.path, 200)}: mode {each.mode:o}, expected at most 777")
    if request.recipe:
        refuse_programs(load_recipe(request.recipe, "the recipe"))


def refuse_programs(recipe: Recipe) -> None:
    verbs = sorted({action.verb for action in recipe.actions} & RUNS_PROGRAMS)
    if verbs:
        raise RefusedError(
            f"recipe {recipe.id} runs programs of the image ({', '.join(verbs)}), which a server does not",
            "apply it with ‘regraft image apply-recipe’ on a machine of yours",
        )
