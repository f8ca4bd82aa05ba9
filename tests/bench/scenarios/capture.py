"""Capture: a first one into an empty store, a second one of the unchanged tree, one of a second machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

from tests.bench.contestants import Contestant, Places, stored_bytes
from tests.bench.data import Data
from tests.bench.filesystems import copy_sparse, copy_store, remove_tree
from tests.bench.measure import CommandFailed, timed
from tests.bench.rounds import Ready, Turn, measure
from tests.bench.stage import Stage, is_ours

FIRST = ("regraft", "tar", "squashfs", "restic", "borg")
INCREMENTAL = ("regraft", "restic", "borg")


def capture(stage: Stage) -> None:
    data = stage.data.system()
    image = copy_sparse(data.image, stage.memory / "source.img")
    turns = [Turn(one.name, partial(first_capture, stage, data, image, one)) for one in stage.those(*FIRST)]
    measure(stage, "capture", data.name, data.bytes, turns)
    image.unlink()


@contextmanager
def first_capture(stage: Stage, data: Data, image: Path, contestant: Contestant) -> Iterator[Ready]:
    store = stage.folder("store")
    with stage.source(image) as tree:
        places = Places(tree=tree, store=store, cache=stage.folder("cache"))
        timed(places.fill(contestant.prepare), stage.environment)
        yield Ready(
            places.fill(contestant.pack),
            partial(stage.restores_wrongly, data, contestant, places),
            partial(stored_bytes, store),
        )
    remove_tree(store)


def recapture(stage: Stage) -> None:
    """Into stores that hold the same tree already, with what each remembers of it."""
    data = stage.data.system()
    image = copy_sparse(data.image, stage.memory / "source.img")
    turns = []
    for contestant in with_first(stage, image):
        turns.append(Turn(contestant.name, partial(again, stage, data, image, contestant, count(1))))
    measure(stage, "recapture", data.name, data.bytes, turns)
    forget(stage, image)


@contextmanager
def again(stage: Stage, data: Data, image: Path, contestant: Contestant, numbers: Iterator[int]) -> Iterator[Ready]:
    places = kept_places(stage, contestant)
    before = stored_bytes(places.store)
    with stage.source(image) as tree:
        places = replace(places, tree=tree, archive=f"again-{next(numbers)}")
        yield Ready(
            places.fill(contestant.pack),
            partial(stage.restores_wrongly, data, contestant, places),
            lambda: stored_bytes(places.store) - before,
        )


def second_machine(stage: Stage) -> None:
    """What the same software on another machine adds to a store."""
    data, second = stage.data.system(), stage.data.second()
    image = copy_sparse(data.image, stage.memory / "source.img")
    able = with_first(stage, image)
    image.unlink()
    copy_sparse(second.image, image)
    turns = [Turn(one.name, partial(other, stage, second, image, one)) for one in able]
    measure(stage, "second", data.name, second.bytes, turns)
    forget(stage, image)


@contextmanager
def other(stage: Stage, second: Data, image: Path, contestant: Contestant) -> Iterator[Ready]:
    store = copy_store(kept_places(stage, contestant).store, stage.memory / "store")
    before = stored_bytes(store)
    with stage.source(image) as tree:
        places = Places(
            tree=tree, store=store, cache=stage.folder("cache"), machine="bench-two", archive="second"
        )  # fmt: skip
        yield Ready(
            places.fill(contestant.pack),
            partial(stage.restores_wrongly, second, contestant, places),
            lambda: stored_bytes(store) - before,
        )
    remove_tree(store)


def with_first(stage: Stage, image: Path) -> list[Contestant]:
    """Who made a first capture into a store that stays; their caches stay, too."""
    able = []
    for contestant in stage.those(*INCREMENTAL):
        places = kept_places(stage, contestant)
        stage.folder(places.cache.name)
        remove_tree(places.store)
        stage.say(f"  {contestant.name}: first capture")
        try:
            with stage.source(image) as tree:
                stage.pack(contestant, replace(places, tree=tree))
            able.append(contestant)
        except CommandFailed as error:
            if is_ours(contestant.name):
                raise
            stage.leave_out(f"{contestant.name}, incremental", str(error))
    return able


def kept_places(stage: Stage, contestant: Contestant) -> Places:
    return Places(
        store=stage.memory / f"kept-{contestant.name}", cache=stage.memory / f"kept-{contestant.name}-cache"
    )  # fmt: skip


def forget(stage: Stage, image: Path) -> None:
    image.unlink()
    for contestant in stage.those(*INCREMENTAL):
        places = kept_places(stage, contestant)
        remove_tree(places.store)
        remove_tree(places.cache)
