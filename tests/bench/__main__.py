"""Measures capture and restore against the tools an administrator would use instead, on the same data in one run.

    data sets ─► scenarios ─► contestants in turn, round by round ─► rows ─► ratios ─► JSON, table, plot

What is measured and how to read it: docs/bench.md.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from tests.bench.contestants import PEERS
from tests.bench.data import Origin
from tests.bench.plot import svg
from tests.bench.run import SCENARIOS, Settings, run_bench
from tests.bench.text import table
from tests.bench.values import Bench

# What a disk or a tree of one's own is measured with, unless other words are given: minutes, not an hour.
QUICK_SCENARIOS, QUICK_PEERS = ("restore", "capture"), ("tar", "squashfs")


@click.command()
@click.option("--only", "scenarios", multiple=True, type=click.Choice(list(SCENARIOS)),
              help="Only this scenario; may be given again.")  # fmt: skip
@click.option("--peer", "peers", multiple=True, type=click.Choice(PEERS),
              help="Only this peer beside regraft; may be given again.")  # fmt: skip
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Timed rounds; medians count.")
@click.option("--mib", type=click.IntRange(1), help="Small data of that size, of this machine's /usr.")
@click.option("--disk", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Take the system from this disk image; restore and capture against tar and squashfs.")  # fmt: skip
@click.option("--partition", default=2, show_default=True, help="Its partition.")
@click.option("--tree", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Take the system from this tree; likewise.")  # fmt: skip
@click.option("--install/--no-install", default=True, show_default=True, help="Install peers that are absent.")
@click.option("--output", default="build/bench.json", show_default=True, type=click.Path(path_type=Path),
              help="The JSON; a plot goes beside it.")  # fmt: skip
def bench(
    scenarios: Sequence[str], peers: Sequence[str], rounds: int, mib: int | None, disk: Path | None, partition: int,
    tree: Path | None, install: bool, output: Path,
) -> None:  # fmt: skip
    """Measure capture and restore against the usual tools. Needs root."""
    if os.geteuid() != 0:
        raise click.ClickException(f"loop devices and mounts need root, found uid {os.geteuid()}; run it as root")
    origin = Origin(mib or 0, disk, partition, tree)
    quick = bool(disk or tree)
    settings = Settings(
        origin=origin,
        scenarios=[name for name in SCENARIOS if name in (scenarios or (QUICK_SCENARIOS if quick else SCENARIOS))],
        peers=peers or (QUICK_PEERS if quick else PEERS),
        rounds=rounds,
        install=install and not quick,
    )
    for result in run_bench(settings, lambda line: click.echo(line, err=True)):
        write(result, output)  # after each scenario: hours of measuring should not be lost with the last of them
    click.echo(table(result))
    click.echo(f"\nwritten to {output} and {output.with_suffix('.svg')}")
    if result.failures:
        raise click.ClickException("\n".join(("this did not work:", *result.failures)))


def write(result: Bench, output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    output.with_suffix(".svg").write_text(svg(result))


def in_own_mount_namespace() -> None:
    """Nobody else sees or holds these mounts, and they are gone however this ends."""
    if "REGRAFT_BENCH" not in os.environ:
        os.environ["REGRAFT_BENCH"] = "1"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, "-m", "tests.bench", *sys.argv[1:]])


if __name__ == "__main__":
    in_own_mount_namespace()
    bench()
