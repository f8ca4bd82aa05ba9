"""regraft component: software that hardware may need."""

from __future__ import annotations

from pathlib import Path

import click

from agent.commands.options import Access, depot_options, json_option, print_json
from agent.depot.components import add_package, list_components


@click.group()
def component() -> None:
    """Add and list software that hardware may need."""


@component.command("add")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@depot_options
@json_option
def add(files: tuple[Path, ...], location: str, token: str, trust: tuple[str, ...], as_json: bool) -> None:
    """Add packages to the depot; what each provides is derived from the package itself."""
    depot = Access(location, token, trust).open_writable()
    added = [add_package(depot, path) for path in files]
    if as_json:
        print_json(added)
        return
    for one in added:
        click.echo(
            f"{one.id} {one.version}: {one.kind}, {len(one.modules)} modules, {len(one.modaliases)} modaliases, "
            f"{len(one.firmware)} firmware files"
        )


@component.command("list")
@depot_options
@json_option
def list_all(location: str, token: str, trust: tuple[str, ...], as_json: bool) -> None:
    """List the components of the depot."""
    access = Access(location, token, trust)
    depot = access.open()
    found = list_components(depot, access.keys(depot))
    if as_json:
        print_json(found)
        return
    for one in found:
        click.echo(f"{one.id} {one.version} {one.kind} {one.for_os or 'any system'} {one.kernel_release}")
