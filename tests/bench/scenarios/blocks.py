"""Blocks: a file system that is not read as files (NTFS), by its used blocks, against partclone on the same image."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.bench import blocks_program
from tests.bench.contestants import PARTCLONE, REGRAFT_CONTESTANT, Contestant, Places, stored_bytes
from tests.bench.data import Data
from tests.bench.filesystems import copy_store, loop_device, remove_tree, target_device
from tests.bench.needs import there
from tests.bench.rounds import Ready, Turn, measure
from tests.bench.stage import Stage
from tests.bench.tree import same_content
from tests.bench.windows import ntfs_mounted

PROGRAM = f"{sys.executable} -m tests.bench.blocks_program"
NEEDED = ("mkfs.ntfs", "ntfs-3g", "partclone.ntfs")  # the last for what is used; ours asks it, too
# The command line captures whole disks; these two call the same engine for one partition.
OURS = replace(
    REGRAFT_CONTESTANT,
    devices=True,
    pack=f"{PROGRAM} capture {{store}} {{image}}",
    unpack=f"{PROGRAM} restore {{store}} {{node}} && sync {{node}}",
)
PEER = replace(PARTCLONE, pack=PARTCLONE.pack.replace("partclone.ext4", "partclone.ntfs"))


def blocks(stage: Stage) -> None:
    if not blocks_program.is_offered():
        stage.leave_out("blocks", "this regraft has no volumes of blocks")
        return
    if absent := [program for program in NEEDED if not there(program)]:
        stage.leave_out("blocks", f"{', '.join(absent)} not found; Debian has them in ntfs-3g and partclone")
        return
    data = stage.data.ntfs()
    turns = [
        Turn(one.name, partial(ready, stage, data, one), one.checks)
        for one in (OURS, *([PEER] if stage.those("partclone") else []))
    ]
    measure(stage, "blocks", data.name, data.bytes, turns)
    stage.forget_stores(data)


@contextmanager
def ready(stage: Stage, data: Data, contestant: Contestant) -> Iterator[Ready]:
    kept = stage.work / f"{data.name}-{contestant.name}"
    if not kept.exists():
        places = Places(image=data.image, store=kept, cache=stage.folder("cache"))
        stage.pack(contestant, places)
    store = copy_store(kept, stage.memory / "store")
    with target_device(stage.memory, data.image_bytes) as target:
        places = Places(store=store, cache=stage.folder("cache"), node=target.node)
        yield Ready(
            places.fill(contestant.unpack), partial(differs, stage, data, target.node), partial(stored_bytes, store)
        )
    remove_tree(store)


def differs(stage: Stage, data: Data, node: Path) -> str:
    """What the files of the restored volume have other than those of the source."""
    with (
        loop_device(data.image, read_only=True) as source,
        ntfs_mounted(source, stage.memory / "expected", "ro") as expected,
        ntfs_mounted(node, stage.memory / "look", "ro") as found,
    ):
        return same_content(expected, found)
