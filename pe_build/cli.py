"""The command line of pe_build: freeze, iso, customize."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from pe_build.config import CACHE, cache_in_use
from pe_build.customize import customize
from pe_build.freeze import DEFAULT_ENTRY, freeze
from pe_build.iso import Order, build_iso

Run = Callable[[], object]


def parse(words: Sequence[str]) -> Run:
    """What the words ask for, as something that can be called."""
    chosen = _parser().parse_args(words)
    if chosen.command == "customize":
        return lambda: customize(chosen.iso, chosen.config, chosen.output)
    return lambda: _build(chosen)


def _build(chosen: argparse.Namespace) -> None:
    with cache_in_use(chosen.cache):
        if chosen.command == "freeze":
            freeze(chosen.output, chosen.agent_entry, chosen.cache)
            return
        netboot = chosen.output_netboot
        build_iso(Order(chosen.output, chosen.agent_entry, chosen.cache, chosen.config, netboot, chosen.refresh))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("pe_build", description="Builds what the agent is carried by.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    building = argparse.ArgumentParser(add_help=False)
    building.add_argument("--agent-entry", type=Path, default=DEFAULT_ENTRY, metavar="FILE",
                          help="the program to freeze (default: %(default)s)")  # fmt: skip
    building.add_argument("--cache", type=Path, default=CACHE, metavar="DIR",
                          help="where everything that was made is kept (default: %(default)s)")  # fmt: skip

    frozen = commands.add_parser("freeze", parents=[building], help="freeze the agent into a folder",
                                 description="Freezes the agent into one folder with the program regraft.")  # fmt: skip
    frozen.add_argument("--output", type=Path, required=True, metavar="DIR", help="the folder; replaced")

    iso = commands.add_parser(
        "iso", parents=[building], help="build the bootable ISO",
        description="Builds the ISO: boots from CD and USB stick, by BIOS and UEFI, also with Secure Boot.",
    )  # fmt: skip
    iso.add_argument("--output", type=Path, required=True, metavar="ISO", help="the file to write")
    iso.add_argument("--config", type=Path, metavar="TOML", help="agent.toml to put on the medium (default: empty)")
    iso.add_argument("--output-netboot", type=Path, metavar="DIR", help="leave kernel and segments here too")
    iso.add_argument("--refresh", action="store_true", help="ask the package sources for newer versions now")

    other = commands.add_parser("customize", help="give an ISO another configuration",
                                description="Rewrites agent.toml inside an ISO, in place.")  # fmt: skip
    other.add_argument("iso", type=Path, metavar="ISO", help="an ISO made by the iso command")
    other.add_argument("--config", type=Path, required=True, metavar="TOML", help="the new agent.toml")
    other.add_argument("--output", type=Path, required=True, metavar="ISO", help="the file to write (may be the same)")
    return parser
