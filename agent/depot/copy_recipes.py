"""The site's recipes go with its images to another depot, which signs them with its own key.

Recipes start programs on machines: only what is signed by a trusted key is carried, and nothing that the other depot
has of its own is lost by it.
"""

from __future__ import annotations

import msgspec

from agent.depot.recipe_bundle import read_bundle
from agent.depot.signing import TrustedKeys
from agent.depot.store import RECIPES_FILE, Depot, WritableDepot
from agent.errors import DamagedError, NotAllowedError, NotTrustedError, UsageError
from agent.model.recipe_bundle import LIMIT_BYTES, RecipeBundle, decode, encode

NONE, COPIED, THERE, LEFT = "none", "copied", "there", "left"


class RecipesCopied(msgspec.Struct, frozen=True, kw_only=True):
    """``outcome``: none (the source has none), copied, there (already), left (``said`` tells why)."""

    outcome: str
    recipes: int = 0
    said: str = ""


def copy_recipes(source: Depot, keys: TrustedKeys, target: WritableDepot) -> RecipesCopied:
    """Carry the bundle, where it is trusted and the other depot takes it. Never raises for what it leaves behind."""
    try:
        bundle = read_bundle(source, keys)
        if bundle is None:
            return RecipesCopied(outcome=NONE)
        there = _there(target)
        count = len(bundle.recipes)
        if there == bundle:
            return RecipesCopied(outcome=THERE, recipes=count, said=f"there already: {_count(count)} of the site")
        refusal = _own(there, bundle) if there else ""
        if refusal:
            return _left(refusal)
        target.publish_recipes(encode(bundle.recipes, bundle.time))
    except (NotTrustedError, DamagedError, NotAllowedError, UsageError) as error:
        return _left(str(error))
    said = f"{_count(count)} of the site, bundle of {bundle.time}, signed by the key of {target.location}"
    return RecipesCopied(outcome=COPIED, recipes=count, said=said)


def _there(target: Depot) -> RecipeBundle | None:
    """What the other depot has, whoever signed it: it is only compared."""
    try:
        return decode(target.read(RECIPES_FILE, LIMIT_BYTES), f"{RECIPES_FILE} of depot {target.location}")
    except FileNotFoundError:
        return None


def _own(there: RecipeBundle, bundle: RecipeBundle) -> str:
    """Why the other depot keeps its own bundle; "" where that is an older one of these recipes."""
    lost = sorted(there.recipes.keys() - bundle.recipes.keys())
    if there.time >= bundle.time:
        return f"the other depot’s are of {there.time}, these of {bundle.time}"
    return f"the other depot has {', '.join(lost)}, which would be lost" if lost else ""


def _left(why: str) -> RecipesCopied:
    return RecipesCopied(outcome=LEFT, said=f"recipes of the site were NOT copied: {why}")


def _count(count: int) -> str:
    return f"{count} recipe" if count == 1 else f"{count} recipes"
