"""Seconds and memory of a shell command."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SAMPLE_S = 0.05


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one command. Processor seconds are those of every process it started."""

    seconds: float
    processor_seconds: float
    peak_mib: float = 0.0


class CommandFailed(Exception):
    """A command that was measured ended with another status than 0."""


def timed(command: str, environment: Mapping[str, str]) -> Run:
    """Run to the end; nothing else is done meanwhile."""
    before, started = os.times(), time.monotonic()
    child = start(command, environment, subprocess.PIPE)
    out, _ = child.communicate()
    seconds, after = time.monotonic() - started, os.times()
    check(child, command, out)
    return Run(seconds, spent(before, after))


def sampled(command: str, environment: Mapping[str, str], log: Path) -> Run:
    """The same, with the peak MiB of all its processes together (proportional set size: shared pages count once).

    Sampling costs time: the seconds are for what is measured once only. What is said goes to ``log``.
    """
    before, started = os.times(), time.monotonic()
    with log.open("wb") as out:
        child = start(command, environment, out.fileno())
        peak = 0
        while child.poll() is None:
            peak = max(peak, sum(pss_bytes(pid) for pid in descendants(child.pid)))
            time.sleep(SAMPLE_S)
    seconds, after = time.monotonic() - started, os.times()
    check(child, command, log.read_bytes())
    return Run(seconds, spent(before, after), peak / (1 << 20))


def spent(before: os.times_result, after: os.times_result) -> float:
    return after.children_user + after.children_system - before.children_user - before.children_system


def start(command: str, environment: Mapping[str, str], out: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["bash", "-o", "pipefail", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        env={**os.environ, **environment},
    )


def check(child: subprocess.Popen[bytes], command: str, out: bytes) -> None:
    if child.returncode != 0:
        said = out.decode(errors="replace")[-2000:]
        raise CommandFailed(f"‘{command}’ ended with status {child.returncode}:\n{said}")


def descendants(pid: int) -> list[int]:
    """A process and all it started, as far as they live."""
    found = [pid]
    for parent in found:
        found += children_of(parent)
    return found


def children_of(pid: int) -> list[int]:
    """Those it started; none where it is gone, at whatever moment of the look."""
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found


def pss_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)
