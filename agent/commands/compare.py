"""regraft compare: what changed between two images."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict

import click
import msgspec

from agent.commands.options import Access, depot_options, json_option, parse_image, print_json_list, reader_may_leave
from agent.console.changes_text import SHOWN, file_lines, section_lines
from agent.depot.catalogue import LoadedImage, find_image
from agent.image.compare import FileChanges, file_changes
from agent.image.image_tree import skipped_volumes
from agent.model.image_changes import SectionChanges, profile_changes


@click.command()
@click.argument("old")
@click.argument("new")
@click.option("--all", "show_all", is_flag=True, help=f"Every change; otherwise {SHOWN} of each section.")
@depot_options
@json_option
def compare(old: str, new: str, show_all: bool, location: str, token: str, trust: tuple[str, ...],
            as_json: bool) -> None:  # fmt: skip
    """Compare two images: what came, went or changed from OLD to NEW.

    Files by content and metadata, those below /etc on their own; packages, kernels, services and network as the
    images' profiles have them. Differences are no error: the exit code is 0.
    """
    access = Access(location, token, trust)
    depot = access.open()
    keys = access.keys(depot)
    one, other = (find_image(depot, keys, parse_image(image)) for image in (old, new))
    sections = profile_changes(one.profile, other.profile)
    with file_changes(depot, one, other) as files, reader_may_leave():
        if as_json:
            print_changes(one, other, sections, files)
            return
        for line in changes_lines(one, other, sections, files, sys.maxsize if show_all else SHOWN):
            sys.stdout.write(line + "\n")


def changes_lines(
    one: LoadedImage, other: LoadedImage, sections: tuple[SectionChanges, ...], files: FileChanges, limit: int
) -> Iterator[str]:
    yield f"from {one.manifest.ref} to {other.manifest.ref}"
    for image in (one, other):
        for volume in skipped_volumes(image):
            yield f"volume {volume.id} of {image.manifest.ref} holds {volume.kind}, not files: it is not compared"
    for section in sections:
        yield from section_lines(section, limit)
    configuration = (change for change in files if change.is_configuration)
    yield from file_lines("CONFIGURATION: FILES BELOW /etc", files.configuration, configuration, limit)
    others = (change for change in files if not change.is_configuration)
    yield from file_lines("OTHER FILES", files.files, others, limit)


def print_changes(
    one: LoadedImage, other: LoadedImage, sections: tuple[SectionChanges, ...], files: FileChanges
) -> None:
    """One JSON document; the files come last and one at a time, however many they are."""
    head = {
        "old": str(one.manifest.ref),
        "new": str(other.manifest.ref),
        "sections": sections,
        "counts": {"configuration": asdict(files.configuration), "files": asdict(files.files)},
    }
    sys.stdout.write(msgspec.json.encode(head).decode()[:-1])
    sys.stdout.write(',"configuration":')
    print_json_list(change for change in files if change.is_configuration)
    sys.stdout.write(',"files":')
    print_json_list(change for change in files if not change.is_configuration)
    sys.stdout.write("}\n")
