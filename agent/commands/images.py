"""regraft images, regraft show: what a depot holds."""

from __future__ import annotations

import click

from agent.commands.options import Access, depot_options, json_option, parse_image, print_json
from agent.console.images_text import images_table
from agent.depot.catalogue import find_image
from agent.depot.catalogue import images as list_images
from agent.model.image import AT_REST, LIVE, SNAPSHOT, Manifest

READ = {
    SNAPSHOT: ", of one moment (snapshot)",
    AT_REST: ", read while nobody wrote to it",
    LIVE: ", read file by file while it was in use",
}


@click.command()
@depot_options
@json_option
def images(location: str, token: str, trust: tuple[str, ...], as_json: bool) -> None:
    """List the images of a depot."""
    found = list_images(Access(location, token, trust).open())
    if as_json:
        print_json(found)
        return
    click.echo(images_table(found) if found else "no images yet; make one with ‘regraft capture’")


@click.command()
@click.argument("image")
@depot_options
@json_option
def show(image: str, location: str, token: str, trust: tuple[str, ...], as_json: bool) -> None:
    """Show one image: volumes, sizes, layout, what did not travel."""
    access = Access(location, token, trust)
    depot = access.open()
    loaded = find_image(depot, access.keys(depot), parse_image(image))
    if as_json:
        print_json(loaded.manifest)
    else:
        click.echo("\n".join(describe(loaded.manifest)))


def describe(manifest: Manifest) -> list[str]:
    stored = sum(pack.size_bytes for pack in manifest.packs)
    lines = [
        f"image     {manifest.ref}",
        f"host      {manifest.hostname}",
        f"made by   {manifest.tool}",
        f"profile   {manifest.profile.time} sha256 {manifest.profile.sha256}",
        f"stored    {stored:,} bytes in {len(manifest.packs)} packs",
    ]
    for disk in manifest.disks:
        lines.append(
            f"disk      {disk.name} {disk.size_bytes:,} bytes, {disk.table}, {disk.logical_sector_bytes}-byte sectors"
        )
        for part in disk.partitions:
            holds = f"{part.holds.kind} {part.holds.uuid}" if part.holds else "-"
            lines.append(f"  {part.number:>3}  {part.size_bytes:>16,} bytes  {holds}  {part.type}")
    for volume in manifest.blocks:
        lines.append(
            f"volume    {volume.id}: blocks of {volume.filesystem.kind or 'unknown content'}, "
            f"partition {volume.partition} of {volume.disk}, {volume.size_bytes:,} bytes, "
            f"{volume.filesystem.used_bytes:,} used, {volume.content_bytes:,} not zero"
        )
    for volume in manifest.trees:
        lines.append(
            f"volume    {volume.id}: {volume.filesystem.kind} at {volume.filesystem.mountpoint or '/'}"
            f"{f' (subvolume {volume.subvolume})' if volume.subvolume else ''}"
            f"{f' on {volume.device}' if volume.device else ''}, "
            f"{volume.entries:,} entries, {volume.content_bytes:,} bytes{READ.get(volume.read, '')}"
        )
    lines.extend(f"excluded  {left.path}: {left.reason}" for left in manifest.excluded)
    lines.extend(f"changed   {path} while it was read" for path in manifest.changed_while_read)
    lines.extend(f"unread    {left.path}: {left.reason}" for left in manifest.unreadable)
    return lines
