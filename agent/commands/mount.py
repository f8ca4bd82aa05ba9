"""regraft mount: an image as a file system."""

from __future__ import annotations

from pathlib import Path

import click

from agent.commands.look import open_tree
from agent.commands.options import Access, depot_options
from agent.image.image_tree import skipped_volumes
from agent.image.mount import mount as mount_tree


@click.command()
@click.argument("image")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@click.option(
    "-b", "--background", is_flag=True, help="Return as soon as it is mounted; otherwise stay until it is unmounted."
)
@click.option("--allow-other", is_flag=True, help="Let other users look too, as far as modes allow; see fuse.conf.")
@depot_options
def mount(image: str, directory: Path, background: bool, allow_other: bool, location: str, token: str,
          trust: tuple[str, ...]) -> None:  # fmt: skip
    """Mount an image on DIR, read-only: browse, copy and compare with any program. Needs libfuse, not root.

    It stays until Ctrl-C, SIGTERM or ‘umount DIR’ (‘fusermount3 -u DIR’ where you are not root).
    """
    if "://" not in location:
        location = str(Path(location).absolute())  # in the background the working directory is another
    tree = open_tree(image, Access(location, token, trust))
    ref = tree.loaded.manifest.ref
    for volume in skipped_volumes(tree.loaded):
        click.echo(f"volume {volume.id} holds {volume.kind}, not files: it is not shown", err=True)
    end = f"‘umount {directory}’" if background else f"Ctrl-C or ‘umount {directory}’"

    def ready() -> None:
        click.echo(f"{ref} is mounted on {directory}, {len(tree.index):,} entries, read-only; {end} unmounts it")

    if background:
        click.echo(f"{ref}: mounting on {directory} in the background, read-only; {end} unmounts it")
    mount_tree(tree, directory, ready, background=background, others=allow_other)
