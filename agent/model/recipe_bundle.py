"""A site's recipes as one document, which is signed as a whole and lies in the depot. Format: docs/formats.md."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from agent.errors import DamagedError, UsageError
from agent.model.recipe_file import FILE_NAME
from agent.model.undecodable import UNDECODABLE
from agent.model.wording import printable

FORMAT = 1
LIMIT_BYTES = 8 << 20
LIMIT_RECIPES = 1000
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


class RecipeBundle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``recipes``: file name → text, as their author wrote it."""

    format: int
    time: str  # 2026-11-23T20:41:40Z, when it was published
    recipes: dict[str, str]


def encode(recipes: Mapping[str, str], time: str) -> bytes:
    """The document; equal recipes at one time are equal bytes. Raises UsageError for what no reader would take."""
    for name in recipes:
        if not FILE_NAME.fullmatch(name):
            raise UsageError(f"‘{printable(name, 80)}’ cannot name a recipe; expected a name like 50-site-scale.toml")
    bundle = RecipeBundle(format=FORMAT, time=time, recipes=dict(sorted(recipes.items())))
    data = msgspec.json.format(msgspec.json.encode(bundle), indent=1) + b"\n"
    if len(data) > LIMIT_BYTES or len(recipes) > LIMIT_RECIPES:
        raise UsageError(
            f"{len(recipes):,} recipes of {len(data):,} bytes, expected at most {LIMIT_RECIPES:,} of {LIMIT_BYTES:,}"
        )
    return data


def decode(data: bytes, path: str) -> RecipeBundle:
    """The bundle, or DamagedError naming ``path``. The recipes in it are not read yet."""
    try:
        bundle = msgspec.json.decode(data, type=RecipeBundle)
    except UNDECODABLE as error:
        raise DamagedError(f"{path} is not a bundle of recipes: {error}", "publish it again") from None
    if bundle.format != FORMAT:
        raise DamagedError(f"{path} has format {bundle.format}, expected {FORMAT}", "use a newer regraft")
    wrong = [name for name in bundle.recipes if not FILE_NAME.fullmatch(name)]
    if wrong or len(bundle.recipes) > LIMIT_RECIPES or not _TIME.fullmatch(bundle.time):
        what = f"a recipe named {wrong[0]!r}" if wrong else f"{len(bundle.recipes):,} recipes of {bundle.time!r}"
        raise DamagedError(
            f"{path} holds {printable(what, 120)}, which nothing that publishes makes", "publish it again"
        )
    return bundle
