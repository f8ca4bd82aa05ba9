"""regraft import: an image of another program becomes an image of the depot, with a source profile."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from agent.commands.capture import capture_source, refuse_bad_name, refuse_silence
from agent.commands.options import Access, console, depot_options, json_option, print_json
from agent.console.recorder import Recorder
from agent.foreign.source import KINDS, ForeignImage, foreign_source

WORK = Path("/var/tmp")

work_option = click.option(
    "--work",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=WORK,
    show_default=True,
    metavar="DIR",
    help="Where what must be unpacked lies meanwhile; needs room for it, on a file system with attributes.",
)


@click.command("import")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--name", required=True, help="Name of the machine in the depot.")
@click.option("--format", "kind", type=click.Choice(KINDS), default=None, help="What SOURCE is; default: look.")
@click.option("--disk", default="", metavar="NAME", help="Of a Clonezilla image with several disks, the system's: sda.")
@click.option(
    "--replay",
    is_flag=True,
    help="Play journals back that were not written back (the image of a machine that ran), on a copy.",
)
@work_option
@depot_options
@json_option
def import_(
    source: Path, name: str, kind: str | None, disk: str, replay: bool, work: Path, location: str, token: str,
    trust: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Make an image of what another program made.

    SOURCE is a disk image (raw, qcow2, vmdk, vdi, vhdx, vpc), a root file system in a tar archive, or a Clonezilla
    image directory. It is only read. The source profile describes the system in it; what its hardware was it says
    only as far as the source tells.
    """
    refuse_bad_name(name)
    recorder = Recorder([] if as_json else [console(as_json)])
    image = ForeignImage(source, kind or "", disk, replay)
    with tempfile.TemporaryDirectory(prefix="regraft-import-", dir=work) as folder:
        recorder.message(f"reading {source}", "profile")
        with foreign_source(image, name, Path(folder), recorder) as found:
            result = capture_source(Access(location, token, trust), found, recorder)
    if as_json:
        print_json(result)
    else:
        click.echo(f"imported {source} as {result.ref}")
    refuse_silence(result)
