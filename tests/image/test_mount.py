"""Images as file systems: mounted for real, and compared with their source by programs that are not ours."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.depot.local import LocalDepot
from agent.depot.store import pack_path
from agent.errors import UsageError
from agent.image.image_tree import ImageTree
from agent.image.mount import LIBRARY_VARIABLE, load_fuse, mount
from agent.process import run
from tests.commands.program import FROM_SOURCE, REPOSITORY, WRITE_TOKEN, Regraft, background, lines_until, mounted
from tests.image.source_tree import awkward_tree, carry, plain_tree, random_bytes
from tests.lab import inventory
from tests.lab.awkward import make_attributes, make_links, make_modes, make_names, make_sparse_files, set_times

pytestmark = pytest.mark.root


@pytest.fixture
def regraft(tmp_path: Path, depot: LocalDepot) -> Regraft:
    return Regraft(FROM_SOURCE, tmp_path / "home", environment={"REGRAFT_DEPOT": str(depot.location)})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    plain_tree(tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def zoo(tmp_path: Path) -> Iterator[Path]:
    """A tree that backup programs stumble over: ours, and the laboratory's."""
    root = tmp_path / "zoo"
    awkward_tree(root)
    for name, make in (
        ("names", make_names), ("links", make_links), ("sparse", make_sparse_files), ("modes", make_modes),
        ("attributes", make_attributes),
    ):  # fmt: skip
        make(root / name)
    for name in ("special", "empty"):
        (root / name).mkdir()
    set_times(root)
    yield root
    run(["chattr", "-R", "-f", "-ia", root], accept=range(256))


def test_the_mounted_tree_is_the_source(regraft: Regraft, depot: LocalDepot, zoo: Path, tmp_path: Path) -> None:
    carry(zoo, depot)
    mnt = tmp_path / "mnt"
    with mounted(regraft, mnt):
        for one, other in ((zoo, mnt), (mnt, zoo)):
            words = ["rsync", "-aHAXSn", "--checksum", "--delete", "--itemize-changes", f"{one}/", f"{other}/"]
            assert run(words).stdout == ""
        before, after = inventory.read_tree(zoo), inventory.read_tree(mnt)
        unlike = inventory.differences(before, after)
        assert {each.what for each in unlike} == {"flags"}, "chattr's flags are not shown, everything else is"
        assert len(before) == len(after) > 90
        for path in ("/sparse/islands", "/sparse/hole-only", "/sparse/unaligned", "/usr/huge"):
            assert after[path].data_bytes == before[path].data_bytes < after[path].size
        assert "cap_net_bind_service,cap_net_raw=ep" in run(["getcap", mnt / "attributes/capable"]).stdout
        run(["cp", "-a", "--sparse=auto", mnt / "sparse", tmp_path / "copy"])
        used = sum(path.lstat().st_blocks * 512 for path in (tmp_path / "copy").iterdir())
        assert used < 1 << 20, "holes stay holes when they are copied out"


def test_nothing_can_be_written(regraft: Regraft, depot: LocalDepot, source: Path, tmp_path: Path) -> None:
    carry(source, depot)
    with mounted(regraft, tmp_path / "mnt") as child:
        place = tmp_path / "mnt/etc/hostname"
        for attempt in (
            lambda: place.write_text("x"), place.unlink, lambda: place.chmod(0o777), (place.parent / "new").mkdir,
            lambda: place.rename(place.parent / "x"), lambda: os.setxattr(place, "user.x", b"x"),
            lambda: os.utime(place),
        ):  # fmt: skip
            with pytest.raises(OSError, match="Read-only file system"):
                attempt()
        assert place.read_text() == "web-1\n"
        usage = os.statvfs(tmp_path / "mnt")
        assert usage.f_bavail == 0 and usage.f_blocks * usage.f_frsize > 3_000_000
        child.send_signal(signal.SIGINT)  # the other tests end it by SIGTERM
        assert child.wait(timeout=30) == 0


def test_in_the_background_it_stays(regraft: Regraft, depot: LocalDepot, source: Path, tmp_path: Path) -> None:
    carry(source, depot)
    (tmp_path / "mnt").mkdir()
    told = {"REGRAFT_HOME": str(regraft.home)}
    words: list[str | Path] = [
        regraft.program,
        "mount",
        "web-1",
        "mnt",
        "--background",
        "--depot",
        Path(depot.location).name,
    ]
    done = subprocess.run(words, cwd=tmp_path, env=told, capture_output=True, text=True, check=True, timeout=60)
    assert "in the background" in done.stdout and not done.stderr
    try:
        assert (tmp_path / "mnt/etc/hostname").read_text() == "web-1\n"
        assert (tmp_path / "mnt/usr/large").read_bytes() == random_bytes(3 << 20)
    finally:
        run(["umount", tmp_path / "mnt"])


