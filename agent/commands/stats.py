"""regraft stats: what images cost, and what sharing saves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from agent.commands.options import Access, depot_options, json_option, parse_image, print_json
from agent.console.table import table
from agent.depot.catalogue import find_image
from agent.depot.catalogue import images as list_images
from agent.depot.forget import references
from agent.depot.local import LocalDepot
from agent.depot.store import Depot
from agent.depot.stored import stored_objects
from agent.errors import NoImageError
from agent.image.usage import DepotUse, ImageUse, measure
from agent.model.image import ImageRef
from agent.model.wording import size_text

HEADERS = ("image", "files", "stored", "alone", "shared", "freed if forgotten")


@click.command()
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@depot_options
@json_option
def stats(images: tuple[str, ...], location: str, token: str, trust: tuple[str, ...], as_json: bool) -> None:
    """Show what images cost alone, what sharing saves, and what is dead in a depot.

    files: the images' plain bytes; stored: their frames as they lie in packs; alone: frames that no other image uses;
    freed: packs that no other image uses, which forgetting the image and pruning gives back.
    """
    access = Access(location, token, trust)
    depot = access.open()
    keys = access.keys(depot)
    refs = [ImageRef(each.machine, each.time) for each in list_images(depot)]
    shown = chosen(refs, [parse_image(image) for image in images])
    use = measure(depot, (find_image(depot, keys, ref).manifest for ref in refs))
    rows = [each for each in use.images if each.image in shown]
    unreferenced = unreferenced_bytes(depot)
    if as_json:
        print_json({"images": rows, "depot": {
            "packs": use.packs, "pack_bytes": use.pack_bytes, "live_bytes": use.live_bytes,
            "dead_bytes": use.dead_bytes, "partly_used_packs": use.partly_used, "listing_bytes": use.listing_bytes,
            "content_bytes": use.content_bytes, "ratio": ratio(use), "unreferenced_bytes": unreferenced,
        }})  # fmt: skip
        return
    if not refs:
        click.echo("no images yet; make one with ‘regraft capture’")
        return
    click.echo(images_use_table(rows))
    click.echo("\n".join(depot_text(use, unreferenced)))


def chosen(refs: Sequence[ImageRef], named: Sequence[ImageRef]) -> frozenset[ImageRef]:
    """The images to show: all; or those named, NAME meaning all of a machine."""
    if not named:
        return frozenset(refs)
    for name in named:
        if not any(ref.machine == name.machine and name.time in ("", ref.time) for ref in refs):
            raise NoImageError(f"there is no image {name}")
    return frozenset(
        ref for ref in refs if any(ref.machine == name.machine and name.time in ("", ref.time) for name in named)
    )


def unreferenced_bytes(depot: Depot) -> int | None:
    """Packs and listings that no manifest names; None behind a URL, where nobody can list them."""
    if not isinstance(depot, LocalDepot):
        return None
    needed = references(depot)
    return sum(size for path, size in stored_objects(depot).items() if path not in needed)


def ratio(use: DepotUse) -> float:
    """How many bytes of files stand for one byte of packs and listings."""
    return round(use.content_bytes / max(1, use.pack_bytes + use.listing_bytes), 2)


def images_use_table(rows: Sequence[ImageUse]) -> str:
    cells = [
        (str(each.image), *map(size_text, (each.content_bytes, each.stored_bytes, each.alone_bytes, each.shared_bytes,
                                           each.freed_bytes)))
        for each in rows
    ]  # fmt: skip
    return table(HEADERS, cells, right=frozenset(range(1, len(HEADERS))))


def depot_text(use: DepotUse, unreferenced: int | None) -> Iterator[str]:
    yield (
        f"{use.packs:,} packs, {size_text(use.pack_bytes)}, and {size_text(use.listing_bytes)} of listings hold "
        f"{size_text(use.content_bytes)} of files in {len(use.images):,} images: {ratio(use):.2f} to 1"
    )
    yield waste_text(use)
    if unreferenced is None:
        yield "unreferenced: not known behind a URL"
    else:
        yield f"unreferenced: {size_text(unreferenced)}" + ("; see ‘regraft prune’" if unreferenced else "")


def waste_text(use: DepotUse) -> str:
    """Bytes that pruning cannot give back, because others in the same pack are needed."""
    return (
        f"dead inside live packs: {size_text(use.dead_bytes)} of {size_text(use.pack_bytes)}, "
        f"in {use.partly_used:,} of {use.packs:,} packs"
    )
