"""Contestants take turns: a first turn that is not timed samples memory and checks the result, then round by round.

Interleaved, so that whatever else the machine does hits all alike; another one begins each round. Where only the
fastest counts, who is far behind after the first round takes no part in the others.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from tests.bench.measure import CommandFailed, Run, sampled, timed
from tests.bench.stage import Stage, is_ours
from tests.bench.values import Row


def nothing() -> str:
    return ""


def no_bytes() -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Ready:
    """All is prepared: the command to measure, and what to ask when it has ended."""

    command: str
    wrong: Callable[[], str] = nothing  # what is not right about the result, asked once
    stored: Callable[[], int] = no_bytes


@dataclass(frozen=True, slots=True)
class Turn:
    """One contestant's part: ``ready`` prepares it, and clears away after it."""

    contestant: str
    ready: Callable[[], AbstractContextManager[Ready]]
    checks: str = ""


def measure(
    stage: Stage, scenario: str, data: str, plain_bytes: int, turns: Sequence[Turn], behind_from: float = math.inf
) -> None:
    """Add a row for every turn that works. A peer that fails is left out, and said so; ours may not.

    A peer that takes ``behind_from`` times as long as the fastest in the first round is not measured again.
    """
    peaks: dict[str, float] = {}
    stored: dict[str, int] = {}
    able: list[Turn] = []
    for turn in turns:
        stage.say(f"  {turn.contestant}: memory and correctness")
        try:
            peaks[turn.contestant], stored[turn.contestant] = first_turn(stage, turn)
            able.append(turn)
        except CommandFailed as error:
            if is_ours(turn.contestant):
                raise
            stage.leave_out(f"{turn.contestant} in {scenario} of {data}", str(error))
    runs: dict[str, list[Run]] = {turn.contestant: [] for turn in able}
    racing: Sequence[Turn] = able
    for number in range(stage.rounds if able else 0):
        stage.say(f"  round {number + 1} of {stage.rounds}")
        first = number % len(racing)
        for turn in (*racing[first:], *racing[:first]):
            stage.forget_files()
            with turn.ready() as ready:
                runs[turn.contestant].append(timed(ready.command, stage.environment))
        if number == 0:
            racing = not_behind(racing, {name: done[0].seconds for name, done in runs.items()}, behind_from)
    stage.rows += [
        row(
            scenario, data, turn.contestant, turn.checks, runs[turn.contestant], plain_bytes,
            stored[turn.contestant], peaks[turn.contestant],
        )
        for turn in able
    ]  # fmt: skip


def not_behind(turns: Sequence[Turn], seconds: Mapping[str, float], behind_from: float) -> list[Turn]:
    """Ours, and the peers that took less than so many times the shortest time."""
    limit = min(seconds.values()) * behind_from
    return [one for one in turns if is_ours(one.contestant) or seconds[one.contestant] < limit]


def first_turn(stage: Stage, turn: Turn) -> tuple[float, int]:
    """Peak MiB and stored bytes; CommandFailed when the command fails or its result is wrong."""
    with turn.ready() as ready:
        run = sampled(ready.command, stage.environment, stage.memory / "log")
        if wrong := ready.wrong():
            raise CommandFailed(f"‘{ready.command}’ made something else:\n{wrong[:2000]}")
        return run.peak_mib, ready.stored()


def row(
    scenario: str,
    data: str,
    contestant: str,
    checks: str,
    runs: Sequence[Run],
    plain_bytes: int,
    stored: int,
    peak_mib: float,
) -> Row:
    """What some runs of one command come to."""
    seconds = [one.seconds for one in runs]
    return Row(
        scenario=scenario,
        data=data,
        contestant=contestant,
        rounds=len(runs),
        seconds=statistics.median(seconds),
        fastest=min(seconds),
        slowest=max(seconds),
        processor_seconds=statistics.median(one.processor_seconds for one in runs),
        plain_bytes=plain_bytes,
        stored_bytes=stored,
        peak_mib=peak_mib,
        checks=checks,
    )
