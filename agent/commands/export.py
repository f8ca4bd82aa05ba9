"""regraft export: an image becomes a disk that a virtual machine starts from."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

from agent.commands.luks_keys import key_source, luks_options
from agent.commands.options import Access, console, depot_options, json_option, parse_image, print_json
from agent.commands.plan import choices_of, edits_option, mode_option, read_profile, recipes_option
from agent.commands.restoring import carry_out, report_json
from agent.console.recorder import Recorder
from agent.console.report_text import difference_table
from agent.depot.catalogue import find_image
from agent.foreign.disk_image import FORMATS
from agent.model.export_target import parse_size
from agent.model.report import Report, well_formed_report
from agent.restore.export import Wish, disk_for, format_of, write_as
from agent.restore.preflight import refuse_blockers


@click.command()
@click.argument("image")
@click.option("--to", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="The file to make: .raw, .img, .qcow2, .vmdk, .vdi, .vhdx or .vhd.")  # fmt: skip
@click.option("--format", "wanted", type=click.Choice(FORMATS), default=None, help="Format; default: by FILE's name.")
@click.option(
    "--target",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="TARGET.xml",
    help="Adapt the system for the machine of this profile; default: the machine of the image.",
)
@click.option("--disk", "selector", default="only-eligible", show_default=True, help="Which disk of the target it is.")
@click.option("--size", default="", metavar="SIZE", help="Size of the disk, such as 20G; default: as large as it was.")
@click.option("--report", "report_path", type=click.Path(dir_okay=False, path_type=Path), metavar="REPORT.json",
              help="Write the report of what was done as JSON.")  # fmt: skip
@luks_options
@mode_option
@recipes_option
@edits_option
@depot_options
@json_option
def export(
    image: str, to: Path, wanted: str | None, target: Path | None, selector: str, size: str, report_path: Path | None,
    luks_passphrases: tuple[str, ...], luks_key_files: tuple[str, ...], mode: str, site_recipes: Path | None,
    edits: Path | None, location: str, token: str, trust: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Make a disk image of an image, or of an image adapted for a target.

    Partition table, file systems, files and boot loader are made as on a restore, into a file that is sparse; it is
    there only when everything in it was written, read back, and proved to be what boots.
    """
    form = format_of(to, wanted or "")
    key_of = key_source(luks_passphrases, luks_key_files, new=True)
    access = Access(location, token, trust)
    depot = access.open()
    keys = access.keys(depot)
    loaded = find_image(depot, keys, parse_image(image))
    machine = read_profile(target) if target else None
    recorder = Recorder([console(as_json)])
    wish = Wish(loaded, machine, selector, parse_size(size) if size else 0, mode, site_recipes,
                choices_of(edits))  # fmt: skip
    with tempfile.TemporaryDirectory(prefix=".regraft-export-", dir=to.parent) as folder:
        raw = Path(folder) / "disk.raw"
        with disk_for(wish, depot, keys, raw) as prepared:
            if not as_json:
                click.echo(difference_table(prepared.difference))
            refuse_blockers(prepared.difference)
            report = carry_out(prepared, recorder, Path(folder) / "root", key_of)
        if report_path:
            report_path.write_bytes(report_json(report))
        if report.exit_code == 0:
            with recorder.phase("export", f"writing {to} as {form}"):
                write_as(raw, to, form)
    if as_json:
        print_json(well_formed_report(report))
    else:
        click.echo(outcome(report, to))
    sys.exit(report.exit_code)


def outcome(report: Report, to: Path) -> str:
    if report.exit_code:
        return f"{to} was not made: {report.error}"
    proved = f"{len(report.checks)} checks of the boot path passed" if report.checks else "it has no kernel to start"
    held = to.stat().st_blocks * 512
    return f"exported {report.image} as {to}: {held:,} bytes on this disk, {proved}"
