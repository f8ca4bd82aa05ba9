"""regraft pin, regraft unpin: images that are never forgotten."""

from __future__ import annotations

import click

from agent.commands.options import directory_option, json_option, parse_image, print_json
from agent.depot.catalogue import with_time
from agent.depot.local import LocalDepot
from agent.depot.location import open_local
from agent.depot.pins import pin as pin_images
from agent.depot.pins import read_pins
from agent.depot.pins import unpin as unpin_images
from agent.errors import NoImageError
from agent.model.image import ImageRef


@click.command()
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@directory_option
@json_option
def pin(images: tuple[str, ...], location: str, as_json: bool) -> None:
    """Protect images from ‘regraft forget’. NAME pins the newest image there is now. Without IMAGE: list the pins."""
    depot = open_local(location, "pinning")
    pins = pin_images(depot, [with_time(depot, parse_image(image)) for image in images]) if images else read_pins(depot)
    if as_json:
        print_json(pins)
        return
    for each in pins:
        click.echo(f"{each.image} pinned since {each.since}")
    if not pins:
        click.echo("nothing is pinned")


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@directory_option
@json_option
def unpin(images: tuple[str, ...], location: str, as_json: bool) -> None:
    """Let pinned images be forgotten again. NAME means all pinned images of a machine."""
    depot = open_local(location, "unpinning")
    refs = [ref for image in images for ref in pinned_by(depot, parse_image(image))]
    unpin_images(depot, refs)
    if as_json:
        print_json([str(ref) for ref in refs])
        return
    for ref in refs:
        click.echo(f"{ref} is not pinned any more")


def pinned_by(depot: LocalDepot, ref: ImageRef) -> list[ImageRef]:
    """What the words name: one image, or every pinned image of a machine."""
    if ref.time:
        return [ref]
    found = [each.image for each in read_pins(depot) if each.machine == ref.machine]
    if not found:
        raise NoImageError(
            f"no image of ‘{ref.machine}’ is pinned in depot {depot.location}", "‘regraft pin’ lists what is pinned"
        )
    return found
