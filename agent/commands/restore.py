"""regraft restore: put an image onto a disk of this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from agent.commands.importing import work_option
from agent.commands.luks_keys import key_source, luks_options
from agent.commands.options import Access, console, depot_options, json_option, parse_image, print_json
from agent.commands.plan import (
    choices_of,
    edits_option,
    layout_options,
    mode_option,
    nic_option,
    prepared_for,
    recipes_option,
    trust_metadata_option,
    wish_of,
)
from agent.commands.rehearse import Outputs, initramfs_option, rehearsed
from agent.commands.restoring import carry_out, report_json
from agent.console.recorder import Recorder
from agent.console.report_text import difference_table, plan_text, report_text
from agent.errors import RefusedError, UsageError
from agent.model.nic_map import parse_wishes
from agent.model.plan import DiskIdentity, Plan, digest
from agent.model.report import well_formed_report
from agent.probe.machine import probe_machine
from agent.restore.preflight import refuse_blockers, refuse_ties
from agent.restore.prepare import RestoreRequest
from agent.restore.rehearse import Extent


@click.command()
@click.argument("image")
@layout_options
@click.option(
    "--erase",
    multiple=True,
    metavar="SERIAL",
    help="Consent: the serial number of the disk to ERASE; of several disks, of each. Without it the plan is "
    "printed and nothing is written.",
)
@click.option(
    "--report",
    "report_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the report of the run to FILE as JSON.",
)
@click.option("--rehearse", is_flag=True, help="Rehearse on a throw-away copy, below --work; no disk is touched.")
@initramfs_option
@work_option
@luks_options
@mode_option
@trust_metadata_option
@recipes_option
@nic_option
@edits_option
@depot_options
@json_option
def restore(
    image: str, selectors: tuple[str, ...], maps: tuple[str, ...], grow: str, arrays: str, erase: tuple[str, ...],
    report_path: Path | None, rehearse: bool, rebuild: bool, work: Path, luks_passphrases: tuple[str, ...],
    luks_key_files: tuple[str, ...], mode: str, trust_metadata: bool, site_recipes: Path | None,
    nics: tuple[str, ...], on_nic_tie: str, edits: Path | None, location: str, token: str, trust: tuple[str, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """Restore an image onto a disk of this machine.

    Without --erase the plan is printed and nothing is written. On a disk that holds an older or a drifted copy of the
    image, with the planned partition table, only what differs is fetched and written.
    """
    if rehearse and erase:
        raise UsageError("--rehearse touches no disk, and --erase asks for it", "give one of them")
    if rebuild and not rehearse:
        raise UsageError("--initramfs belongs to --rehearse", "a restore always rebuilds what it has to")
    wishes = parse_wishes(nics, on_nic_tie)
    key_of = key_source(luks_passphrases, luks_key_files, new=True)
    recorder = Recorder([console(as_json)])
    target = probe_machine("target")
    access = Access(location, token, trust)
    prepared = prepared_for(access, RestoreRequest(
        image=parse_image(image), target=target, selector=selectors[0], mode=mode, site_recipes=site_recipes,
        trust_metadata=trust_metadata, nic_wishes=wishes, choices=choices_of(edits),
        wish=wish_of(selectors, maps, grow, arrays),
    ))  # fmt: skip
    if rehearse:
        rehearsed(prepared, Extent(work, rebuild), Outputs(as_json, report_path))
    if not as_json:
        click.echo(difference_table(prepared.difference))
        click.echo(plan_text(prepared.plan))
    refuse_blockers(prepared.difference)
    refuse_ties(prepared.difference)
    if not erase:
        if as_json:
            print_json({"digest": digest(prepared.plan), "plan": prepared.plan})
        else:
            words = " ".join(f"--erase {erase_word(each)}" for each in prepared.plan.disks)
            click.echo(f"Nothing was written. To ERASE {this(prepared.plan)}: {words}")
        return
    refuse_wrong_consent(prepared.plan, erase)
    report = carry_out(prepared, recorder, key_of=key_of)
    if report_path:
        report_path.write_bytes(report_json(report))
    if as_json:
        print_json(well_formed_report(report))
    else:
        click.echo(report_text(report))
    sys.exit(report.exit_code)


def this(plan: Plan) -> str:
    return "these disks" if plan.also else "this disk"


def erase_word(disk: DiskIdentity) -> str:
    """What consent names: the serial number, or the kernel name of a disk that has none."""
    return disk.serial or disk.name


def refuse_wrong_consent(plan: Plan, erase: tuple[str, ...]) -> None:
    """Consent names every disk that is erased, and no other."""
    wanted = [erase_word(disk) for disk in plan.disks]
    if sorted(erase) != sorted(wanted):
        erased = "; ".join(f"{disk.model} with serial ‘{erase_word(disk)}’" for disk in plan.disks)
        named = ", ".join(f"‘{each}’" for each in erase)
        what = "the disks that the plan erases are" if plan.also else "the disk that the plan erases is"
        raise RefusedError(
            f"--erase names {named}, but {what} {erased}",
            "nothing was written; name the serial number of every disk that may be erased",
        )
