"""A btrfs in use is captured as it was at one moment, and keeps nothing of it; on loop devices."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.depot.catalogue import find_image
from agent.depot.local import LocalDepot
from agent.depot.signing import trusted_keys
from agent.image import capture, snapshot
from agent.image.capture import CaptureSource, capture_image
from agent.image.entry import Entry
from agent.image.image_tree import ImageTree
from agent.image.listing import open_listing
from agent.image.snapshot import held_still
from agent.image.write import write_volume
from agent.model.events import Event
from agent.process import ProcessError, run
from tests.commands.program import FROM_SOURCE, Regraft
from tests.image import outsiders
from tests.image.source_tree import awkward_tree, no_events, plain_tree, source

pytestmark = pytest.mark.root

MakeFileSystem = Callable[[str, str], Path]


def image_of(described: CaptureSource, depot: LocalDepot, **more: object) -> ImageTree:
    result = capture_image(described, depot, no_events, jobs=2, **more)  # type: ignore[arg-type]
    assert result.warnings == ()
    return ImageTree(depot, find_image(depot, trusted_keys(depot), result.ref))


def entries(depot: LocalDepot, tree: ImageTree) -> list[Entry]:
    manifest = tree.loaded.manifest
    with open_listing(depot, manifest, manifest.volumes[0]) as listing:
        return [entry for block in listing.entries() for entry in block]


def subvolumes(top: Path) -> int:
    return len(run(["btrfs", "subvolume", "list", top]).stdout.splitlines())


def test_changes_during_the_capture_do_not_come_along(
    depot: LocalDepot, file_system: MakeFileSystem, tmp_path: Path
) -> None:
    top, target = file_system("btrfs", "source"), file_system("btrfs", "target")
    awkward_tree(top)
    before = top.stat().st_mtime_ns
    run(["cp", "-a", "--reflink=auto", f"{top}/.", tmp_path / "as-it-was"])
    with held_still(source(top, "btrfs"), no_events) as still:
        (top / "etc/hostname").write_text("changed\n")
        (top / "usr/large").unlink()
        (top / "etc/later").write_text("came later")
        with (top / "usr/huge").open("r+b") as file:
            file.write(b"written over")
        tree = image_of(still, depot)
    assert [volume.read for volume in tree.loaded.manifest.volumes] == ["snapshot"]
    assert tree.loaded.manifest.excluded == ()
    write_volume(depot, tree.loaded, "root", target, no_events)
    assert outsiders.by_rsync(tmp_path / "as-it-was", target) == ""
    run(["chattr", "-R", "-f", "-ia", tmp_path / "as-it-was"], accept=range(256))
    assert (top / "etc/hostname").read_text() == "changed\n" and subvolumes(top) == 0
    assert not list(top.glob(".regraft*")) and top.stat().st_mtime_ns == before


def test_subvolumes_come_at_their_places(depot: LocalDepot, file_system: MakeFileSystem) -> None:
    top = file_system("btrfs", "source")
    plain_tree(top)
    for name in ("home", "home/ann", "srv/a b"):
        (top / name).parent.mkdir(exist_ok=True)
        run(["btrfs", "subvolume", "create", top / name])
        (top / name / "file").write_text(f"in {name}\n")
        os.utime(top / name, ns=(1, 1_234_567_890_123_456_789))
        os.utime((top / name).parent, ns=(1, 1_234_567_890_123_456_000))
    run(["btrfs", "subvolume", "snapshot", "-r", top / "home/ann", top / "read-only"])
    with held_still(source(top, "btrfs"), no_events) as still:
        (top / "home/ann/file").write_text("changed")
        tree = image_of(still, depot)
    for name in ("home", "home/ann", "srv/a b"):
        assert tree.read_bytes(f"/{name}/file") == f"in {name}\n".encode()
    assert tree.read_bytes("/read-only/file") == b"in home/ann\n"
    described = {entry.path: entry.mtime for entry in entries(depot, tree) if entry.type == "dir"}
    assert described["home"] == described["srv"] == 1_234_567_890_123_456_000
    assert described["home/ann"] == 1_234_567_890_123_456_789
    assert subvolumes(top) == 4 and not list(top.glob(".regraft*"))


def test_the_second_capture_reads_metadata_only(depot: LocalDepot, file_system: MakeFileSystem) -> None:
    top = file_system("btrfs", "source")
    plain_tree(top)
    time.sleep(2.1)  # what changed just now is read again
    with held_still(source(top, "btrfs"), no_events) as still:
        first = image_of(still, depot)
    with held_still(source(top, "btrfs"), no_events) as still:
        again = capture_image(still, depot, no_events, previous=first.loaded)
    assert again.unchanged == 8 and again.stored_bytes == 0


def test_what_changed_while_the_snapshot_was_made_is_read_again(
    depot: LocalDepot, file_system: MakeFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the capture takes to begin behind it: the same ctime may be that of a later change."""
    top = file_system("btrfs", "source")
    plain_tree(top)
    real = snapshot._snapshot

    def take(live: Path, tree: Path) -> None:
        time.sleep(0.05)  # clocks of file systems lie behind by a tick
        (live / "etc/meanwhile").write_text("changed\n")
        real(live, tree)

    with monkeypatch.context() as patch:
        patch.setattr(capture, "MARGIN_NS", 0)
        patch.setattr(snapshot, "_snapshot", take)
        with held_still(source(top, "btrfs"), no_events) as still:
            first = image_of(still, depot)
    with held_still(source(top, "btrfs"), no_events) as still:
        again = capture.capture_image(still, depot, no_events, previous=first.loaded)
    assert again.unchanged == 8, "all but that file"


