"""Reads recipes from where they lie: those shipped with the program, and a site's folder."""

from __future__ import annotations

from pathlib import Path

import agent
from agent.errors import UsageError
from agent.model.recipe_file import Recipe, load_all

# Beside the package, both in the source tree and in the frozen program (its data folder).
SHIPPED = Path(agent.__file__).resolve().parent.parent / "recipes"


def read_recipes(site: Path | None = None) -> tuple[Recipe, ...]:
    """All recipes, strictly read; a site's recipe replaces the shipped one of the same id."""
    if not SHIPPED.is_dir():
        raise UsageError(f"the recipes shipped with this program are not at {SHIPPED}", "install it again")
    return load_all(_texts(SHIPPED), _texts(site) if site else None)


def _texts(folder: Path) -> dict[str, str]:
    files = [folder] if folder.is_file() else sorted(folder.glob("*.toml"))
    return {path.name: path.read_text("utf-8") for path in files}
