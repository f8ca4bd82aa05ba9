"""regraft recipe: the adaptations themselves."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from agent.model.recipe_test import run_tests
from agent.restore.recipe_folder import read_recipes


@click.group()
def recipe() -> None:
    """Test the adaptations."""


@recipe.command("test")
@click.argument("directory", required=False, type=click.Path(exists=True, path_type=Path))
def test_recipes(directory: Path | None) -> None:
    """Run every recipe's own test: those shipped, and those in DIRECTORY. Needs no machine and no root."""
    failed = 0
    for result in run_tests(read_recipes(directory)):
        failed += not result.ok
        click.echo(f"{'ok    ' if result.ok else 'FAILED'} {result.recipe}: {result.test}")
        for failure in result.failures:
            click.echo(f"         {failure}")
    if failed:
        click.echo(f"{failed} tests failed")
        sys.exit(1)
