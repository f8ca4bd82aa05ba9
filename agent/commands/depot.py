"""regraft depot: make a depot."""

from __future__ import annotations

from pathlib import Path

import click

from agent.commands.options import json_option, print_json
from agent.depot.local import LocalDepot


@click.group()
def depot() -> None:
    """Make a depot."""


@depot.command("init")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@json_option
def init_depot(directory: Path, as_json: bool) -> None:
    """Make an empty depot in DIRECTORY and the key that signs what it publishes."""
    made = LocalDepot.init(directory)
    if as_json:
        print_json(made.info)
        return
    click.echo(f"depot {made.id} in {directory}")
    click.echo(f"its public key, for other machines' --trust: {made.public_key}")
