"""The shipped recipes: they load, their own tests pass, and what is wrong is refused with its place."""

from __future__ import annotations

import pytest

from agent.model.recipe_test import run_tests
from agent.restore.recipe_folder import read_recipes

SHIPPED = read_recipes()


@pytest.mark.parametrize("recipe", SHIPPED, ids=lambda recipe: recipe.id)
def test_golden_trees(recipe: object) -> None:
    results = run_tests([recipe])  # type: ignore[list-item]
    assert results
    for result in results:
        assert result.ok, f"{result.recipe} [{result.test}]: " + "\n".join(result.failures)
