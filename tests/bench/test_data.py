"""The data sets: the same every time, changed as much as they say, cut as evenly as they say."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest

from tests.bench import drift, identity, large, many
from tests.bench.data import DataSets, Origin, code_of, key_of
from tests.bench.scenarios.floor import ENTRY_COST_BYTES, cut

MIB = 1 << 20


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def small_tree(root: Path, count: int = 500) -> Path:
    for number in range(count):
        path = root / f"usr/{number % 7}/file-{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d\n" % number * 300)
    return root


def test_large_files_are_the_same_every_time_and_partly_compressible(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        large.make_large(tmp_path / name, 20 * MIB)
    one = contents(tmp_path / "one")
    assert one == contents(tmp_path / "other")
    assert sum(map(len, one.values())) == 20 * MIB
    whole = b"".join(one.values())
    assert 0.15 < len(zlib.compress(whole, 1)) / len(whole) < 0.7
    pieces = {whole[at : at + 4096] for at in range(0, len(whole), 4096)}
    assert len(pieces) == len(whole) // 4096, "nothing in them is there twice"


def test_one_file_in_a_hundred_drifts(tmp_path: Path) -> None:
    root = small_tree(tmp_path / "tree")
    before = contents(root)
    modes = {name: (root / name).stat().st_mode for name in before}
    drift.make_drifted(root)
    after = contents(root)
    changed = {
        name for name in before if after.get(name) != before[name] or (root / name).stat().st_mode != modes[name]
    }
    assert len(changed) == 5
    made = small_tree(tmp_path / "larger", 1000)
    drift.make_drifted(made)
    assert (
        len(contents(made).keys() - before.keys() - {f"usr/{number % 7}/file-{number}" for number in range(1000)}) == 1
    )


def test_a_second_machine_has_another_identity_and_the_same_software(tmp_path: Path) -> None:
    root = small_tree(tmp_path / "tree")
    identity.give_identity(root, identity.FIRST)
    before = contents(root)
    drift.make_second(root)
    after = contents(root)
    changed = {name for name in before if after[name] != before[name]}
    assert {"etc/hostname", "etc/machine-id", "etc/ssh/ssh_host_rsa_key", "var/log/syslog"} <= changed
    assert len([name for name in changed if name.startswith("usr/")]) == 1
    assert after.keys() == before.keys()


def test_growth_has_as_many_files_and_as_many_bytes_as_it_says(tmp_path: Path) -> None:
    for name in ("many", "tiny", "sparse"):
        (tmp_path / name).mkdir()
    many.make_many(tmp_path / "many", 1200)
    sizes = [path.stat().st_size for path in (tmp_path / "many").rglob("file-*")]
    assert len(sizes) == 1200 and 100 <= min(sizes) <= max(sizes) <= many.LARGEST_BYTES + 10
    many.make_many(tmp_path / "tiny", 600, tiny=True)
    assert {path.read_text() for path in (tmp_path / "tiny").rglob("file-*")} == {f"{n}\n" for n in range(600)}
    written = many.make_sparse(tmp_path / "sparse", 25 * MIB)
    (found,) = (tmp_path / "sparse").iterdir()
    assert (found.stat().st_size, written) == (25 * MIB, 3 * MIB)
    assert found.stat().st_blocks * 512 < 5 * MIB


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_floors_parts_hold_everything_once_and_about_the_same(tmp_path: Path, count: int) -> None:
    root = small_tree(tmp_path / "tree")
    directories, parts = cut(root, count)
    names = [*directories, *(name for part in parts for name in part)]
    there = {os.fsencode(path.relative_to(root)) for path in root.rglob("*")}
    assert len(names) == len(set(names)) and set(names) == there
    costs = [sum((root / os.fsdecode(name)).lstat().st_size + ENTRY_COST_BYTES for name in part) for part in parts]
    assert max(costs) < 1.1 * min(costs)


@pytest.mark.root
def test_a_data_set_is_made_once_and_again_when_it_was_cut_short(tmp_path: Path) -> None:
    said: list[str] = []
    first = DataSets(tmp_path, Origin(mib=2), said.append).system()
    assert first.facts.size.bytes > MIB and "2 MiB" in first.facts.how
    assert DataSets(tmp_path, Origin(mib=2), said.append).system() == first
    assert said == ["system: being made"]
    (first.image.parent / "facts.json").unlink()
    assert DataSets(tmp_path, Origin(mib=2), said.append).system().facts == first.facts
    assert len(said) == 2


def test_a_key_depends_on_the_code_that_makes_the_data() -> None:
    assert key_of(large) == key_of(large) != key_of(many)
    assert code_of('"""Words."""\nX = 1  # more\n') == code_of('"""Other words."""\nX   =   1') != code_of("X = 2")
