"""A whole bench: the scenarios one after the other, each freeing its memory before the next."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.version import VERSION
from tests.bench import ratios
from tests.bench.contestants import ALL, REGRAFT_CONTESTANT, environment
from tests.bench.data import CACHE, Data, DataSets, Origin
from tests.bench.filesystems import forget_cached_files, memory, remove_tree
from tests.bench.measure import CommandFailed
from tests.bench.needs import find_nginx, install_missing, present, versions
from tests.bench.scenarios.blocks import blocks
from tests.bench.scenarios.capture import capture, recapture, second_machine
from tests.bench.scenarios.decide import decide
from tests.bench.scenarios.floor import floor
from tests.bench.scenarios.growth import growth, listing
from tests.bench.scenarios.http import over_http
from tests.bench.scenarios.reset import reset
from tests.bench.scenarios.restore import restore_large, restore_system
from tests.bench.stage import Stage
from tests.bench.values import Bench, DataSet


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of measurement, and how many times the system's bytes it holds in memory at most."""

    run: Callable[[Stage], None]
    memory_share: float = 0.0  # 0: it asks for itself, step by step


SCENARIOS: Mapping[str, Scenario] = {
    "restore": Scenario(restore_system, 2.0),
    "http": Scenario(over_http, 2.0),
    "floor": Scenario(floor, 3.0),
    "reset": Scenario(reset, 3.0),
    "capture": Scenario(capture, 3.0),
    "recapture": Scenario(recapture, 4.0),
    "second": Scenario(second_machine, 4.0),
    "blocks": Scenario(blocks, 2.0),
    "restore-large": Scenario(restore_large),
    "decide": Scenario(decide, 1.0),
    "growth": Scenario(growth),
    "listing": Scenario(listing),
}
MEMORY_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Settings:
    origin: Origin
    scenarios: Sequence[str]
    peers: Sequence[str]
    rounds: int
    install: bool


def run_bench(settings: Settings, say: Callable[[str], None]) -> Iterator[Bench]:
    """Measure; after each scenario all that is known so far. Nothing but the data sets stays behind."""
    seconds: dict[str, float] = {}
    load_before = os.getloadavg()[0]
    with stage_of(settings, say) as stage:
        for name in settings.scenarios:
            say(f"[{name}]")
            began = time.monotonic()
            attempt(stage, name, SCENARIOS[name])
            seconds[name] = round(time.monotonic() - began, 1)
            say(f"  {seconds[name]:.1f} s")
            yield summary(stage, settings, seconds, load_before)


def attempt(stage: Stage, name: str, scenario: Scenario) -> None:
    """Run a scenario; if ours fails in it, the others are measured all the same, and the bench ends as failed."""
    share = scenario.memory_share
    if share and not stage.has_memory(name, round(share * stage.data.system().bytes)):
        return
    forget_cached_files()
    try:
        scenario.run(stage)
    except CommandFailed as error:
        stage.failures.append(f"{name}: {error}")
        stage.say(f"  FAILED: {error}")
    stage.clear()


@contextmanager
def stage_of(settings: Settings, say: Callable[[str], None]) -> Iterator[Stage]:
    wanted = [one for one in ALL if one is REGRAFT_CONTESTANT or one.name in settings.peers]
    if settings.install and (installed := install_missing(wanted)):
        say(f"installed: {', '.join(installed)}")
    able, unable = present(wanted)
    for one in unable:
        say(f"left out: {one.what}: {one.why}")
    whole = settings.origin.whole
    with memory(Path(f"/run/regraft-bench-{os.getpid()}"), memory_bytes()) as room, work_folder(room, whole) as work:
        home = CACHE if whole else room / "data"
        yield Stage(
            memory=room,
            work=work,
            data=DataSets(home, settings.origin, say),
            contestants=able,
            rounds=settings.rounds,
            environment=environment(room),
            say=say,
            nginx=find_nginx(CACHE, fetch=settings.install),
            small=not whole,
            left_out=unable,
        )


@contextmanager
def work_folder(room: Path, whole: bool) -> Iterator[Path]:
    """Where stores lie between rounds: small ones in memory, those of the whole bench on the disk of the cache."""
    work = CACHE / f"work-{os.getpid()}" if whole else room / "work"
    if whole:
        for old in CACHE.glob("work-*"):
            if not Path(f"/proc/{old.name.removeprefix('work-')}").exists():
                remove_tree(old)
    work.mkdir(parents=True)
    try:
        yield work
    finally:
        remove_tree(work)


def memory_bytes() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * MEMORY_SHARE)


def summary(stage: Stage, settings: Settings, seconds: dict[str, float], load_before: float) -> Bench:
    found = ratios.ratios(stage.rows)
    return Bench(
        ratios=found,
        agent_peak_mib=found["agent_peak_mib"],
        more_ratios=ratios.more_ratios(stage.rows),
        growth=ratios.growth(stage.rows),
        left_out=tuple(stage.left_out),
        failures=tuple(stage.failures),
        data=tuple(described(one) for one in stage.data.used.values()),
        rows=tuple(stage.rows),
        scenario_seconds=seconds,
        settings={
            "rounds": settings.rounds,
            "mib": settings.origin.mib,
            "scenarios": ", ".join(settings.scenarios),
            "contestants": ", ".join(one.name for one in stage.contestants),
            "target": "ext4 on a loop device on tmpfs, or the blank loop device; synced at the end of each run",
            "stores": "copied to tmpfs before each run",
        },
        machine={
            "processor": processor(),
            "processors": os.cpu_count() or 0,
            "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
            "kernel": platform.release(),
            "load_before": round(load_before, 2),
            "load_after": round(os.getloadavg()[0], 2),
        },
        versions={"regraft": VERSION, "python": platform.python_version(), **versions()},
    )


def described(data: Data) -> DataSet:
    size = data.facts.size
    return DataSet(
        name=data.name, how=data.facts.how, entries=size.entries, files=size.files, bytes=size.bytes,
        image_bytes=data.image_bytes,
    )  # fmt: skip


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
