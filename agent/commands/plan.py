"""regraft diff, regraft plan: everything that is decided before the first write, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from agent.commands.options import (
    Access,
    Command,
    depot_options,
    json_option,
    one_document,
    parse_image,
    print_json,
    with_options,
    write_or_print,
)
from agent.console.difference_html import difference_html
from agent.console.edits_template import edits_template
from agent.console.report_text import difference_table, plan_text
from agent.errors import UsageError
from agent.model.choices import NONE, Choices, read_choices
from agent.model.grow import LARGEST, parse_grow
from agent.model.nic_map import ORDER, STOP, parse_wishes
from agent.model.plan import digest
from agent.model.profile import Profile
from agent.model.profile_xml import load_profile
from agent.model.spread import Wish, parse_map
from agent.model.stack_layout import KEEP, PLAIN
from agent.probe.machine import probe_machine
from agent.restore.preflight import refuse_blockers, refuse_ties
from agent.restore.prepare import Prepared, RestoreRequest, prepare

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


def layout_options(command: Command) -> Command:
    """--disk, --map, --grow and --arrays: where the image goes, and how large it becomes."""
    disk = click.option("--disk", "selectors", multiple=True, required=True, metavar="SELECTOR", help=DISK_HELP)
    return disk(_placing(command, _usual))


def layout_options_of_jobs(command: Command) -> Command:
    """The same for a job, which leaves to the medium what it does not say: None then."""
    disk = click.option("--disk", "selectors", multiple=True, required=True, metavar="SELECTOR", help=DISK_HELP)
    return disk(_placing(command, _by_the_medium))


def layout_options_for_profiles(command: Command) -> Command:
    """The same for what writes no disk: without --disk it is the only one that a restore could take."""
    disk = click.option("--disk", "selectors", multiple=True, default=("only-eligible",), show_default=True,
                        metavar="SELECTOR", help=DISK_HELP)  # fmt: skip
    return disk(_placing(command, _usual))


def _placing(command: Command, default: Default) -> Command:
    options: tuple[Callable[[Command], Command], ...] = (
        click.option("--arrays", type=click.Choice([PLAIN, KEEP]), **default(PLAIN),
                     help="md RAID: plain puts what lies on an array onto one disk's partition; keep makes a RAID 1, "
                     "with a member on each --disk, or on one disk with the others missing, to be added later."),
        click.option("--grow", **default(LARGEST), metavar="POLICY",
                     help="Who gets the space of a larger disk: largest, last, proportional, none, or a volume by its "
                     "mount point or name."),
        click.option("--map", "maps", multiple=True, metavar="WHAT=SELECTOR",
                     help="Which disk a disk or volume of the image goes to: vdb=serial=S2, /srv=serial=S2."),
    )  # fmt: skip
    return with_options(command, options)


Default = Callable[[str], dict[str, Any]]  # the usual value of an option → how click is told of its default


def _usual(value: str) -> dict[str, Any]:
    return {"default": value, "show_default": True}


def _by_the_medium(_: str) -> dict[str, Any]:
    """Of a job, where the machine's medium has a word to say."""
    return {"default": None, "show_default": "as the machine’s medium says"}


def wish_of(selectors: tuple[str, ...], maps: tuple[str, ...], grow: str, arrays: str) -> Wish:
    """What the options say of the layout."""
    return Wish(parse_grow(grow), selectors[1:], tuple(parse_map(each) for each in maps), arrays)


recipes_option = click.option("--recipes", "site_recipes", type=click.Path(exists=True, path_type=Path), metavar="DIR",
                              help="Recipes of the site, added to those shipped.")  # fmt: skip

edits_option = click.option("--edits", "edits", type=click.Path(exists=True, dir_okay=False, path_type=Path),
                            metavar="EDITS.toml", help="Decide otherwise: what is skipped, cards, disk, components; "
                            "see ‘regraft plan --write-edits’.")  # fmt: skip


def nic_option(command: Command) -> Command:
    """--nic and --on-nic-tie, handed on as ``nics`` and ``on_nic_tie``."""
    return _cards(command, _usual)


def nic_option_of_jobs(command: Command) -> Command:
    """The same for a job: ``on_nic_tie`` is None where the medium decides."""
    return _cards(command, _by_the_medium)


