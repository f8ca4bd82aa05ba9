"""Lines of a blocks volume that are not what they should be are refused by name and line."""

from __future__ import annotations

import pytest

from agent.errors import DamagedError
from agent.image.entry import DIRECTORY, FILE, MORE, PART_BYTES, Chunk, Entry, FrameTable
from agent.image.entry_check import EntryCheck
from agent.image.pack import Frame
from agent.model.image import BLOCKS, TREE

MIB = 1 << 20
SIZE = 2 * PART_BYTES


def chunk(at: int, size: int = MIB) -> Chunk:
    return Chunk(at, size, 0, 0, "0" * 64)


def head(*chunks: Chunk, zeros: tuple[tuple[int, int], ...] = (), **changes: object) -> Entry:
    values: dict[str, object] = {"path": "", "type": BLOCKS, "size": SIZE, "chunks": chunks, "zeros": zeros, **changes}
    return Entry(**values)  # type: ignore[arg-type]


def more(*chunks: Chunk, zeros: tuple[tuple[int, int], ...] = ()) -> Entry:
    return Entry(path="", type=MORE, size=PART_BYTES, chunks=chunks, zeros=zeros)


def check(*entries: Entry, kind: str = BLOCKS) -> None:
    frames = FrameTable(("p",))
    frames.add(0, Frame(0, 0, 10, MIB, False, bytes(32)))
    checking = EntryCheck("listing", frames, kind)
    for line, entry in enumerate(entries, 1):
        checking.entries([entry], [line])


def test_chunks_and_zeros_beside_each_other_are_right() -> None:
    check(head(chunk(0), zeros=((MIB, MIB), (3 * MIB, 512))), more(chunk(PART_BYTES), zeros=((SIZE - MIB, MIB),)))


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ((head(chunk(0), zeros=((0, 512),)),), "overlap"),
        ((head(chunk(0), zeros=((MIB - 1, 2),)),), "overlap"),
        ((head(zeros=((MIB, 512), (0, 512), (0, 512))),), "overlap"),
        ((head(zeros=((PART_BYTES - 512, 1024),)),), "reach out of the part"),
        ((head(), more(zeros=((0, 512),))), "reach out of the part|overlap"),
        ((head(), more(zeros=((SIZE - 512, 1024),))), "reach out of the part"),
        ((head(zeros=((0, 0),)),), "overlap"),
        ((head(chunk(SIZE - 512)),), "reach beyond"),
        ((head(chunk(MIB), chunk(0)),), "overlap"),
        ((head(), Entry(path="a", type=FILE)), "does not lie in a directory"),
        ((head(), head()), "root must be the first"),
        ((Entry(path="", type=DIRECTORY),), "of type blocks"),
        ((head(path="a"),), "only a whole volume"),
    ],
)
def test_what_cannot_be_is_refused(entries: tuple[Entry, ...], said: str) -> None:
    with pytest.raises(DamagedError, match=said):
        check(*entries)


def test_blocks_are_no_tree_and_files_have_no_zeros() -> None:
    with pytest.raises(DamagedError, match="of type dir"):
        check(head(), kind=TREE)
    root = Entry(path="", type=DIRECTORY)
    with pytest.raises(DamagedError, match="no zeros of its own"):
        check(root, Entry(path="f", type=FILE, size=MIB, zeros=((0, 512),)), kind=TREE)
    with pytest.raises(DamagedError, match="only a whole volume"):
        check(root, Entry(path="f", type=BLOCKS, size=MIB), kind=TREE)
