"""The site's recipes in a depot: signed as one bundle, so that none can be left out, added or exchanged alone."""

from __future__ import annotations

from collections.abc import Iterator

from agent.depot.signing import RECIPES, SIGNATURE_LIMIT_BYTES, TrustedKeys, read_signed
from agent.depot.store import RECIPES_FILE, Depot
from agent.errors import DamagedError, NotTrustedError, UsageError
from agent.model.recipe_bundle import LIMIT_BYTES, RecipeBundle, decode
from agent.model.recipe_set import load_all


def read_bundle(depot: Depot, trust: TrustedKeys) -> RecipeBundle | None:
    """The depot's bundle, None where none was ever published. One that is not signed by a trusted key is refused."""
    try:
        data = _read(depot, trust)
    except FileNotFoundError:
        if _signature_is_there(depot):
            raise NotTrustedError(
                f"{RECIPES_FILE} of depot {depot.location} is gone and its signature is there",
                "publish the site’s recipes again, or withdraw them with ‘regraft recipe withdraw’",
            ) from None
        return None
    return decode(data, RECIPES_FILE)


def bundle_problems(depot: Depot, trust: TrustedKeys) -> Iterator[str]:
    """What is wrong with the bundle: signature, form, or a recipe in it that no restore would take."""
    try:
        bundle = read_bundle(depot, trust)
        load_all({}, depot=bundle.recipes if bundle else {})
    except (NotTrustedError, DamagedError, UsageError) as error:
        yield error.message


def _read(depot: Depot, trust: TrustedKeys) -> bytes:
    """Document and signature are two files, the only ones that are ever replaced: who comes between reads again."""
    try:
        return read_signed(depot, trust, RECIPES, RECIPES_FILE, LIMIT_BYTES)
    except NotTrustedError:
        return read_signed(depot, trust, RECIPES, RECIPES_FILE, LIMIT_BYTES)


def _signature_is_there(depot: Depot) -> bool:
    try:
        depot.read(f"{RECIPES_FILE}.sig", SIGNATURE_LIMIT_BYTES)
    except FileNotFoundError:
        return False
    return True
