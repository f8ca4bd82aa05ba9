"""Growth: capture and restore of ever more files and ever more bytes, once each, with time and memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.contestants import REGRAFT_CONTESTANT, Places, stored_bytes
from tests.bench.filesystems import make_ext4, mounted, remove_tree, target_tree
from tests.bench.many import make_many, make_sparse
from tests.bench.measure import CommandFailed, Run, sampled, timed
from tests.bench.rounds import row
from tests.bench.stage import Stage
from tests.bench.tree import same, size_of
from tests.bench.values import OUR_CAPTURE, OUR_RESTORE

FILES, FILES_SMALL = (10_000, 100_000, 1_000_000), (100, 1_000)
SPARSE, SPARSE_SMALL = (10**9, 10 * 10**9, 50 * 10**9), (10**7, 10**8)
LISTING, LISTING_SMALL = 2_000_000, 10_000
DATA_SHARE = 8  # a sparse tree holds at most one byte of data in that many
FILE_BYTES = 4600  # of the device, for one small file: a block and its inode
INODE_BYTES = 400
INLINE = "inline_data"  # a few bytes lie in the inode: two million files need no block
FIRST_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Step:
    """One size: its name as rows have it, what it needs in memory, and how its tree is made."""

    scenario: str
    data: str
    image_bytes: int
    held_bytes: int
    inodes: int
    make: Callable[[Path], object]
    features: str = ""  # of the ext4


def growth(stage: Stage) -> None:
    for count in FILES_SMALL if stage.small else FILES:
        size = FIRST_BYTES + count * FILE_BYTES
        climb(stage, Step("growth files", f"{count:,} files", size, size, count * 5 // 4 + 2000, many(count)))
    for size in SPARSE_SMALL if stage.small else SPARSE:
        image_bytes = FIRST_BYTES + size * 11 // 10
        held = FIRST_BYTES + size // DATA_SHARE
        climb(stage, Step("growth bytes", f"{size / 10**9:g} GB", image_bytes, held, 4000, sparse(size)))


def listing(stage: Stage) -> None:
    """A listing of two million files, each of a few bytes of its own: what memory depends on, and nothing else."""
    count = LISTING_SMALL if stage.small else LISTING
    size = FIRST_BYTES + count * INODE_BYTES
    climb(stage, Step("listing", f"{count:,} files", size, size, count * 5 // 4 + 2000, many(count, tiny=True), INLINE))


def many(count: int, tiny: bool = False) -> Callable[[Path], object]:
    return lambda root: make_many(root, count, tiny)


def sparse(size_bytes: int) -> Callable[[Path], object]:
    return lambda root: make_sparse(root, size_bytes)


def climb(stage: Stage, step: Step) -> None:
    """Capture and restore a tree of that size, and compare."""
    # Source and target, and as much again in the store and in the kernel's memory of them.
    if not stage.has_memory(f"{step.scenario}: {step.data}", step.held_bytes * 3):
        return
    stage.say(f"  {step.data}")
    image, store = stage.memory / "source.img", stage.folder("store")
    make_ext4(image, step.image_bytes, step.inodes, step.features)
    with mounted(image, stage.memory / "source") as tree:
        step.make(tree)
        plain = size_of(tree).bytes
    ours, log = REGRAFT_CONTESTANT, stage.memory / "log"
    places = Places(store=store, tree=stage.memory / "source")
    timed(places.fill(ours.prepare), stage.environment)
    with stage.source(image):
        captured = sampled(places.fill(ours.pack), stage.environment, log)
    with target_tree(stage.memory, step.image_bytes, step.inodes, step.features) as target:
        command = Places(store=store, target=target.mountpoint).fill(ours.unpack)
        restored = sampled(command, stage.environment, log)
        with stage.source(image) as tree:
            if wrong := same(tree, target.mountpoint):
                raise CommandFailed(f"‘{command}’ restored something else:\n{wrong[:2000]}")
    add(stage, step, OUR_CAPTURE, captured, plain, stored_bytes(store))
    add(stage, step, OUR_RESTORE, restored, plain, stored_bytes(store))
    image.unlink()
    remove_tree(store)


def add(stage: Stage, step: Step, name: str, run: Run, plain_bytes: int, stored: int) -> None:
    stage.rows.append(row(step.scenario, step.data, name, "", [run], plain_bytes, stored, run.peak_mib))
