"""Two readers of partition tables say the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.probe.tables import table_by_kernel, table_of
from agent.process import run

GPT = """label: gpt
size=1M, type=21686148-6449-6E6F-744E-656564454649, name="bios boot", attrs="LegacyBIOSBootable GUID:60"
size=20M, type=L, name="räöt"
size=10M, type=S
"""
MBR = """label: dos
size=20M, type=83, bootable
size=10M, type=82
"""


@pytest.fixture(params=[512, 4096])
def loop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    node = Path(run(["losetup", "--find", "--show", "--sector-size", str(request.param), image]).stdout.strip())
    run(["partx", "-d", node], accept=(0, 1))  # what an earlier user of the device left behind
    try:
        yield node
    finally:
        run(["partx", "-d", node], accept=(0, 1))
        run(["losetup", "-d", node])


def facts(table: dict[str, object]) -> list[Any]:
    partitions = table["partitions"]
    assert isinstance(partitions, list)
    keys = ("node", "start", "size", "type", "uuid", "name", "attrs", "bootable")
    return [
        str(table["label"]),
        str(table["id"]).lower(),
        [[str(part.get(key) or "").lower() for key in keys] for part in partitions],
    ]


@pytest.mark.root
@pytest.mark.parametrize("script", [GPT, MBR])
def test_without_sfdisk_the_same_is_told(loop: Path, script: str) -> None:
    run(["sfdisk", "--quiet", loop], stdin=script.encode(), accept=(0, 1))
    run(["partx", "-a", loop])
    told = facts(table_by_kernel(loop))
    assert told == facts(table_of(loop))
    assert len(told[2]) == script.count("size=")


@pytest.mark.root
def test_a_disk_without_a_table_has_none(loop: Path) -> None:
    assert table_by_kernel(loop) == {}
    assert table_of(loop) == {}
