"""regraft rehearse: a restore without its disk, on a throw-away copy, for a machine that need not be here."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import click

from agent.commands.importing import work_option
from agent.commands.options import Access, console, depot_options, json_option, parse_image, print_json
from agent.commands.plan import (
    choices_of,
    edits_option,
    layout_options_for_profiles,
    mode_option,
    nic_option,
    prepared_for,
    read_profile,
    recipes_option,
    wish_of,
)
from agent.commands.restoring import report_json
from agent.console.recorder import Recorder
from agent.console.report_html import report_html
from agent.console.report_text import report_text
from agent.model.nic_map import parse_wishes
from agent.model.report import Report, well_formed_report
from agent.model.target_disk import as_from_the_medium
from agent.restore.prepare import Prepared, RestoreRequest
from agent.restore.rehearse import Extent, Rehearsal

initramfs_option = click.option("--initramfs", "rebuild", is_flag=True,
                                help="Also rebuild the initramfs, which takes longest, and look into it.")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where a report goes."""

    as_json: bool
    report: Path | None = None
    html: Path | None = None


@click.command()
@click.argument("image")
@click.argument("target", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="TARGET.xml")
@layout_options_for_profiles
@initramfs_option
@click.option("--decisions", is_flag=True, help="Decide and check the depot only; no copy is made. Needs no root.")
@click.option("--report", "report_path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write the report to FILE as JSON.")  # fmt: skip
@click.option("--html", "html_path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.html",
              help="Write the report as a page to read and to print.")  # fmt: skip
@work_option
@mode_option
@recipes_option
@nic_option
@edits_option
@depot_options
@json_option
def rehearse(
    image: str, target: Path, selectors: tuple[str, ...], maps: tuple[str, ...], grow: str, arrays: str, rebuild: bool,
    decisions: bool, report_path: Path | None, html_path: Path | None, work: Path, mode: str,
    site_recipes: Path | None, nics: tuple[str, ...], on_nic_tie: str, edits: Path | None, location: str, token: str,
    trust: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Rehearse a restore for the machine of a profile, which need not be here.

    The difference, the plan, every recipe and its checks are carried out on a throw-away copy of the image's files; no
    disk is touched. The report says everything that would stop the restore, and the exit code is the restore's.
    """
    wishes = parse_wishes(nics, on_nic_tie)
    access = Access(location, token, trust)
    profile = read_profile(target)
    profile = replace(profile, disks=as_from_the_medium(profile.disks))
    prepared = prepared_for(access, RestoreRequest(
        image=parse_image(image), target=profile, selector=selectors[0], mode=mode, site_recipes=site_recipes,
        nic_wishes=wishes, choices=choices_of(edits), wish=wish_of(selectors, maps, grow, arrays),
    ))  # fmt: skip
    rehearsed(prepared, Extent(None if decisions else work, rebuild), Outputs(as_json, report_path, html_path))


def rehearsed(prepared: Prepared, extent: Extent, outputs: Outputs) -> NoReturn:
    """Rehearse, leave the report everywhere it belongs, and end with a restore's exit code."""
    report = Rehearsal(prepared, extent, Recorder([] if outputs.as_json else [console(False)])).run()
    if outputs.report:
        outputs.report.write_bytes(report_json(report))
    if outputs.html:
        outputs.html.write_text(report_html(report), "utf-8")
    show(report, outputs.as_json)
    sys.exit(report.exit_code)


def show(report: Report, as_json: bool) -> None:
    if as_json:
        print_json(well_formed_report(report))
    else:
        click.echo(report_text(report))
