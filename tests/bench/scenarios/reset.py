"""Reset: a machine that was restored and then drifted is made what its image says again, against a whole restore."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from agent.process import run
from tests.bench.contestants import REGRAFT, REGRAFT_CONTESTANT, Places
from tests.bench.filesystems import Target, copy_sparse, copy_store, remove_tree, target_copy, target_tree
from tests.bench.rounds import Ready, Turn, measure
from tests.bench.stage import Stage
from tests.bench.values import HASHING, LOOKING, OURS, TRUSTING

LOOK = "find {target} -xdev -printf '%p %s %T@ %m %U %G\\n' > /dev/null"
TRUST, DELETE = "--trust-metadata", "--delete"
MakeTarget = Callable[[], AbstractContextManager[Target]]


def reset(stage: Stage) -> None:
    data = stage.data.system()
    drifted = copy_sparse(stage.data.drifted().image, stage.memory / "drifted.img")
    store = copy_store(stage.store(data, REGRAFT_CONTESTANT), stage.memory / "store")
    empty: MakeTarget = partial(target_tree, stage.memory, data.image_bytes, data.inodes)
    again: MakeTarget = partial(target_copy, stage.memory, drifted)
    known = known_options()
    if DELETE not in known:
        stage.leave_out("removal of new files in a reset", f"this regraft extract has no {DELETE}; they stay")
    delete = DELETE if DELETE in known else ""
    turns = [turn(stage, store, OURS, empty, ""), turn(stage, store, HASHING, again, delete)]
    if TRUST in known:
        turns.append(turn(stage, store, TRUSTING, again, f"{TRUST} {delete}"))
    else:
        stage.leave_out(TRUSTING, f"this regraft extract has no {TRUST}; reset_share is that of hashing")
    turns.append(Turn(LOOKING, partial(looking, again)))
    measure(stage, "reset", data.name, data.bytes, turns)
    drifted.unlink()
    remove_tree(store)


def known_options() -> str:
    return run([*REGRAFT.split(), "extract", "--help"]).stdout


def turn(stage: Stage, store: Path, name: str, target: MakeTarget, options: str) -> Turn:
    command = REGRAFT_CONTESTANT.unpack.replace("--json", f"--json {options}")
    extra = name != OURS and DELETE not in options
    return Turn(name, partial(ready, stage, store, target, command, extra), REGRAFT_CONTESTANT.checks)


@contextmanager
def looking(target: MakeTarget) -> Iterator[Ready]:
    with target() as made:
        yield Ready(Places(target=made.mountpoint).fill(LOOK))


@contextmanager
def ready(stage: Stage, store: Path, target: MakeTarget, command: str, extra: bool) -> Iterator[Ready]:
    with target() as made:
        filled = Places(store=store, target=made.mountpoint).fill(command)
        yield Ready(filled, partial(stage.differs, stage.data.system(), REGRAFT_CONTESTANT, made.mountpoint, extra))
