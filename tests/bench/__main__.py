"""Measures capture and restore against the tools an administrator would use instead, on the same data in one run.

    tree ─► each contestant, one after the other, round by round: pack, unpack onto an empty file system ─► medians

Interleaved, so that whatever else the machine does hits all alike. A first round is not timed: it samples memory and
compares what was restored with the tree.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec

from agent.process import run
from agent.version import VERSION
from tests.bench.contestants import ALL, Contestant, empty_store, stored_bytes
from tests.bench.filesystems import LoopFileSystem, loop_filesystem, memory, partition_of
from tests.bench.measure import Run, sampled, timed
from tests.bench.tree import copy_part_of_usr, copy_tree, demo_disk, describe, drift, same

GIB = 1 << 30
# (name of the ratio, our phase's peer): the peer's median over ours, so above 1 we are faster.
RATIOS = (
    ("capture_vs_tar", "pack", "tar"),
    ("capture_vs_mksquashfs", "pack", "squashfs"),
    ("restore_vs_tar", "unpack", "tar"),
    ("restore_vs_unsquashfs", "unpack", "squashfs"),
    ("recapture_vs_restic", "again", "restic"),
    ("recapture_vs_borg", "again", "borg"),
)
# Shares of our own: below 1 is what they should be.
SHARES = ("depot_size_vs_tar", "reset_share")
DRIFTED = 100  # one file in so many


class Row(msgspec.Struct, frozen=True, kw_only=True):
    contestant: str
    phase: str
    seconds: float  # median
    fastest: float
    slowest: float
    processor_seconds: float
    peak_mib: float
    stored_bytes: int


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    ratios: dict[str, float]
    agent_peak_mib: float
    rows: tuple[Row, ...]
    tree: dict[str, int]
    rounds: int
    machine: dict[str, str | int]
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Arena:
    source: LoopFileSystem
    target: LoopFileSystem
    folder: Path
    environment: dict[str, str]

    def command(self, contestant: Contestant, template: str) -> str:
        store = self.folder / f"store-{contestant.name}"
        return template.format(tree=self.source.mountpoint, store=store, target=self.target.mountpoint)

    def clear(self, contestant: Contestant) -> None:
        empty_store(self.folder / f"store-{contestant.name}")
        timed(self.command(contestant, contestant.prepare), self.environment)


@click.command()
@click.option("--tree", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Tree to measure with; default: the demo's root, else 1 GiB of this machine's /usr.")  # fmt: skip
@click.option("--disk", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Disk image to take the tree from, instead.")  # fmt: skip
@click.option("--partition", default=2, show_default=True, help="Its partition.")
@click.option("--mib", type=int, help="Measure with that much of this machine's /usr.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Timed rounds; medians count.")
@click.option("--output", default="build/bench.json", show_default=True, type=click.Path(path_type=Path))
def bench(tree: Path | None, disk: Path | None, partition: int, mib: int | None, rounds: int, output: Path) -> None:
    """Measure capture and restore against tar, zstd, squashfs, restic and borg."""
    with arena() as where:
        fill(where, tree, disk, partition, mib)
        where.source.forget_cache()
        peaks = {contestant.name: first_round(where, contestant) for contestant in ALL}
        runs: dict[tuple[str, str], list[Run]] = {}
        for number in range(rounds):
            click.echo(f"round {number + 1} of {rounds}")
            # Each starts a round in turn.
            for contestant in (*ALL[number % len(ALL) :], *ALL[: number % len(ALL)]):
                for phase, measured in one_round(where, contestant):
                    runs.setdefault((contestant.name, phase), []).append(measured)
        rows = tuple(row(where, key, of, peaks) for key, of in runs.items())
        result = summary(rows, describe(where.source.mountpoint), rounds)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    click.echo(table(result))
    click.echo(f"written to {output}")


@contextmanager
def arena() -> Iterator[Arena]:
    """Source, target and stores, all in memory."""
    folder = Path(f"/run/regraft-bench-{os.getpid()}")
    with (
        memory(folder, 14 * GIB) as room,
        loop_filesystem(room, "source", 4 * GIB) as source,
        loop_filesystem(room, "target", 4 * GIB) as target,
    ):
        environment = {
            "LC_ALL": "C.UTF-8", "REGRAFT_HOME": str(room / "home"), "RESTIC_PASSWORD": "bench",
            "RESTIC_CACHE_DIR": str(room / "restic"), "BORG_BASE_DIR": str(room / "borg"),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }  # fmt: skip
        yield Arena(source, target, room, environment)


def fill(where: Arena, tree: Path | None, disk: Path | None, partition: int, mib: int | None) -> None:
    disk = disk or (None if tree or mib else demo_disk())
    if disk:
        with partition_of(disk, partition, where.folder / "disk") as root:
            copy_tree(root, where.source.mountpoint)
    elif tree:
        copy_tree(tree, where.source.mountpoint)
    else:
        copy_part_of_usr(where.source.mountpoint, (mib or 1024) << 20)


def first_round(where: Arena, contestant: Contestant) -> dict[str, float]:
    """Memory, and whether the result is right."""
    click.echo(f"{contestant.name}: memory and correctness")
    where.clear(contestant)
    where.target.make_anew()
    peaks = {
        "pack": sampled(where.command(contestant, contestant.pack), where.environment),
        "unpack": sampled(where.command(contestant, contestant.unpack), where.environment),
    }
    compare(where, contestant)
    if contestant.again:
        peaks["again"] = sampled(where.command(contestant, contestant.again), where.environment)
    if contestant.reset:
        drift(where.target.mountpoint, DRIFTED)
        peaks["reset"] = sampled(where.command(contestant, contestant.reset), where.environment)
        compare(where, contestant)
    return peaks


def compare(where: Arena, contestant: Contestant) -> None:
    if differs := same(where.source.mountpoint, where.target.mountpoint, contestant.keeps_acls):
        raise SystemExit(f"bench: {contestant.name} restored something else:\n{differs[:2000]}")


def one_round(where: Arena, contestant: Contestant) -> Iterator[tuple[str, Run]]:
    where.clear(contestant)
    where.source.forget_cache()
    yield "pack", timed(where.command(contestant, contestant.pack), where.environment)
    if contestant.again:
        where.source.forget_cache()
        yield "again", timed(where.command(contestant, contestant.again), where.environment)
    where.target.make_anew()
    yield "unpack", timed(where.command(contestant, contestant.unpack), where.environment)
    if contestant.reset:
        drift(where.target.mountpoint, DRIFTED)
        where.target.forget_cache()
        yield "reset", timed(where.command(contestant, contestant.reset), where.environment)


def row(where: Arena, key: tuple[str, str], runs: list[Run], peaks: dict[str, dict[str, float]]) -> Row:
    name, phase = key
    seconds = [one.seconds for one in runs]
    return Row(
        contestant=name,
        phase=phase,
        seconds=statistics.median(seconds),
        fastest=min(seconds),
        slowest=max(seconds),
        processor_seconds=statistics.median(one.processor_seconds for one in runs),
        peak_mib=peaks[name][phase],
        stored_bytes=stored_bytes(where.folder / f"store-{name}"),
    )


def summary(rows: tuple[Row, ...], tree: dict[str, int], rounds: int) -> Bench:
    by_key = {(one.contestant, one.phase): one for one in rows}
    ratios = {
        name: round(by_key[peer, phase].seconds / by_key["regraft", phase].seconds, 3) for name, phase, peer in RATIOS
    }
    ours, tar = by_key["regraft", "unpack"], by_key["tar", "unpack"]
    ratios["depot_size_vs_tar"] = round(ours.stored_bytes / tar.stored_bytes, 3)
    ratios["reset_share"] = round(by_key["regraft", "reset"].seconds / ours.seconds, 3)
    return Bench(
        ratios=ratios,
        agent_peak_mib=round(max(one.peak_mib for one in rows if one.contestant == "regraft"), 1),
        rows=rows,
        tree=tree,
        rounds=rounds,
        machine={"processors": os.cpu_count() or 0, "kernel": platform.release(), "processor": processor()},
        versions={"regraft": VERSION, "python": platform.python_version(), **peer_versions()},
    )


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def peer_versions() -> dict[str, str]:
    said = {
        "tar": run(["tar", "--version"]).stdout,
        "zstd": run(["zstd", "--version"]).stdout,
        "mksquashfs": run(["mksquashfs", "-version"], accept=(0, 1)).stdout,
        "restic": run(["restic", "version"]).stdout,
        "borg": run(["borg", "--version"]).stdout,
    }
    return {name: text.strip().splitlines()[0] for name, text in said.items()}


def table(result: Bench) -> str:
    lines = [
        f"{result.tree['files']} files, {result.tree['bytes'] / GIB:.2f} GiB; medians of {result.rounds} rounds",
        "",
    ]
    lines.append(f"{'':10} {'':7} {'seconds':>8} {'(range)':>14} {'CPU s':>7} {'MiB':>6} {'stored MiB':>11}")
    for one in result.rows:
        spread = f"{one.fastest:.2f}–{one.slowest:.2f}"
        lines.append(
            f"{one.contestant:10} {one.phase:7} {one.seconds:8.2f} {spread:>14} {one.processor_seconds:7.2f} "
            f"{one.peak_mib:6.0f} {one.stored_bytes / (1 << 20):11.1f}"
        )
    lines += ["", "peer's time / ours (above 1: we are faster)"]
    lines += [f"  {name:24} {ratio:5.2f}" for name, ratio in result.ratios.items() if name not in SHARES]
    lines += ["", "our depot's size / tar's, time of a reset after one file in a hundred drifted / time of a restore"]
    lines += [f"  {name:24} {ratio:5.2f}" for name, ratio in result.ratios.items() if name in SHARES]
    lines.append(f"  agent's peak memory      {result.agent_peak_mib:5.1f} MiB")
    return "\n".join(lines)


def in_own_mount_namespace() -> None:
    """Nobody else sees or holds these mounts, and they are gone however this ends."""
    if "REGRAFT_BENCH" not in os.environ:
        os.environ["REGRAFT_BENCH"] = "1"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, "-m", "tests.bench", *sys.argv[1:]])


if __name__ == "__main__":
    in_own_mount_namespace()
    bench()
