"""regraft diff, regraft plan: everything that is decided before the first write, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from agent.commands.options import (
    Access,
    depot_options,
    json_option,
    one_document,
    parse_image,
    print_json,
    write_or_print,
)
from agent.console.report_text import difference_table, plan_text
from agent.model.grow import LARGEST, parse_grow
from agent.model.plan import digest
from agent.model.profile import Profile
from agent.model.profile_xml import load_profile
from agent.model.spread import NO_WISH, Wish, parse_map
from agent.probe.machine import probe_machine
from agent.restore.preflight import refuse_blockers
from agent.restore.prepare import Prepared, prepare

mode_option = click.option("--mode", type=click.Choice(["restore", "clone"]), default="restore", show_default=True,
                           help="restore keeps the identity of the machine, clone renews it.")  # fmt: skip
trust_metadata_option = click.option(
    "--trust-metadata", is_flag=True,
    help="On a disk that holds the image already: keep files of the right size, time, mode and owner unread.",
)  # fmt: skip
DISK_HELP = (
    "serial=…, wwn=…, path=…, name=… or only-eligible; must leave exactly one disk. May be given again for further "
    "disks; the first is the one that boots."
)
Command = TypeVar("Command", bound=Callable[..., None])


def layout_options(command: Command) -> Command:
    """--disk, --map and --grow: where the image goes."""
    options: tuple[Callable[[Command], Command], ...] = (
        click.option("--grow", default=LARGEST, show_default=True, metavar="POLICY",
                     help="Who gets the space of a larger disk: largest, last, proportional, none, or a volume by its "
                     "mount point or name."),
        click.option("--map", "maps", multiple=True, metavar="WHAT=SELECTOR",
                     help="Which disk a disk or volume of the image goes to: vdb=serial=S2, /srv=serial=S2."),
        click.option("--disk", "selectors", multiple=True, required=True, metavar="SELECTOR", help=DISK_HELP),
    )  # fmt: skip
    for option in options:
        command = option(command)
    return command


def wish_of(selectors: tuple[str, ...], maps: tuple[str, ...], grow: str) -> Wish:
    """What the options say of the layout."""
    return Wish(parse_grow(grow), selectors[1:], tuple(parse_map(each) for each in maps))


recipes_option = click.option("--recipes", "site_recipes", type=click.Path(exists=True, path_type=Path), metavar="DIR",
                              help="Recipes of the site, added to those shipped.")  # fmt: skip


@click.command()
@click.argument("image")
@click.argument("target", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="TARGET.xml")
@click.option("--disk", "selector", default="only-eligible", show_default=True, help="Target disk; see ‘regraft plan’.")
@click.option("--xml", "as_xml", is_flag=True, help="Print the difference document.")
@mode_option
@recipes_option
@depot_options
@json_option
def diff(
    image: str, target: Path, selector: str, as_xml: bool, mode: str, site_recipes: Path | None, location: str,
    token: str, trust: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Show how a target differs from the machine an image was made of, and what handles each difference."""
    prepared = prepared_for(Access(location, token, trust), image, read_profile(target), selector, mode, site_recipes)
    if as_json:
        print_json(prepared.difference)
    elif as_xml:
        write_or_print(prepared.difference_xml, None)
    else:
        click.echo(difference_table(prepared.difference))


@click.command()
@click.argument("image")
@click.option(
    "--target",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="TARGET.xml",
    help="Profile of the target; default: this machine.",
)
@layout_options
@mode_option
@trust_metadata_option
@recipes_option
@depot_options
@json_option
def plan(
    image: str, target: Path | None, selectors: tuple[str, ...], maps: tuple[str, ...], grow: str, mode: str,
    trust_metadata: bool, site_recipes: Path | None, location: str, token: str, trust: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Show every step of a restore; writes nothing."""
    profile = read_profile(target) if target else probe_machine("target")
    access = Access(location, token, trust)
    wish = wish_of(selectors, maps, grow)
    prepared = prepared_for(access, image, profile, selectors[0], mode, site_recipes, trust_metadata, wish)
    if as_json:
        with one_document({"digest": digest(prepared.plan), "plan": prepared.plan}):
            refuse_blockers(prepared.difference)
        return
    click.echo(difference_table(prepared.difference))
    click.echo(plan_text(prepared.plan))
    refuse_blockers(prepared.difference)


def read_profile(path: Path) -> Profile:
    return load_profile(path.read_bytes())


def prepared_for(
    access: Access, image: str, target: Profile, selector: str, mode: str, site_recipes: Path | None,
    trust_metadata: bool = False, wish: Wish = NO_WISH,
) -> Prepared:  # fmt: skip
    depot = access.open()
    ref = parse_image(image)
    return prepare(depot, access.keys(depot), ref, target, selector, mode, site_recipes, trust_metadata, wish)
