"""regraft profile: describe a machine as XML."""

from __future__ import annotations

from pathlib import Path

import click

from agent.commands.options import write_or_print
from agent.model.profile_xml import dump_profile
from agent.probe.live_tree import LiveTree
from agent.probe.machine import probe_machine, probe_root
from agent.probe.naming import machine_name


@click.command()
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Describe the system below DIR instead of this machine; its hardware is then unavailable.",
)
@click.option("--name", default="", help="Name of the machine; default: its host name.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write to FILE instead of standard output.")  # fmt: skip
def profile(root: Path | None, name: str, output: Path | None) -> None:
    """Describe this machine, or the system below a directory, as XML."""
    if root is None:
        described = probe_machine(name or machine_name(LiveTree(Path("/"))))
    else:
        tree = LiveTree(root)
        described = probe_root(tree, name or machine_name(tree))
    write_or_print(dump_profile(described), output)
