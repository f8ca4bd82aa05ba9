"""What a restore brings back, compared by other people's programs on real file systems; none of our code compares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.depot.local import LocalDepot
from agent.image.write import write_volume
from agent.process import run
from tests.image import outsiders
from tests.image.fidelity_tree import both, make_everything, unlock
from tests.image.source_tree import carry, no_events

pytestmark = pytest.mark.root

MakeFileSystem = Callable[[str, str], Path]
SAME = "SiadADC"  # lsattr: sync, immutable, append-only, nodump, noatime, dirsync, nodatacow
PAIRS = [("ext4", "ext4"), ("xfs", "xfs"), ("btrfs", "btrfs"), ("ext4", "xfs"), ("xfs", "ext4"), ("ext4", "btrfs")]


def assert_outsiders_agree(source: Path, target: Path, scratch: Path) -> None:
    run(["sync", "-f", target])
    told = {
        "rsync": outsiders.by_rsync(source, target),
        "tar": outsiders.by_tar(source, target, scratch),
        "find": outsiders.by_stat(source, target),
        "stat": outsiders.by_devices(source, target),
        "getcap": outsiders.by_capabilities(source, target),
        "getfacl": outsiders.by_acls(source, target),
        "getfattr": outsiders.by_attributes(source, target),
        "lsattr": outsiders.by_flags(source, target, SAME),
        "SEEK_HOLE": outsiders.by_holes(source, target),
    }
    found = [f"{program}:\n{text[:3000]}" for program, text in told.items() if text]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("here", "there"), PAIRS, ids=str)
def test_outsiders_find_nothing_unlike(
    here: str, there: str, depot: LocalDepot, file_system: MakeFileSystem, tmp_path: Path
) -> None:
    source, target = file_system(here, "source") / "tree", file_system(there, "target") / "tree"
    source.mkdir()
    target.mkdir()
    try:
        make_everything(source, both(here, there))
        run(["sync", "-f", source])
        carried = carry(source, depot, kind=here)
        assert carried.result.warnings == ()
        assert write_volume(depot, carried.loaded, "root", target, no_events).warnings == ()
        assert_outsiders_agree(source, target, tmp_path / "archive.tar")
    finally:
        unlock(source)
        unlock(target)
