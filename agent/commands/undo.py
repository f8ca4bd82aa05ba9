"""regraft undo: what recipes changed on a restored system, and putting it back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from agent.commands.options import json_option, print_json_list
from agent.errors import UsageError
from agent.model.undoing import ABSENT, Change, plan_undo, recipes_of
from agent.restore import undo as undoing

NOTES = {
    "removed-package": "package {} was removed: install it again, if it is wanted",
    "installed-package": "package {} was installed: remove it, if it is not wanted",
    "removed-secret": "{} was not kept, because it is a secret: it stays gone",
    "ran": "what ‘{}’ did stays as it is",
}


@click.command()
@click.argument("recipes", nargs=-1, metavar="[RECIPE]...")
@click.option("--all", "everything", is_flag=True, help="Undo every recipe.")
@click.option("--force", is_flag=True, help="Also put back files that were changed since the restore.")
@click.option(
    "--root", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path("/"),
    help="Where the restored system is mounted; otherwise the one that runs.",
)  # fmt: skip
@json_option
def undo(recipes: tuple[str, ...], everything: bool, force: bool, root: Path, as_json: bool) -> None:
    """List what recipes changed on this system, or put the originals back that the named RECIPEs changed.

    Run it on the restored machine, as root. Originals are in /var/lib/regraft/undo. The initramfs and the boot menu
    are made again where the recipes had asked for it. Packages that were removed are named, not installed.
    """
    if recipes and everything:
        raise UsageError("recipes are named, and --all is given", "give one of them")
    changes = undoing.journal(root.resolve())
    if not recipes and not everything:
        _list(changes, as_json)
        return
    plan = plan_undo(changes, recipes)
    for path in undoing.put_back(root.resolve(), changes, plan, force=force):
        click.echo(f"put back {path}")
    for argv in undoing.make_again(root.resolve(), plan):
        click.echo(f"ran {argv}")
    for note in plan.notes:
        click.echo(f"note: {note_text(note)}")


def _list(changes: Sequence[Change], as_json: bool) -> None:
    if as_json:
        print_json_list(changes)
        return
    for recipe, title in recipes_of(changes).items():
        click.echo(f"{recipe}: {title}")
        for change in changes:
            if change.recipe == recipe and change.kind == "changed":
                click.echo(f"  {_what(change):7} {change.path}")
            elif change.recipe == recipe and change.kind == "note":
                click.echo(f"  {note_text(change)}")
    click.echo("‘regraft undo RECIPE’ puts one recipe’s originals back, ‘regraft undo --all’ all of them")


def _what(change: Change) -> str:
    return "made" if change.before == ABSENT else "changed" if change.after else "removed"


def note_text(note: Change) -> str:
    """One sentence on what no original can bring back."""
    return NOTES.get(note.did, "{}").format(note.text)
