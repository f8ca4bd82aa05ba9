"""What the PE does when the agent is done."""

from __future__ import annotations

import os

import click

from agent.process import run


def leave(after: str) -> None:
    """``reboot``, ``poweroff``, ``shell`` or ``hold``. The last two return: the PE's init offers the shell."""
    os.sync()
    if after in ("reboot", "poweroff"):
        click.echo(f"{after} now")
        run([after, "-f"])
        return
    if after == "shell":
        click.echo("a shell follows on this console")
        return
    click.echo("This machine stays as it is. Switch consoles (Alt-F2) for a shell.")
