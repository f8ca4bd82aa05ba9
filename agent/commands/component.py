"""regraft component: software that hardware may need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from agent.commands.options import Access, depot_options, directory_option, json_option, print_json
from agent.console.component_text import component_text, components_table
from agent.depot.components import Added, Said, add_component, find_component, list_components, remove_component
from agent.depot.location import open_local
from agent.depot.signing import trusted_keys
from agent.errors import UsageError


@click.group()
def component() -> None:
    """Add, list, show and remove software that hardware may need."""


@component.command("add")
@click.argument("files", nargs=-1, required=True, metavar="FILE|DIRECTORY...",
                type=click.Path(exists=True, path_type=Path))  # fmt: skip
@click.option("--for-os", default="", metavar="ID[ VERSION]", help="Only for this system, such as ‘debian 12’.")
@click.option("--model", "models", multiple=True, metavar="VENDOR:PRODUCT",
              help="Only for machines of these names (globs), preferred there; may be repeated.")  # fmt: skip
@click.option("--as", "kind", type=click.Choice(["auto", "firmware", "driver"]), default="auto", show_default=True,
              help="Of a directory or archive: firmware puts everything below lib/firmware.")  # fmt: skip
@click.option("--id", "ident", default="", metavar="NAME", help="Name of a directory or archive; default: its own.")
@click.option("--version", default="", help="Version of a directory or archive; default: as its name ends.")
@depot_options
@json_option
def add(
    files: tuple[Path, ...], for_os: str, models: tuple[str, ...], kind: str, ident: str, version: str,
    location: str, token: str, trust: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Add packages, firmware or drivers to the depot; what each provides is derived from its files.

    FILE is a .deb, an .rpm or a tar archive, DIRECTORY holds files: firmware below lib/firmware, or modules (.ko)
    that were built for a kernel. The source of a driver is refused: build it first.
    """
    if (ident or version) and len(files) > 1:
        raise UsageError("--id and --version name one component", "add the others by a command of their own")
    said = Said(ident, version, for_os, kind, tuple(map(parse_model, models)))
    depot = Access(location, token, trust).open_writable()
    added = [add_component(depot, path, said) for path in files]
    if as_json:
        print_json([without_control(one) for one in added])
        return
    for one in added:
        click.echo(added_text(one))


def parse_model(text: str) -> tuple[str, str]:
    """``Dell*:OptiPlex 7090``."""
    vendor, colon, product = text.partition(":")
    if not colon or not vendor or not product:
        raise UsageError(f"--model ‘{text}’ is not understood; expected VENDOR:PRODUCT such as ‘Dell*:OptiPlex 70*’")
    return vendor, product


def added_text(added: Added) -> str:
    one = added.component
    lines = [
        f"{one.id} {one.version}: {one.kind}, {len(one.modules)} modules, {len(one.modaliases)} modaliases, "
        f"{len(one.firmware)} firmware files"
    ]
    if added.left_out:
        names = ", ".join(added.left_out[:5]) + (", …" if len(added.left_out) > 5 else "")
        lines.append(f"  not installed: {len(added.left_out)} files that are neither modules nor firmware: {names}")
    return "\n".join(lines)


def without_control(added: Added) -> dict[str, object]:
    table: dict[str, object] = msgspec.to_builtins(added.component)
    return {**table, "left_out": added.left_out}


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
    else:
        click.echo(components_table(found) if found else "no components; add some with ‘regraft component add’")


@component.command()
@click.argument("name", metavar="ID[=VERSION]")
@depot_options
@json_option
def show(name: str, location: str, token: str, trust: tuple[str, ...], as_json: bool) -> None:
    """Show what a component is, for what, what it provides and what it needs."""
    access = Access(location, token, trust)
    depot = access.open()
    found = find_component(list_components(depot, access.keys(depot)), name)
    if as_json:
        print_json(found)
    else:
        click.echo(component_text(found))


@component.command()
@click.argument("names", nargs=-1, required=True, metavar="ID[=VERSION]...")
@click.option("--delete", is_flag=True, help="Consent: REMOVE them. Without it nothing is removed.")
@directory_option
@json_option
def remove(names: Sequence[str], delete: bool, location: str, as_json: bool) -> None:
    """Remove components from the depot: plans that take them can no longer be carried out."""
    depot = open_local(location, "removing components")
    known = list_components(depot, trusted_keys(depot, ()))
    going = list(dict.fromkeys((found.id, found.version) for name in names for found in [find_component(known, name)]))
    if delete:
        for ident, version in going:
            remove_component(depot, ident, version)
    if as_json:
        print_json({"components": [f"{ident}={version}" for ident, version in going], "removed": delete})
        return
    for ident, version in going:
        click.echo(f"{ident} {version}")
    click.echo(f"{len(going)} removed." if delete else "Nothing was removed. To REMOVE them: --delete")
