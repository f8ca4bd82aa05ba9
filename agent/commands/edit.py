"""regraft edit, regraft image apply-recipe: a new image of the changes to an old one."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import click

from agent.commands.capture import refuse_silence
from agent.commands.importing import work_option
from agent.commands.options import Access, console, depot_options, json_option, parse_image, print_json
from agent.commands.plan import read_profile
from agent.console.edit_text import changed_paths, changes_text
from agent.console.recorder import Recorder
from agent.depot.catalogue import LoadedImage, find_image
from agent.depot.signing import TrustedKeys
from agent.depot.store import WritableDepot
from agent.errors import RefusedError, UsageError
from agent.model.image import ImageRef
from agent.model.report import RecipeResult
from agent.process import attach
from agent.restore.apply import Machine, applied, for_a_target, for_the_image, read_recipe
from agent.restore.edit import Edited, edit_image
from agent.restore.edit_files import FileEdits, edited, parse_put
from agent.restore.sandbox import Sandbox

Change = Callable[[Path], None]


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("image")
@click.argument("command", nargs=-1, metavar="[-- CMD...]")
@click.option("--chroot", is_flag=True, help="Run CMD inside the tree, as a program of that system, without network.")
@click.option("--put", "puts", multiple=True, metavar="FILE:/PATH", help="Put a file there, instead of a CMD.")
@click.option(
    "--remove", "removes", multiple=True, metavar="/PATH", help="Remove a file or directory, instead of a CMD."
)
@work_option
@depot_options
@json_option
def edit(
    image: str, command: tuple[str, ...], chroot: bool, puts: tuple[str, ...], removes: tuple[str, ...], work: Path,
    location: str, token: str, trust: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Change the files of an image; the result is a new image of the same machine, the old one stays.

    CMD (default: a shell) runs with the image's root directory, writable, as its working directory. When it ends with
    status 0 and something has changed, NAME at a new time is published, and only what changed is stored anew.
    Otherwise nothing is published: leave the shell by ‘exit 1’ to forget everything.
    """
    access = Access(location, token, trust)
    if puts or removes:
        if command or chroot:
            raise UsageError("--put and --remove take the place of a command, and there is one")
        listed = edited(FileEdits(tuple(map(parse_put, puts)), removes))
        _edited(access, parse_image(image), work, as_json, lambda *_: listed)
        return
    words = command or ("/bin/sh" if chroot else os.environ.get("SHELL", "/bin/sh"),)

    def change(root: Path) -> None:
        if not command and not as_json:
            click.echo(f"the files of {image} are in {root}; ‘exit’ publishes what changed, ‘exit 1’ forgets it")
        output = sys.stderr.fileno() if as_json else None
        status = Sandbox(root).attach(words, output) if chroot else attach(words, root, output)
        if status:
            raise RefusedError(
                f"‘{' '.join(words)}’ ended with status {status}, expected 0: nothing was published",
                "start again, and end it with status 0 to publish",
            )

    _edited(access, parse_image(image), work, as_json, lambda *_: change)


@click.group()
def image() -> None:
    """Change images in the depot."""


@image.command("apply-recipe")
@click.argument("name", metavar="IMAGE")
@click.argument("path", metavar="RECIPE.toml", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--target",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="TARGET.xml",
    help="Apply it as a restore onto this machine would; default: to the image as it is.",
)
@click.option("--disk", "selector", default="only-eligible", show_default=True, help="Which disk of the target.")
@work_option
@depot_options
@json_option
def apply_recipe(
    name: str, path: Path, target: Path | None, selector: str, work: Path, location: str, token: str,
    trust: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Apply one recipe to an image; the result is a new image of the same machine, the old one stays.

    The recipe's operations and checks are those of a restore; programs of the image run without network. Nothing is
    published when a check fails, or when nothing changed.
    """

    def tell(result: RecipeResult) -> None:
        for line in result.checks:
            click.echo(f"  {line}", err=as_json)

    def chosen(depot: WritableDepot, trusted: TrustedKeys, loaded: LoadedImage, folder: Path) -> Change:
        if target:
            found = for_a_target(depot, trusted, loaded, path, Machine(read_profile(target), selector))
        else:
            found = for_the_image(depot, trusted, loaded, read_recipe(path))
        return applied(depot, found, folder, tell)

    _edited(Access(location, token, trust), parse_image(name), work, as_json, chosen)


def _edited(
    access: Access,
    ref: ImageRef,
    work: Path,
    as_json: bool,
    change: Callable[[WritableDepot, TrustedKeys, LoadedImage, Path], Change],
) -> None:
    depot = access.open_writable()
    keys = access.keys(depot)
    loaded = find_image(depot, keys, ref)
    recorder = Recorder([] if as_json else [console(as_json)])
    with tempfile.TemporaryDirectory(prefix="regraft-edit-", dir=work) as folder:
        recorder.message(f"unpacking {loaded.manifest.ref}", "write")
        decided = change(depot, keys, loaded, Path(folder))
        done = edit_image(depot, loaded, Path(folder), recorder, decided)
    if as_json:
        print_json(
            {
                "ref": done.result.ref if done.result else None,
                "changes": changed_paths(done.changes),
                "result": done.result,
            }
        )
    else:
        click.echo(outcome(loaded, done))
    if done.result:
        refuse_silence(done.result)


def outcome(loaded: LoadedImage, done: Edited) -> str:
    if done.result is None:
        return f"nothing changed in {loaded.manifest.ref}: nothing was published"
    count = len(changed_paths(done.changes))
    counted = "1 path changed" if count == 1 else f"{count:,} paths changed"
    stored = f"{done.result.stored_bytes:,} bytes stored"
    return "\n".join([*changes_text(done.changes), f"published {done.result.ref}: {counted}, {stored}"])
