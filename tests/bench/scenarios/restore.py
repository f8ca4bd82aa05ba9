"""Restore: each contestant's own store onto an empty file system, or a blank device, on a loop device in memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from tests.bench.contestants import Contestant, Places, stored_bytes
from tests.bench.data import Data
from tests.bench.filesystems import copy_store, remove_tree, target_device, target_tree
from tests.bench.measure import CommandFailed
from tests.bench.rounds import Ready, Turn, measure
from tests.bench.stage import Stage, is_ours

BEHIND_FROM = 2.0  # times the fastest: who is so far behind cannot be the fastest of all, or of those that check
KEPT = ("regraft", "tar")  # later scenarios want these stores of the system


def restore_system(stage: Stage) -> None:
    data = stage.data.system()
    restore(stage, data, stage.contestants)
    stage.forget_stores(data, stage.those(*KEPT))


def restore_large(stage: Stage) -> None:
    """With as many contestants as the disk holds stores of; the first of them are the fastest."""
    data = stage.data.large()
    # The target, and a store of at most half of that beside it; one store a contestant on the disk.
    if stage.has_memory("restore of the large files", data.bytes * 3 // 2):
        places = shutil.disk_usage(stage.work).free // (data.bytes * 4 // 10)
        for one in stage.contestants[places:]:
            stage.leave_out(f"{one.name} with {data.name}", f"{stage.work} has room for {places} stores of that size")
        if places:
            restore(stage, data, stage.contestants[:places])
    stage.forget_stores(data)


def restore(stage: Stage, data: Data, contestants: Sequence[Contestant]) -> None:
    packed = [one for one in contestants if packs(stage, data, one)]
    turns = [Turn(one.name, partial(ready, stage, data, one), one.checks) for one in packed]
    measure(stage, "restore", data.name, data.bytes, turns, BEHIND_FROM)


def packs(stage: Stage, data: Data, contestant: Contestant) -> bool:
    """Whether there is a store to restore from."""
    try:
        stage.store(data, contestant)
    except CommandFailed as error:
        if is_ours(contestant.name):
            raise
        stage.leave_out(f"{contestant.name} with {data.name}", str(error))
        return False
    return True


@contextmanager
def ready(stage: Stage, data: Data, contestant: Contestant) -> Iterator[Ready]:
    store = copy_store(stage.store(data, contestant), stage.memory / "store")
    cache = stage.folder("cache")
    try:
        if contestant.devices:
            with target_device(stage.memory, data.image_bytes) as target:
                places = Places(store=store, cache=cache, node=target.node)
                yield Ready(
                    places.fill(contestant.unpack),
                    partial(stage.device_differs, data, contestant, target.node),
                    partial(stored_bytes, store),
                )
        else:
            with target_tree(stage.memory, data.image_bytes, data.inodes) as target:
                places = Places(store=store, cache=cache, target=target.mountpoint)
                yield Ready(
                    places.fill(contestant.unpack),
                    partial(stage.differs, data, contestant, target.mountpoint),
                    partial(stored_bytes, store),
                )
    finally:
        remove_tree(store)
