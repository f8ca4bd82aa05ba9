"""Deciding: difference, verdicts, recipes and plan for another machine, and a whole rehearsal. No peer does either."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.bench.contestants import REGRAFT, REGRAFT_CONTESTANT
from tests.bench.filesystems import copy_store, remove_tree
from tests.bench.rounds import Ready, Turn, measure
from tests.bench.stage import Stage
from tests.bench.values import DECIDING, REHEARSING

TARGET = Path(__file__).resolve().parents[2] / "machines/qemu-q35-ovmf-nvme-e1000e.xml"
DISK = "serial=TARGET-0001"
# A system without a kernel for the target, or without a boot loader: that a rehearsal says so is its work.
FINDINGS = "case $? in 0|12|32) ;; *) false ;; esac"


def decide(stage: Stage) -> None:
    data = stage.data.system()
    store = copy_store(stage.store(data, REGRAFT_CONTESTANT), stage.memory / "store")
    place = f"bench {shlex.quote(str(TARGET))} --disk {DISK} --depot {shlex.quote(str(store))} --json"
    rehearsal = f"{REGRAFT} rehearse {place} --work {shlex.quote(str(stage.memory))} ; {FINDINGS}"
    turns = [
        Turn(DECIDING, partial(ready, f"{REGRAFT} diff {place}")),
        Turn(REHEARSING, partial(ready, rehearsal)),
    ]
    measure(stage, "decide", data.name, data.bytes, turns)
    remove_tree(store)


@contextmanager
def ready(command: str) -> Iterator[Ready]:
    yield Ready(command)