def test_the_depot_and_what_is_mounted_stay_behind(
    monkeypatch: pytest.MonkeyPatch, file_system: MakeFileSystem, tmp_path: Path
) -> None:
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "home"))
    top = file_system("btrfs", "source")
    plain_tree(top)
    (top / "mnt").mkdir()
    (top / "mnt/hidden").write_text("below what is mounted")
    run(["mount", "-t", "tmpfs", "none", top / "mnt"])
    try:
        depot = LocalDepot.init(top / "depot")
        with held_still(source(top, "btrfs"), no_events) as still:
            tree = image_of(still, depot)
    finally:
        run(["umount", top / "mnt"])
    assert tree.list_dir("/mnt") == () and not tree.exists("/depot")
    told = {each.path: each.reason for each in tree.loaded.manifest.excluded}
    assert told == {"/depot": "the depot itself", "/mnt": "another file system"}


def test_what_a_killed_capture_left_is_removed_and_a_running_ones_is_not(
    depot: LocalDepot, file_system: MakeFileSystem
) -> None:
    top = file_system("btrfs", "source")
    plain_tree(top)
    run(["btrfs", "subvolume", "create", top / "home"])
    code = (
        "import sys, time; from pathlib import Path; from tests.image.source_tree import source, no_events\n"
        "from agent.image.snapshot import held_still\n"
        "with held_still(source(Path(sys.argv[1]), 'btrfs'), no_events):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, top], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    assert subvolumes(top) == 3
    with held_still(source(top, "btrfs"), no_events) as still:
        tree = image_of(still, depot)
    assert not [name for name in tree.list_dir("/") if name.startswith(".regraft")]
    assert subvolumes(top) == 3, "one that runs keeps its own"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert subvolumes(top) == 3 and list(top.glob(".regraft*"))
    with held_still(source(top, "btrfs"), no_events) as still:
        assert len(list(top.glob(".regraft*"))) == 1
        image_of(still, depot)
    assert subvolumes(top) == 1 and not list(top.glob(".regraft*"))


def test_without_the_program_it_is_read_file_by_file(
    depot: LocalDepot, file_system: MakeFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = file_system("btrfs", "source")
    plain_tree(top)

    def absent(argv: list[str]) -> None:
        raise ProcessError(["btrfs"], 127, "", "no such file")

    told: list[Event] = []
    monkeypatch.setattr(snapshot, "run", absent)
    with held_still(source(top, "btrfs"), told.append) as still:
        assert still.volumes[0].path == top
        tree = image_of(still, depot)
    assert "btrfs-progs" in told[0].text and "file by file" in told[0].text
    assert tree.loaded.manifest.volumes[0].read == "live"
    assert not list(top.glob(".regraft*"))


def test_an_active_swap_file(depot: LocalDepot, file_system: MakeFileSystem) -> None:
    """In a subvolume of its own it stays behind; beside other files there can be no snapshot."""
    top = file_system("btrfs", "source")
    plain_tree(top)
    run(["btrfs", "subvolume", "create", top / "swap"])
    run(["btrfs", "filesystem", "mkswapfile", "--size", "4m", top / "swap/file"])
    run(["swapon", top / "swap/file"])
    told: list[Event] = []
    try:
        with held_still(source(top, "btrfs"), told.append) as still:
            tree = image_of(still, depot)
        assert told == [] and tree.list_dir("/swap") == () and tree.is_dir("/swap")
        assert {each.path: each.reason for each in tree.loaded.manifest.excluded} == {"/swap/*": "swap file"}
        (top / "swap/other").write_text("not swap")
        with held_still(source(top, "btrfs"), told.append) as still:
            tree = image_of(still, depot)
        assert "file by file" in told[0].text and "swap" in told[0].text
        assert tree.list_dir("/swap") == ("other",) and not list(top.glob(".regraft*"))
    finally:
        run(["swapoff", top / "swap/file"])


def test_the_command_takes_it_and_says_so(depot: LocalDepot, file_system: MakeFileSystem, tmp_path: Path) -> None:
    top = file_system("btrfs", "source")
    plain_tree(top)
    (top / "etc/regraft").mkdir()
    (top / "etc/regraft/exclude").write_text("# ours\n\n/srv/scratch/\n*.iso\n")
    for name in ("srv/scratch", "srv/kept", "var/cache/dnf"):
        (top / name).mkdir(parents=True)
        (top / name / "file").write_text("x")
    run(["btrfs", "subvolume", "create", top / "other"])
    (top / "srv/kept/some.iso").write_text("x")
    (top / "srv/kept/node_modules").mkdir()
    regraft = Regraft(FROM_SOURCE, tmp_path / "home", environment={"REGRAFT_DEPOT": str(depot.root)})
    regraft("capture", "--root", top, "--name", "web-1", "--exclude", "node_modules", "--exclude", "/usr/none")
    shown = regraft("show", "web-1").stdout
    assert "of one moment (snapshot)" in shown
    assert "excluded  /srv/scratch: excluded by /etc/regraft/exclude\n" in shown
    assert "excluded  */*.iso: excluded by /etc/regraft/exclude\n" in shown
    assert "excluded  */node_modules: excluded by --exclude\n" in shown and "/usr/none" not in shown
    assert "excluded  /var/cache/dnf/*: packages and lists that dnf fetches again\n" in shown
    assert regraft("ls", "web-1", "/srv").stdout.split()[-1].endswith("kept")
    assert regraft("ls", "web-1", "/srv/kept").stdout.splitlines()[-1].endswith("/file")
    assert "everything" in regraft.refused(
        "capture", "--root", top, "--name", "web-1", "--exclude", "/*", code=2, name="usage"
    )
    assert "excluded  /other: another file system\n" in shown
    assert subvolumes(top) == 1
