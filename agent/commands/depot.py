"""regraft depot: make a depot, and its catalogue again."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from agent.commands.options import json_option, print_json
from agent.depot.local import LocalDepot
from agent.depot.location import open_local
from agent.depot.reindex import reindex as make_catalogue
from agent.depot.signing import trusted_keys
from agent.errors import WarningsError
from agent.model.wording import printable


@click.group()
def depot() -> None:
    """Make a depot; make its catalogue again."""


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


@depot.command("reindex")
@click.argument("directory", type=click.Path(file_okay=False))
@json_option
def reindex(directory: str, as_json: bool) -> None:
    """Make the catalogue of the depot in DIRECTORY again, from the signed files that lie there.

    For a catalogue that is damaged or does not fit; ‘regraft check’ tells. Exit code 3 when something was left out.
    """
    depot = open_local(directory, "making a catalogue")
    found = make_catalogue(depot, trusted_keys(depot))
    if as_json:
        print_json(found)
    else:
        click.echo(f"{found.images} images, {found.profiles} profiles, {found.components} components")
        for path, reason in found.left_out:
            click.echo(f"left out: {printable(path)}: {printable(reason)}")
    if found.left_out and not as_json:
        raise WarningsError(f"{len(found.left_out)} files were left out of the catalogue, expected 0")
    sys.exit(WarningsError.exit_code if found.left_out else 0)
