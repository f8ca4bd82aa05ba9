"""The floor: decompression alone on all processors, and writing alone; what a restore cannot be faster than.

The tree is cut into as many parts as there are processors. Each part is unfolded by a zstd of its own into nothing,
and, in another turn, written from an uncompressed tar in memory by a tar of its own; the directories are made before,
because two tars that make the same ones disturb each other.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from agent.process import run
from tests.bench.contestants import PROCESSORS, REGRAFT_CONTESTANT, TAR_METADATA
from tests.bench.data import Data
from tests.bench.filesystems import PATIENCE_S, remove_tree, target_tree
from tests.bench.measure import timed
from tests.bench.rounds import Ready, Turn, measure
from tests.bench.scenarios.restore import ready as restore_ready
from tests.bench.stage import Stage
from tests.bench.tree import size_of
from tests.bench.values import DECOMPRESSION, OURS, WRITING

ENTRY_COST_BYTES = 16 << 10  # what making an entry costs, in bytes that could be written meanwhile; only cuts the parts


def floor(stage: Stage) -> None:
    data = stage.data.system()
    parts = stage.folder("parts")
    with stage.source(data.image) as tree:
        make_parts(stage, tree, parts)
    turns = [
        Turn(DECOMPRESSION, partial(decompression, parts)),
        Turn(WRITING, partial(writing, stage, data, parts)),
        Turn(OURS, partial(restore_ready, stage, data, REGRAFT_CONTESTANT), REGRAFT_CONTESTANT.checks),
    ]
    measure(stage, "floor", data.name, data.bytes, turns)
    remove_tree(parts)


def make_parts(stage: Stage, tree: Path, parts: Path) -> None:
    """Directories as dirs.tar, the rest as N.tar of about the same work each; N.zst is the same, compressed."""
    directories, cuts = cut(tree, PROCESSORS)
    for name, names in (("dirs", directories), *((f"part-{number}", each) for number, each in enumerate(cuts))):
        listed = parts / f"{name}.names"
        listed.write_bytes(b"\0".join(names))
        tar = f"tar -C {tree} {TAR_METADATA} --no-recursion --null --files-from={listed} -cf {parts}/{name}.tar"
        timed(f"{tar} && zstd -q -3 {parts}/{name}.tar -o {parts}/{name}.zst", stage.environment)


def cut(tree: Path, count: int) -> tuple[list[bytes], list[list[bytes]]]:
    """The directories below a tree, and the other names, in the order of a walk, in ``count`` runs of like work."""
    directories: list[bytes] = []
    found: list[tuple[bytes, int]] = []
    for folder, folders, names in os.walk(os.fsencode(tree)):
        folders.sort()
        directories += [os.path.relpath(os.path.join(folder, name), os.fsencode(tree)) for name in folders]
        for name in sorted(names):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            size = status.st_size if stat.S_ISREG(status.st_mode) else 0
            found.append((os.path.relpath(path, os.fsencode(tree)), size + ENTRY_COST_BYTES))
    share = sum(cost for _, cost in found) / count
    parts: list[list[bytes]] = [[] for _ in range(count)]
    reached = 0
    for name, cost in found:
        parts[min(int(reached / share), count - 1)].append(name)
        reached += cost
    return directories, parts


@contextmanager
def decompression(parts: Path) -> Iterator[Ready]:
    yield Ready(f"printf '%s\\n' {parts}/*.zst | xargs -P {PROCESSORS} -n 1 zstd -qdc > /dev/null")


@contextmanager
def writing(stage: Stage, data: Data, parts: Path) -> Iterator[Ready]:
    with target_tree(stage.memory, data.image_bytes, data.inodes) as target:
        untar = f"tar -C {target.mountpoint} {TAR_METADATA} -xpf"
        each = f"printf '%s\\n' {parts}/part-*.tar | xargs -P {PROCESSORS} -n 1 {untar}"
        command = f"{untar} {parts}/dirs.tar && {each} && sync -f {target.mountpoint}"
        yield Ready(command, partial(incomplete, data, target.mountpoint))


def incomplete(data: Data, found: Path) -> str:
    """Links between parts came apart, so only names are counted."""
    run(["sync", "-f", found], timeout_s=PATIENCE_S)
    entries = size_of(found).entries
    return "" if entries == data.facts.size.entries else f"{entries} entries, expected {data.facts.size.entries}"