def _cards(command: Command, default: Default) -> Command:
    options: tuple[Callable[[Command], Command], ...] = (
        click.option("--on-nic-tie", "on_nic_tie", type=click.Choice([STOP, ORDER]), **default(STOP),
                     help="Where several cards fit equally well: stop, or take the first in the order of the slots."),
        click.option("--nic", "nics", multiple=True, metavar="OLD=NEW",
                     help="Interface or old MAC address = MAC address of the card that takes its place, or ‘none’; "
                          "may be given several times."),
    )  # fmt: skip
    return with_options(command, options)


@click.command()
@click.argument("image")
@click.argument("target", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="TARGET.xml")
@layout_options_for_profiles
@click.option("--xml", "as_xml", is_flag=True, help="Print the difference document.")
@click.option("--html", "html_path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.html",
              help="Write the difference as a page to read and to print.")  # fmt: skip
@mode_option
@recipes_option
@nic_option
@edits_option
@depot_options
@json_option
def diff(
    image: str, target: Path, selectors: tuple[str, ...], maps: tuple[str, ...], grow: str, arrays: str, as_xml: bool,
    html_path: Path | None, mode: str, site_recipes: Path | None, nics: tuple[str, ...], on_nic_tie: str,
    edits: Path | None, location: str, token: str, trust: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Show how a target differs from the machine an image was made of, and what handles each difference."""
    wishes = parse_wishes(nics, on_nic_tie)
    access = Access(location, token, trust)
    prepared = prepared_for(access, RestoreRequest(
        image=parse_image(image), target=read_profile(target), selector=selectors[0], mode=mode,
        site_recipes=site_recipes, nic_wishes=wishes, choices=choices_of(edits),
        wish=wish_of(selectors, maps, grow, arrays),
    ))  # fmt: skip
    if html_path:
        html_path.write_text(difference_html(prepared.plan, prepared.difference), "utf-8")
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
@click.option("--write-edits", "template", type=click.Path(dir_okay=False, path_type=Path), metavar="EDITS.toml",
              help="Write what may be decided otherwise as a commented file, for --edits.")  # fmt: skip
@mode_option
@trust_metadata_option
@recipes_option
@nic_option
@edits_option
@depot_options
@json_option
def plan(
    image: str, target: Path | None, selectors: tuple[str, ...], maps: tuple[str, ...], grow: str, arrays: str,
    template: Path | None, mode: str, trust_metadata: bool, site_recipes: Path | None, nics: tuple[str, ...],
    on_nic_tie: str, edits: Path | None, location: str, token: str, trust: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Show every step of a restore; writes nothing to a disk."""
    wishes = parse_wishes(nics, on_nic_tie)
    profile = read_profile(target) if target else probe_machine("target")
    access = Access(location, token, trust)
    prepared = prepared_for(access, RestoreRequest(
        image=parse_image(image), target=profile, selector=selectors[0], mode=mode, site_recipes=site_recipes,
        trust_metadata=trust_metadata, nic_wishes=wishes, choices=choices_of(edits),
        wish=wish_of(selectors, maps, grow, arrays),
    ))  # fmt: skip
    if template:
        write_template(
            template,
            edits_template(
                prepared.plan, prepared.difference, profile, [disk.name for disk in prepared.loaded.manifest.disks]
            ),
        )
    if as_json:
        with one_document({"digest": digest(prepared.plan), "plan": prepared.plan}):
            refuse_blockers(prepared.difference)
            refuse_ties(prepared.difference)
        return
    click.echo(difference_table(prepared.difference))
    click.echo(plan_text(prepared.plan))
    refuse_blockers(prepared.difference)
    refuse_ties(prepared.difference)


def read_profile(path: Path) -> Profile:
    return load_profile(path.read_bytes())


def prepared_for(access: Access, request: RestoreRequest) -> Prepared:
    depot = access.open()
    return prepare(depot, access.keys(depot), request)


def choices_of(path: Path | None) -> Choices:
    """What the operator decided otherwise; nothing without a file."""
    return read_choices(path.read_text("utf-8", "replace"), path.name) if path else NONE


def write_template(path: Path, text: str) -> None:
    """Into a new file: an operator's own is never lost."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{path} exists already", "choose another name, or remove it") from None