def test_many_read_at_once_from_a_server_with_a_token(
    regraft: Regraft, depot: LocalDepot, source: Path, tmp_path: Path
) -> None:
    for number in range(12):
        (source / f"usr/noise-{number}").write_bytes(random_bytes(700_000 + number))
    carry(source, depot)
    words: list[str | Path] = [FROM_SOURCE, "serve", depot.location, "--host", "127.0.0.1", "--port", "0"]
    with background(words, REGRAFT_TOKEN=WRITE_TOKEN, REGRAFT_HOME=str(tmp_path / "home")) as server:
        url = lines_until(server, "agent token")[0].split()[-1]
        access = ("--depot", url, "--token", WRITE_TOKEN, "--trust", depot.public_key)
        with mounted(Regraft(FROM_SOURCE, tmp_path / "home of a reader"), tmp_path / "mnt", *access):
            names = [f"usr/noise-{number}" for number in range(12)]
            readers = [subprocess.Popen(["cmp", source / name, tmp_path / "mnt" / name]) for name in names]
            assert [reader.wait(timeout=60) for reader in readers] == [0] * 12
            run(["diff", "-r", "--no-dereference", source, tmp_path / "mnt"])


def test_damaged_content_is_an_error_of_the_file_alone(
    regraft: Regraft, depot: LocalDepot, source: Path, tmp_path: Path
) -> None:
    first = carry(source, depot)
    (source / "usr/other").write_bytes(random_bytes(1_500_000))
    second = carry(source, depot, previous=first.loaded)
    (new,) = {pack.sha256 for pack in second.loaded.manifest.packs} - {
        pack.sha256 for pack in first.loaded.manifest.packs
    }
    pack = Path(depot.location) / pack_path(new)
    pack.write_bytes(pack.read_bytes()[:1000] + b"spoilt" + pack.read_bytes()[1006:])
    with mounted(regraft, tmp_path / "mnt") as child:
        with pytest.raises(OSError, match="Input/output error"):
            (tmp_path / "mnt/usr/other").read_bytes()
        assert (tmp_path / "mnt/usr/large").read_bytes() == random_bytes(3 << 20)
        run(["umount", tmp_path / "mnt"])
        said = child.stdout.read() if child.stdout else ""
    assert "/usr/other" in said and new in said


@pytest.mark.parametrize("name", ["none", "file"])
def test_what_cannot_be_mounted_on_is_refused(name: str, depot: LocalDepot, source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    tree = ImageTree(depot, carry(source, depot).loaded)
    with pytest.raises(UsageError, match="is not a directory"):
        mount(tree, tmp_path / name, print, background=False, others=False)


def test_libfuse_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)
    monkeypatch.setattr("agent.image.mount.LIBRARIES", ("libnothing.so.9",))
    with pytest.raises(UsageError, match=r"no libfuse, expected one of libnothing.*apt install fuse3"):
        load_fuse()
    monkeypatch.setattr("agent.image.mount.DEVICE", Path("/dev/nothing"))
    with pytest.raises(UsageError, match="modprobe fuse"):
        load_fuse()


def test_it_needs_no_root(depot: LocalDepot, source: Path) -> None:
    """As nobody: with a /dev/fuse that everybody may open, as udev makes it; all is seen, whatever its mode."""
    (source / "etc/hostname").chmod(0)
    carry(source, depot)
    home = Path(tempfile.mkdtemp(prefix="regraft-nobody-"))
    try:
        shutil.copytree(depot.location, home / "depot")
        (home / "mnt").mkdir()
        os.mknod(home / "fuse", 0o020666, os.makedev(10, 229))
        (home / "fuse").chmod(0o666)
        run(["chown", "-R", "nobody", home / "depot", home / "mnt", home])
        words: list[str | Path] = ["unshare", "--mount", sys.executable, "-c", AS_NOBODY, home, depot.public_key]
        done = run(words, timeout_s=60, cwd=REPOSITORY)
        assert done.stdout.split() == ["65534", "web-1", "ended", "0", "[]"]
    finally:
        shutil.rmtree(home)


# Everything is imported before the user changes: this tree need not be readable for everybody.
AS_NOBODY = """
import os, signal, sys, time
home, key = sys.argv[1:]
from agent.process import run
from agent.cli import cli
from agent.commands import mount
from agent.image.mount import load_fuse
run(["mount", "--bind", home + "/fuse", "/dev/fuse"])
load_fuse()
os.setgroups([]), os.setgid(65534), os.setuid(65534)
os.chdir(home)
os.environ["REGRAFT_HOME"] = home + "/own"
child = os.fork()
if not child:
    sys.stdout = sys.stderr
    cli.main(["mount", "web-1", "mnt", "--depot", home + "/depot", "--trust", key], standalone_mode=False)
    os._exit(0)
while not os.path.ismount("mnt"):
    time.sleep(0.05)
print(os.getuid(), open("mnt/etc/hostname").read())
os.kill(child, signal.SIGTERM)
print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), os.listdir("mnt"))
"""
