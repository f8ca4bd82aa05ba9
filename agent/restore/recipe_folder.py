"""Reads recipes from where they lie: those shipped with the program, a depot's bundle, and a folder that is named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import agent
from agent.errors import UsageError
from agent.model.recipe_bundle import RecipeBundle
from agent.model.recipe_file import LIMIT_CHARACTERS, Recipe
from agent.model.recipe_set import load_all

# Beside the package, both in the source tree and in the frozen program (its data folder).
SHIPPED = Path(agent.__file__).resolve().parent.parent / "recipes"


def read_recipes(site: Path | None = None, bundle: RecipeBundle | None = None) -> tuple[Recipe, ...]:
    """All recipes, strictly read: one of ``site`` (a folder or file) replaces one of the same id in the bundle, and
    that one a shipped one."""
    if not SHIPPED.is_dir():
        raise UsageError(f"the recipes shipped with this program are not at {SHIPPED}", "install it again")
    return load_all(recipe_texts(SHIPPED), recipe_texts(site) if site else None, bundle.recipes if bundle else None)


def recipe_texts(folder: Path) -> Mapping[str, str]:
    """File name → text of the recipes in a folder, or of the one file named."""
    files = [folder] if folder.is_file() else sorted(folder.glob("*.toml"))
    return {path.name: _text(path) for path in files}


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(4 * LIMIT_CHARACTERS + 1)
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{path.name}:{line}: not TOML: byte {error.start:,} is not UTF-8", "save it as UTF-8"
        ) from error
    except OSError as error:
        raise UsageError(f"‘{path}’: {error.strerror}", "name a recipe, or a folder of recipes") from error


def count_text(count: int) -> str:
    return f"{count} recipe{'' if count == 1 else 's'}"


def told(recipes: tuple[Recipe, ...], site: Path | None, bundle: RecipeBundle | None) -> tuple[str, ...]:
    """What is not shipped, a line each, for plans and reports."""
    lines = []
    if bundle and bundle.recipes:
        lines.append(f"the depot’s bundle of {bundle.time}: {count_text(len(bundle.recipes))}")
    if site:
        lines.append(f"{site}: {count_text(len(recipe_texts(site)))}")
    for recipe in recipes:
        if recipe.replaces:
            whose = {"shipped": "the shipped recipe", "depot": "the recipe of the depot’s bundle"}[recipe.replaces]
            lines.append(f"{recipe.file} replaces {whose} {recipe.id}")
    return tuple(lines)
