"""Clocks, comparisons and turns: what measures must be right itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from agent.process import run
from tests.bench.data import DataSets, Origin
from tests.bench.filesystems import forget_files_of, make_ext4, mounted
from tests.bench.measure import CommandFailed, children_of, sampled, timed
from tests.bench.rounds import Ready, Turn, measure
from tests.bench.stage import Stage
from tests.bench.text import section
from tests.bench.tree import same, size_of


def stage_in(folder: Path, rounds: int = 3) -> Stage:
    return Stage(
        memory=folder,
        work=folder,
        data=DataSets(folder, Origin(mib=1), lambda line: None),
        contestants=[],
        rounds=rounds,
        environment={},
        say=lambda line: None,
        nginx=None,
        small=True,
    )


@pytest.mark.root
def test_files_of_a_folder_are_forgotten_and_no_others(tmp_path: Path) -> None:
    """On an ext4 of their own: a folder in memory would have nothing to forget."""
    with mounted(make_ext4(tmp_path / "image", 64 << 20), tmp_path / "mounted") as root:
        folder, other = root / "folder/below", root / "other"
        folder.mkdir(parents=True)
        for path in (folder / "file", other):
            path.write_bytes(os.urandom(1 << 20))
        (folder / "link").symlink_to(other)
        words = ["fincore", "--bytes", "--noheadings", "--raw", "--output", "RES", str(folder / "file"), str(other)]
        assert run(words).stdout.split() == ["1048576", "1048576"]

        forget_files_of(root / "folder")
        assert run(words).stdout.split() == ["0", "1048576"]


@pytest.mark.root
def test_a_tree_that_differs_is_noticed(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / "file").write_text("content")
        os.utime(folder / "file", (1, 1))
    assert same(one, other) == ""
    (other / "file").chmod(0o600)
    assert "file" in same(one, other)
    (other / "file").chmod(0o644)
    (other / "more").touch()
    assert "more" in same(one, other)


@pytest.mark.tools
def test_a_command_that_fails_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="status 3:\nsaid so"):
        timed("echo said so; exit 3", {})
    with pytest.raises(CommandFailed, match="status 1"):
        timed("false | true", {})
    with pytest.raises(CommandFailed, match="status 4:\nsaid so"):
        sampled("echo said so; exit 4", {}, tmp_path / "log")


@pytest.mark.tools
def test_memory_and_processor_seconds_are_those_of_all_processes_together(tmp_path: Path) -> None:
    hungry = "python3 -c 'import time; kept = bytearray(40 << 20); time.sleep(0.4)'"
    run = sampled(f"{hungry} & {hungry} & wait", {}, tmp_path / "log")
    assert 80 < run.peak_mib < 200
    busy = "python3 -c 'import time\nwhile time.process_time() < 0.3: pass'"
    assert 0.6 <= timed(f"{busy} & {busy} & wait", {}).processor_seconds < 2


@pytest.mark.tools
def test_contestants_take_turns_and_another_begins_each_round(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    stage = stage_in(tmp_path)

    @contextmanager
    def ready(name: str) -> Iterator[Ready]:
        yield Ready(f"echo {name} >> {diary}", stored=lambda: 7)

    measure(stage, "s", "d", 10**9, [Turn(name, partial(ready, name)) for name in ("regraft", "b", "c")])
    untimed, *rounds = zip(*[iter(diary.read_text().split())] * 3, strict=True)
    assert untimed == ("regraft", "b", "c")
    assert rounds == [("regraft", "b", "c"), ("b", "c", "regraft"), ("c", "regraft", "b")]
    assert [(row.contestant, row.rounds, row.stored_bytes) for row in stage.rows] == [
        ("regraft", 3, 7), ("b", 3, 7), ("c", 3, 7),
    ]  # fmt: skip


@pytest.mark.tools
def test_who_is_far_behind_is_measured_once(tmp_path: Path) -> None:
    stage = stage_in(tmp_path)

    @contextmanager
    def ready(seconds: float) -> Iterator[Ready]:
        yield Ready(f"sleep {seconds}")

    times = {"regraft": 0.8, "near": 0.2, "far": 0.8}
    turns = [Turn(name, partial(ready, seconds)) for name, seconds in times.items()]
    measure(stage, "s", "d", 1, turns, behind_from=2.5)
    assert [(row.contestant, row.rounds) for row in stage.rows] == [("regraft", 3), ("near", 3), ("far", 1)]
    text = "\n".join(section("s", "d", stage.rows))
    assert "far (1 round)" in text
    assert "near (" not in text


@pytest.mark.tools
def test_a_peer_that_is_wrong_is_left_out_and_ours_may_not_be(tmp_path: Path) -> None:
    stage = stage_in(tmp_path, rounds=1)

    @contextmanager
    def ready(wrong: str) -> Iterator[Ready]:
        yield Ready("true", lambda: wrong)

    measure(stage, "s", "d", 1, [Turn("regraft", partial(ready, "")), Turn("peer", partial(ready, "*deleting file"))])
    assert [row.contestant for row in stage.rows] == ["regraft"]
    assert [(one.what, "*deleting file" in one.why) for one in stage.left_out] == [("peer in s of d", True)]
    with pytest.raises(CommandFailed, match="made something else"):
        measure(stage, "s", "d", 1, [Turn("regraft", partial(ready, ".f...p file"))])


def test_links_and_the_file_systems_own_folder_count_once_and_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_bytes(bytes(100))
    os.link(tmp_path / "folder/file", tmp_path / "again")
    (tmp_path / "link").symlink_to("file")
    found = size_of(tmp_path)
    assert (found.entries, found.files, found.bytes) == (4, 2, 100)


def test_a_process_that_is_gone_has_no_children() -> None:
    """It may end between two looks."""
    gone = 1 << 22 | 1  # above every number that Linux gives (PID_MAX_LIMIT)
    assert children_of(gone) == []
