"""regraft extract: files out of an image."""

from __future__ import annotations

from pathlib import Path

import click

from agent.commands.options import Access, console, depot_options, json_option, parse_image, print_json
from agent.console.recorder import Recorder
from agent.depot.catalogue import find_image
from agent.image.extract import Existing
from agent.image.extract import extract as extract_paths


@click.command()
@click.argument("image")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--to", "target", required=True, type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Directory to write into; made when it does not exist.")  # fmt: skip
@click.option(
    "--trust-metadata",
    is_flag=True,
    help="Keep files in DIR that have the right size, time, mode and owner; they are not read.",
)
@click.option("--delete", is_flag=True, help="Remove from DIR what is not in the image; without PATH only.")
@depot_options
@json_option
def extract(image: str, paths: tuple[str, ...], target: Path, trust_metadata: bool, delete: bool, location: str,
            token: str, trust: tuple[str, ...], as_json: bool) -> None:  # fmt: skip
    """Take files out of an image, complete with metadata. Without PATH: everything.

    Files that are in DIR already are read and compared, and written where they differ.
    """
    access = Access(location, token, trust)
    depot = access.open()
    loaded = find_image(depot, access.keys(depot), parse_image(image))
    recorder = Recorder([] if as_json else [console(as_json)])
    with recorder.phase("write", f"extracting {loaded.manifest.ref} to {target}"):
        result = extract_paths(depot, loaded, paths, target, recorder, Existing(trust_metadata, delete))
    if as_json:
        print_json(result)
