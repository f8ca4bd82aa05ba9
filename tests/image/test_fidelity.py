"""What a restore brings back, compared by other people's programs on real file systems; none of our code compares."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.depot.local import LocalDepot
from agent.image.verify import verify_volume
from agent.image.write import write_volume
from agent.process import run
from tests.commands.program import FROM_SOURCE, Regraft, background, lines_until
from tests.image import outsiders
from tests.image.fidelity_tree import NOCOW, NODUMP, both, content, make_everything, unlock
from tests.image.source_tree import carry, no_events
from tests.lab.awkward import add_flags, sparse_file

pytestmark = pytest.mark.root

MakeFileSystem = Callable[[str, str], Path]
SAME = "SiadADC"  # lsattr: sync, immutable, append-only, nodump, noatime, dirsync, nodatacow
PAIRS = [("ext4", "ext4"), ("xfs", "xfs"), ("btrfs", "btrfs"), ("ext4", "xfs"), ("xfs", "ext4")]


def unlike(source: Path, target: Path, scratch: Path) -> dict[str, str]:
    """What each outsider has to say, if it has anything to say."""
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
    return {program: text for program, text in told.items() if text}


def assert_outsiders_agree(source: Path, target: Path, scratch: Path) -> None:
    found = unlike(source, target, scratch)
    assert not found, "\n".join(f"{program}:\n{text[:3000]}" for program, text in found.items())


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


def test_extract_brings_the_same_over_plain_http(
    depot: LocalDepot, file_system: MakeFileSystem, tmp_path: Path
) -> None:
    source, target = file_system("ext4", "source") / "tree", file_system("btrfs", "target") / "tree"
    source.mkdir()
    owner = Regraft(FROM_SOURCE, tmp_path / "home")
    words: list[str | Path] = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "-d", depot.root]
    try:
        make_everything(source, both("ext4", "btrfs"))
        owner("capture", "--root", source, "--name", "web-1", "--depot", depot.root)
        with background(words) as server:
            (line,) = lines_until(server, "Serving HTTP")
            reading = ("--depot", line.partition("(")[2].partition(")")[0], "--trust", depot.public_key)
            reader = Regraft(FROM_SOURCE, tmp_path / "home of a reader")
            told = reader.json("extract", "web-1", "--to", target, *reading)
            assert told["warnings"] == [] and told["bytes_written"] > 100 << 20
            assert_outsiders_agree(source, target, tmp_path / "archive.tar")
            again = reader.json("extract", "web-1", "--to", target, "--delete", *reading)
        assert again["warnings"] == [] and again["removed"] == 0, "what is locked is there and right"
        assert again["bytes_written"] < told["bytes_written"] / 3, "only what has several names is written anew"
        assert outsiders.by_rsync(source, target) == outsiders.by_flags(source, target, SAME) == ""
    finally:
        unlock(source)
        unlock(target)


def test_paths_longer_than_system_calls_take(depot: LocalDepot, file_system: MakeFileSystem) -> None:
    source, target = file_system("ext4", "source"), file_system("xfs", "target")
    make_deep(source / "long", b"d" * 250, 40)
    make_deep(source / "many", b"d", 1500)
    carried = carry(source, depot)
    assert carried.result.warnings == ()
    written = write_volume(depot, carried.loaded, "root", target, no_events, jobs=2)
    assert written.warnings == () and written.entries == 1 + 2 + 40 + 1500 + 2 * 2 + 1
    for name in ("long", "many"):
        assert outsiders.by_stat(source / name, target / name) == ""
        assert outsiders.by_archives(source / name, target / name)
    assert verify_volume(depot, carried.loaded, "root", target, no_events).mismatches == ()


def make_deep(top: Path, name: bytes, levels: int) -> None:
    """Directories in each other, and at the bottom a small file and one of more than a part."""
    top.mkdir()
    here = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    for last, size in (("bottom", 9000), ("large", (32 << 20) + 1)):
        with open(os.open(last, os.O_CREAT | os.O_WRONLY, 0o640, dir_fd=here), "wb") as file:
            file.write(content(size, size))
            os.setxattr(file.fileno(), "user.deep", b"down")
    os.close(here)


def test_what_a_file_system_cannot_hold_is_told_and_the_rest_comes(
    depot: LocalDepot, file_system: MakeFileSystem
) -> None:
    source, target, other = file_system("btrfs", "source"), file_system("xfs", "target"), file_system("ext4", "other")
    os.symlink("x" * 2000, source / "long-link")
    os.link(source / "long-link", source / "second-name", follow_symlinks=False)
    os.mknod(source / "device", 0o600 | stat.S_IFCHR, os.makedev(4095, 1))
    (source / "attribute").write_text("all but one of its attributes")
    os.setxattr(source / "attribute", "user.long", bytes(9000))
    os.setxattr(source / "attribute", "user.short", b"s")
    (source / "nocow").touch()
    add_flags(source / "nocow", NOCOW | NODUMP)
    for name, seconds in (("future", 1 << 40), ("past", -(1 << 40))):
        (source / name).write_text("of a clock that was wrong")
        os.utime(source / name, (seconds, seconds))
    carried = carry(source, depot)
    on_xfs = write_volume(depot, carried.loaded, "root", target, no_events).warnings
    assert sorted(on_xfs) == [
        "/device: the char was not made: Invalid argument",
        "/long-link: the link was not made: File name too long",
        "/nocow: flags were not taken by the file system: nodatacow",
        "/second-name: was not made: its other name ‘long-link’ was not",
    ]
    on_ext4 = write_volume(depot, carried.loaded, "root", other, no_events).warnings
    assert sorted(on_ext4) == [
        "/attribute: attribute user.long of 9,000 bytes was not taken: No space left on device",
        "/nocow: flags were not taken by the file system: nodatacow",
    ]
    for place in (target, other):
        assert os.getxattr(place / "attribute", "user.short") == b"s"
        assert "d" in run(["lsattr", place / "nocow"]).stdout.split()[0], "it took what it could"
    assert (target / "future").stat().st_mtime > 1 << 33 and (target / "past").stat().st_mtime == -(1 << 31)


def another_device(top: Path) -> None:
    (top / "device").unlink()
    os.mknod(top / "device", stat.S_IFCHR, os.makedev(9, 1))


CHANGES: dict[str, Callable[[Path], object]] = {
    "rsync": lambda top: (top / "file").write_text("other words"),
    "tar": lambda top: (top / "file").chmod(0o4755),
    "find": lambda top: os.utime(top / "file", ns=(0, 1_000_000_000_000_000_001)),
    "stat": another_device,
    "getcap": lambda top: os.removexattr(top / "file", "security.capability"),
    "getfacl": lambda top: run(["setfacl", "-m", "u:7:r", top / "file"]),
    "getfattr": lambda top: os.setxattr(top / "file", "user.note", b"2"),
    "lsattr": lambda top: run(["chattr", "-d", top / "file"]),
    "SEEK_HOLE": lambda top: (top / "holes").write_bytes((top / "holes").read_bytes()),
}


def test_each_outsider_finds_what_is_its_own(file_system: MakeFileSystem, tmp_path: Path) -> None:
    top = file_system("ext4", "both")
    for name in ("source", "target"):
        tree = top / name
        tree.mkdir()
        (tree / "file").write_text("some words\n")
        (tree / "file").chmod(0o755)
        run(["setcap", "cap_chown=ep", tree / "file"])
        os.setxattr(tree / "file", "user.note", b"1")
        os.mknod(tree / "device", stat.S_IFCHR, os.makedev(9, 0))
        sparse_file(tree / "holes", 1 << 20, {0: b"x" * 4096})
        add_flags(tree / "file", NODUMP)
        for each in ("file", "device", "holes", "."):
            os.utime(tree / each, ns=(0, 1_000_000_000_000_000_000))
    assert_outsiders_agree(top / "source", top / "target", tmp_path / "archive.tar")
    for program, change in CHANGES.items():
        changed = top / program
        run(["cp", "-a", top / "target", changed])
        run(["chattr", "+d", changed / "file"])
        assert_outsiders_agree(top / "source", changed, tmp_path / "archive.tar")
        change(changed)
        assert program in unlike(top / "source", changed, tmp_path / "archive.tar")
