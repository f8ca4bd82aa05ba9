"""Trusting metadata: what is right is found by all processors at once, what is not is made right as ever."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.depot.local import LocalDepot
from agent.image import survey, survey_marks
from agent.image.entry import PART_BYTES
from agent.image.listing import open_listing
from agent.image.survey_marks import EVERY_NAME, NAMED, Marks
from agent.image.survey_work import DIFFERS, Seen
from agent.image.write import WriteResult, write_volume
from tests.image.source_tree import Carried, carry, describe, no_events, plain_tree, random_bytes

SEEDS = range(8)


@pytest.fixture
def carried(depot: LocalDepot, tmp_path: Path) -> Carried:
    """An image of ``source``: directories in directories, names that sort between them, one large file."""
    tree = tmp_path / "source"
    plain_tree(tree)
    for number in range(60):
        folder = tree / f"d{number % 3}/e{number % 5}/f{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file-{number}").write_text(f"{number}\n" * 40)
        (folder.parent / f"z{number}").symlink_to(f"f{number}")
        (folder.parent.parent / f"own-{number}").write_text("x")
    (tree / "d1/huge").write_bytes(random_bytes(PART_BYTES + 9000))
    return carry(tree, depot)


def again(carried: Carried, target: Path) -> WriteResult:
    return write_volume(carried.depot, carried.loaded, "root", target, no_events, trust_metadata=True)


@pytest.fixture
def target(carried: Carried, tmp_path: Path) -> Path:
    target = tmp_path / "target"
    target.mkdir()
    write_volume(carried.depot, carried.loaded, "root", target, no_events)
    return target


def drift(target: Path, chance: random.Random) -> None:
    """A few changes at places that nobody chose."""
    for _ in range(chance.randint(1, 12)):
        everything = sorted(target.rglob("*"))
        path = chance.choice(everything)
        is_directory = path.is_dir() and not path.is_symlink()
        match chance.randint(0, 8):
            case 0:
                shutil.rmtree(path) if is_directory else path.unlink()
            case 1:
                os.utime(path, follow_symlinks=False)
            case 2 if not path.is_symlink():
                path.chmod(0o700)
            case 3:
                os.chown(path, 12, 13, follow_symlinks=False)
            case 4:
                (path if is_directory else path.parent).joinpath(f"new-{len(everything)}").mkdir()
            case 5:
                (path if is_directory else path.parent).joinpath(f"new-{len(everything)}").write_text("new")
            case 6 if not is_directory:
                path.unlink()
                path.mkdir()
            case 7 if is_directory:
                os.setxattr(path, "user.note", b"drifted")
            case 8 if is_directory:
                shutil.rmtree(path)
                path.symlink_to("/etc")


@pytest.mark.root
@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_drifted_is_the_image_again(
    seed: int, carried: Carried, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "TASK_LINES", 1 + seed * 5)
    if seed % 2:
        monkeypatch.setattr(survey, "LONG_BYTES", 1500)  # directories whose lines go to several workers
    wanted = describe(tmp_path / "source")
    chance = random.Random(seed)
    for _ in range(3):
        drift(target, chance)
        again(carried, target)
        assert describe(target) == wanted
    last = again(carried, target)
    assert (last.bytes_written, last.bytes_fetched, last.removed) == (0, 0, 0)
    assert last.entries == len(wanted)
    assert last.bytes_kept == carried.result.content_bytes


@pytest.mark.root
def test_what_is_right_is_not_marked(carried: Carried, target: Path) -> None:
    (target / "d1/e1/f1/new").touch()
    (target / "d2/e2").chmod(0o700)
    (target / "d0/own-0").unlink()
    with open_listing(carried.depot, carried.loaded.manifest, carried.loaded.manifest.volumes[0]) as listing:
        with survey.from_below(target) as below:
            marks = survey.survey(listing, target, frozenset(), 2, below)
        marked = {
            entry.path: mark
            for entries, _, chosen in listing.marked(marks)
            for entry, mark in zip(entries, chosen, strict=True)
            if entry.type != "hardlink"
        }
    assert set(marked.values()) == {DIFFERS}
    assert marks.extra == {b"d1/e1/f1": [b"new"]}
    # The directory of the hard link, and those that lead to what differs, come along.
    assert set(marked) == {"", "d0", "d0/own-0", "d1", "d1/e1", "d1/e1/f1", "d2", "d2/e2", "usr", "usr/bin"}


@pytest.mark.root
def test_nothing_is_fetched_and_written_but_what_differs(carried: Carried, target: Path, tmp_path: Path) -> None:
    before = {path: path.lstat().st_ctime_ns for path in target.rglob("*")}
    (target / "d1/e1/f1/file-1").write_text("other")
    result = again(carried, target)
    assert describe(target) == describe(tmp_path / "source")
    touched = {str(path.relative_to(target)) for path in before if path.lstat().st_ctime_ns != before[path]}
    assert result.bytes_written == (tmp_path / "source/d1/e1/f1/file-1").stat().st_size
    assert "d1/e1/f1/file-1" in touched and touched <= {"d1", "d1/e1", "d1/e1/f1", "d1/e1/f1/file-1"}


# --- how marks add up, without a tree ---------------------------------------------------------------------------------


def add(marks: Marks, *folders: tuple[str, int]) -> None:
    for path, line in folders:
        marks.directory(path.encode(), line)


TREE = (("", 0), ("a", 2), ("a/b", 4), ("a/c", 6), ("d", 8))  # each with one file behind it
ALL: list[list[bytes] | None] = [[b"a", b"d"], [b"b", b"c"], [], [], []]
Change = Callable[[Marks], None]


def marked(lines: bytes, found: list[list[bytes] | None], elsewhere: frozenset[bytes] = frozenset()) -> bytes:
    return added(lines, found, elsewhere)[:]


def added(lines: bytes, found: list[list[bytes] | None], elsewhere: frozenset[bytes] = frozenset()) -> Marks:
    marks = Marks(elsewhere)
    add(marks, *TREE)
    half = 4  # results come in any order
    marks.seen(Seen(half, lines[half:], found[2:]))
    marks.end(10)
    marks.seen(Seen(0, lines[:half], found[:2]))
    marks.finish()
    return marks


def test_a_tree_that_is_right_has_no_marks() -> None:
    assert marked(bytes(10), ALL) == bytes(10)


def test_what_differs_brings_the_directories_that_lead_to_it() -> None:
    assert marked(bytes([0, 0, 0, 0, 0, 0, 0, 1, 0, 0]), ALL) == bytes([1, 0, 1, 0, 0, 0, 1, 1, 0, 0])


def test_a_name_that_does_not_belong_is_told() -> None:
    found: list[list[bytes] | None] = [ALL[0], [b"b", b"c", b"more"], *ALL[2:]]
    marks = added(bytes(10), found)
    assert marks[:] == bytes([1, 0, 1, 0, 0, 0, 0, 0, 0, 0])
    assert marks.extra == {b"a": [b"more"]}


def test_where_too_much_does_not_belong_all_names_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_marks, "EXTRA_NAMES", 0)
    found: list[list[bytes] | None] = [ALL[0], [b"b", b"c", b"more"], *ALL[2:]]
    assert marked(bytes(10), found) == bytes([1, 0, EVERY_NAME, NAMED, NAMED, 0, NAMED, 0, 0, 0])


def test_what_is_in_another_volume_s_directory_is_not_asked_for() -> None:
    found: list[list[bytes] | None] = [ALL[0], ALL[1], [b"more"], *ALL[3:]]
    assert marked(bytes(10), found, frozenset({b"a/b"})) == bytes(10)


def test_where_a_directory_is_absent_all_names_come() -> None:
    """What lies beside it may be a file that is listed under its name, and is to be refused."""
    found: list[list[bytes] | None] = [ALL[0], [b"b", b"more"], [], None, []]
    marks = added(bytes([0, 0, 0, 0, 0, 0, 1, 1, 0, 0]), found)
    assert marks[:] == bytes([1, 0, EVERY_NAME, NAMED, NAMED, 0, 1, 1, 0, 0])
    assert not marks.extra
    assert marked(bytes([0, 0, 0, 0, 0, 0, 1, 1, 0, 0]), found, frozenset({b"a"}))[2] == EVERY_NAME


def test_the_root_may_have_its_lost_and_found() -> None:
    found: list[list[bytes] | None] = [[b"a", b"d", b"lost+found"], [b"b", b"c", b"lost+found"], *ALL[2:]]
    marks = added(bytes(10), found)
    assert marks.extra == {b"a": [b"lost+found"]}
