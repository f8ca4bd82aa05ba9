"""A line that a person types and nobody sees: at a terminal, or at any of the PE's consoles.

The PE's consoles are programs of their own, which hand the agent what is typed through a fifo. They show nothing of it
while the file HIDING is there; see pe_build/overlay/usr/lib/regraft/console.
"""

from __future__ import annotations

import stat
import time
from pathlib import Path
from typing import TextIO

import click

HIDING = Path("/run/regraft/hide-typing")
CONSOLES_SEE_S = 3.0  # each looks once a second


def typed_hidden(prompt: str, source: TextIO) -> str:
    """The line without its end; "" where nobody can type."""
    if source.isatty():
        typed: str = click.prompt(prompt.removesuffix(": "), hide_input=True)
        return typed
    if not is_fifo(source):
        return ""
    HIDING.parent.mkdir(parents=True, exist_ok=True)
    HIDING.touch(0o600)
    try:
        time.sleep(CONSOLES_SEE_S)
        click.echo(prompt, nl=False)
        line = source.readline()
    finally:
        HIDING.unlink()
    click.echo()
    return line.removesuffix("\n").removesuffix("\r")


def is_fifo(source: TextIO) -> bool:
    try:
        return stat.S_ISFIFO(Path(f"/proc/self/fd/{source.fileno()}").stat().st_mode)
    except (OSError, ValueError):
        return False
