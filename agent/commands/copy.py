"""regraft copy: images from one depot to another."""

from __future__ import annotations

import click

from agent.commands.options import Access, console, depot_options, json_option, parse_image, print_json
from agent.console.recorder import Recorder
from agent.depot.catalogue import images as list_images
from agent.depot.catalogue import with_time
from agent.depot.copy_recipes import copy_recipes
from agent.depot.location import open_writable
from agent.depot.store import Depot, read_info
from agent.errors import UsageError
from agent.image.copy import CopyResult, copy_image
from agent.model.image import ImageRef
from agent.model.wording import size_text


@click.command()
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@click.option("--all", "everything", is_flag=True, help="Copy every image of the depot.")
@click.option("--to", "target", required=True, metavar="PATH|URL", help="The depot to copy to.")
@click.option("--to-token", envvar="REGRAFT_TO_TOKEN", default="", metavar="TOKEN",
              help="Token that may publish there.  [env: REGRAFT_TO_TOKEN]")  # fmt: skip
@depot_options
@json_option
def copy(
    images: tuple[str, ...], everything: bool, target: str, to_token: str, location: str, token: str,
    trust: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Copy images from --depot to another depot; only what is missing there travels.

    Every signature of the source is checked, and every pack and listing on its way. The other depot signs what it
    gets with its own key. A copy that is cut is continued by the same call. The site's recipes go with the images,
    unless the other depot has newer ones or more; components are not copied.
    """
    access = Access(location, token, trust)
    depot = access.open()
    keys = access.keys(depot)
    wanted = chosen(depot, images, everything)
    other = open_writable(target, to_token)
    read_info(other)  # no depot there is better known before anything travels
    recorder = Recorder([] if as_json else [console(as_json)])
    results = []
    for image in wanted:
        with recorder.phase("copy", f"copying {image} to {target}"):
            results.append(copy_image(depot, keys, image, other, recorder))
        if not as_json:
            click.echo(outcome(results[-1]))
    recipes = copy_recipes(depot, keys, other)
    if as_json:
        print_json({"images": results, "recipes": recipes})
    elif recipes.said:
        click.echo(recipes.said)


def chosen(depot: Depot, images: tuple[str, ...], everything: bool) -> list[ImageRef]:
    """The images to copy, in full. Nothing named and not --all is a slip."""
    if bool(images) == everything:
        raise UsageError("expected images or --all, one of the two", "name images as NAME or NAME@TIME, or give --all")
    if everything:
        return [ImageRef(each.machine, each.time) for each in list_images(depot)]
    return list(dict.fromkeys(with_time(depot, parse_image(image)) for image in images))


def outcome(result: CopyResult) -> str:
    if result.already_there:
        return f"{result.image} is there already"
    return (
        f"{result.image}: {result.files:,} files, {size_text(result.bytes_copied)} copied, "
        f"{size_text(result.bytes_there)} were there"
    )
