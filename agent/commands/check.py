"""regraft check: whether a depot is whole, and what damage spoils."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from agent.commands.options import Access, console, depot_options, json_option, parse_image, print_json
from agent.console.recorder import Recorder
from agent.depot.catalogue import images as list_images
from agent.depot.catalogue import with_time
from agent.depot.components_check import component_problems
from agent.depot.location import open_depot, open_local
from agent.depot.recipe_bundle import bundle_problems
from agent.depot.store import RECIPES_FILE, Depot
from agent.errors import DamagedError
from agent.image.check import CheckReport, Finding, catalogue_findings, check_images
from agent.image.check_work import DEPTHS, PACKS, STRUCTURE
from agent.model.image import ImageRef
from agent.model.wording import amount_text, duration_text, printable

SHOWN_FILES = 10


@click.command()
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@click.option("--depth", type=click.Choice(DEPTHS), default=PACKS, show_default=True,
              help="structure: signatures, listings, packs' tables; packs: every byte's digest; decode: unfold every "
              "frame and compute every chunk's id.")  # fmt: skip
@click.option("--heal-from", "other", metavar="PATH|URL", help="A depot whose good copies replace what is damaged.")
@click.option("--heal-token", default="", metavar="TOKEN", help="Token for that depot.")
@depot_options
@json_option
def check(
    images: tuple[str, ...], depth: str, other: str | None, heal_token: str, location: str, token: str,
    trust: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Check images, or with none named the whole depot: that all of it is there and right.

    Tells which images, volumes and files a damaged pack spoils. Exit code 22 when something is not right.
    """
    access = Access(location, token, trust)
    depot = access.open() if other is None else open_local(location, "healing")
    keys = access.keys(depot)
    refs = named(depot, images)
    recorder = Recorder([] if as_json else [console(as_json)])
    with recorder.phase("check", f"checking {len(refs)} images of {location}, depth {depth}"):
        source = open_depot(other, heal_token) if other else None
        report = check_images(depot, keys, refs, depth, recorder, source)
        beside = () if images else (
            *catalogue_findings(depot),
            *(Finding(path, said) for path, said in component_problems(depot, keys, digests=depth != STRUCTURE)),
            *(Finding(RECIPES_FILE, said) for said in bundle_problems(depot, keys)),
        )  # fmt: skip
    findings = (*report.findings, *beside)
    if as_json:
        print_json({"report": report, "beside_images": beside, "good": not findings})
        sys.exit(DamagedError.exit_code if findings else 0)
    click.echo("\n".join(report_lines(report, findings)))
    if findings:
        raise DamagedError(
            f"found {len(findings)} faults in depot {location}, expected 0",
            "heal them with --heal-from a second depot; an image that cannot be healed is forgotten and made again",
        )


def named(depot: Depot, images: tuple[str, ...]) -> list[ImageRef]:
    """The images to check: those named, NAME meaning the newest; or all."""
    if images:
        return list(dict.fromkeys(with_time(depot, parse_image(image)) for image in images))
    return [ImageRef(each.machine, each.time) for each in list_images(depot)]


def report_lines(report: CheckReport, findings: tuple[Finding, ...]) -> Iterator[str]:
    """What was looked at, what was healed, what is wrong."""
    for path in report.healed:
        yield f"healed: {path}"
    for each in findings:
        yield f"NOT RIGHT: {printable(each.path)}"
        yield f"  {printable(each.problem)}"
        if each.not_healed:
            yield f"  not healed: {printable(each.not_healed)}"
        if each.volumes or each.images:
            yield f"  spoils {', '.join(each.volumes or each.images)}"
        if each.file_count == 0:
            yield "  spoils no file: nothing that is needed lies there"
        elif each.file_count > 0:
            yield f"  {each.file_count:,} files:"
            yield from (f"    {printable(path)}" for path in each.files[:SHOWN_FILES])
            if each.file_count > SHOWN_FILES:
                yield f"    … and {each.file_count - SHOWN_FILES:,} more; --json lists them"
    spoilt = {image for each in findings for image in each.images}
    yield (
        f"{report.images:,} images, {report.listings:,} listings, {report.packs:,} packs checked, "
        f"{amount_text(report.bytes_read)} read in {duration_text(report.seconds)}: "
        + (f"{len(spoilt):,} images are spoilt" if findings else "all is right")
    )
