"""btrfs with subvolumes, as Debian, Ubuntu and openSUSE lay them out: captured unmounted and in use, and restored."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from agent.depot.catalogue import LoadedImage, decode_manifest
from agent.depot.local import LocalDepot
from agent.errors import DamagedError, RefusedError
from agent.model.image import Subvolume
from agent.model.plan import MakeFilesystem, Plan, describe
from agent.process import run
from tests.model.test_layout import gpt_image
from tests.probe.loop import LoopDisk, loop_disk
from tests.restore.carried_disk import GIB, MIB, Carrying, files_below, mounted, write_system

pytestmark = pytest.mark.root
TABLE = "label: gpt\n1 : start=2048, size=1048576, uuid=11111111-2222-4333-8444-000000000001\n"


@pytest.fixture
def carrying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Carrying:
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "home"))
    return Carrying(LocalDepot.init(tmp_path / "depot"), tmp_path)


@contextmanager
def btrfs_disk(folder: Path, sector: int = 512) -> Iterator[tuple[LoopDisk, Path, str]]:
    """A disk with one btrfs, its top mounted, and the file system's UUID; unmounted when the block ends."""
    own = str(uuid.uuid4())  # mkfs.btrfs refuses one that another device of this machine has
    script = TABLE if sector == 512 else TABLE.replace("2048", "256").replace("1048576", "131072")
    with loop_disk(folder / "source.img", 700 * MIB, script, sector) as disk:
        run(["mkfs.btrfs", "--quiet", "--uuid", own, disk.part(1)])
        yield disk, folder / "top", own


def subvolume(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    run(["btrfs", "subvolume", "create", path])
    return path


def ubuntu(top: Path, own: str) -> None:
    """``@`` and ``@home``, one subvolume inside of the root, a snapshot of Timeshift's, and one that nobody mounts."""
    root, home = subvolume(top / "@"), subvolume(top / "@home")
    fstab = f"UUID={own} / btrfs defaults,subvol=@,compress=zstd:3 0 1\nUUID={own} /home btrfs subvol=@home 0 2\n"
    write_system(root, fstab)
    (home / "ann").mkdir()
    (home / "ann/letter").write_text("dear ann")
    (subvolume(root / "var/lib/portables") / "image").write_bytes(b"p" * 3000)
    run(["btrfs", "subvolume", "snapshot", "-r", root, root / "srv/before"])
    (top / "timeshift-btrfs/snapshots/1").mkdir(parents=True)
    run(["btrfs", "subvolume", "snapshot", root, top / "timeshift-btrfs/snapshots/1/@"])
    (root / "zeros").write_bytes(b"compress me " * 100_000)


def opensuse(top: Path, own: str) -> None:
    """The root in a snapshot that is the default subvolume, and no fstab word about it; others below ``@``."""
    subvolume(top / "@")
    subvolume(top / "@/.snapshots")
    (top / "@/.snapshots/1").mkdir()
    root = subvolume(top / "@/.snapshots/1/snapshot")
    for name in ("var", "home", "usr/local"):
        subvolume(top / "@" / name)
    places = ("/var", "/home", "/usr/local", "/.snapshots")
    lines = [f"UUID={own} {place} btrfs subvol=/@{place} 0 0\n" for place in places]
    write_system(root, f"UUID={own} / btrfs defaults 0 0\n{''.join(lines)}")
    for place in places:
        (root / place.lstrip("/")).mkdir(parents=True, exist_ok=True)
    (top / "@/.snapshots/1/info.xml").write_text("<snapshot/>")
    (top / "@/.snapshots/2").mkdir()
    (top / "@/.snapshots/2/info.xml").write_text("<snapshot/>")
    run(["btrfs", "subvolume", "snapshot", "-r", root, top / "@/.snapshots/2/snapshot"])
    (top / "@/var/log").mkdir()
    (top / "@/var/log/messages").write_text("hello")
    (top / "@/usr/local/tool").write_text("tool")
    run(["btrfs", "subvolume", "set-default", root])


def listed(top: Path) -> list[str]:
    return sorted(line.partition(" path ")[2] for line in run(["btrfs", "subvolume", "list", top]).stdout.splitlines())


def made_step(plan: Plan) -> MakeFilesystem:
    return next(each for each in plan.steps if isinstance(each, MakeFilesystem) and each.filesystem.kind == "btrfs")


def left_out(loaded: LoadedImage) -> dict[str, str]:
    return {each.path: each.reason for each in loaded.manifest.excluded}


@pytest.mark.adapts("B4", "T1")
@pytest.mark.parametrize(("size", "sector"), [(600 * MIB, 512), (2 * GIB, 4096)])
def test_ubuntu(carrying: Carrying, tmp_path: Path, size: int, sector: int) -> None:
    with btrfs_disk(tmp_path) as (disk, where, own):
        with mounted(disk.part(1), where) as top:
            ubuntu(top, own)
        loaded = carrying.capture(disk)
    manifest = loaded.manifest
    assert manifest.format == 2, "a reader that knows no subvolumes refuses the image"
    assert {each.id: each.subvolume for each in manifest.volumes} == {
        "root": "/@", "home": "/@home", "var-lib-portables": "/@/var/lib/portables",
    }  # fmt: skip
    gone = left_out(loaded)
    assert gone["/srv/before"] == "a read-only subvolume, as snapshots are"
    unmounted = [path for path, reason in gone.items() if reason == "a subvolume that the system does not mount"]
    assert [path.partition(":")[2] for path in unmounted] == ["/timeshift-btrfs/snapshots/1/@"]
    with loop_disk(tmp_path / "target.img", size, sector=sector) as target:
        plan = carrying.plan(target)
        assert "with the subvolumes /@, /@home, /@/var/lib/portables" in str([describe(step) for step in plan.steps])
        carrying.restore(loaded, plan)
        number = made_step(plan).partition
        with mounted(target.part(number), tmp_path / "seen", "subvol=/") as top:
            assert listed(top) == ["@", "@/var/lib/portables", "@home"]
            assert (top / "@home/ann/letter").read_text() == "dear ann"
            assert (top / "@/var/lib/portables/image").read_bytes() == b"p" * 3000
            assert (top / "@/usr/bin/ping").stat().st_mode & 0o7777 == 0o4755
            assert not (top / "@/srv/before").exists()
            assert compressed(top / "@/zeros"), "what fstab compresses is written compressed"
        # Once more onto what is there: file system and subvolumes stay.
        before = plan_facts(target, number)
        again = carrying.restore(loaded, carrying.plan(target))
        assert again.done.bytes_written < 1000 and plan_facts(target, number) == before


def compressed(path: Path) -> bool:
    """Whether a file takes fewer bytes than it has, by its extents (filefrag: ``encoded``)."""
    run(["sync", "--file-system", path])
    return "encoded" in run(["filefrag", "-v", path]).stdout


def plan_facts(disk: LoopDisk, number: int) -> str:
    told = run(["btrfs", "inspect-internal", "dump-super", disk.part(number)]).stdout
    return next(line for line in told.splitlines() if line.startswith("dev_item.uuid"))


@pytest.mark.adapts("B4", "T1")
def test_opensuse(carrying: Carrying, tmp_path: Path) -> None:
    with btrfs_disk(tmp_path) as (disk, where, own):
        with mounted(disk.part(1), where) as top:
            opensuse(top, own)
        loaded = carrying.capture(disk)
    root = next(volume for volume in loaded.manifest.volumes if volume.id == "root")
    assert root.subvolume == "/@/.snapshots/1/snapshot"
    assert root.subvolumes == (Subvolume("/@"), Subvolume("/@/.snapshots/1/snapshot", default=True))
    assert left_out(loaded)["/.snapshots/2/snapshot"] == "a snapshot"
    with loop_disk(tmp_path / "target.img", 900 * MIB) as target:
        plan = carrying.plan(target)
        carrying.restore(loaded, plan)
        number = made_step(plan).partition
        with mounted(target.part(number), tmp_path / "seen", "subvol=/") as top:
            assert listed(top) == ["@", "@/.snapshots", "@/.snapshots/1/snapshot", "@/home", "@/usr/local", "@/var"]
            assert (top / "@/.snapshots/1/info.xml").exists() and not (top / "@/.snapshots/2").exists()
            assert (top / "@/var/log/messages").read_text() == "hello"
        with mounted(target.part(number), tmp_path / "seen") as default:
            assert (default / "etc/hostname").read_text() == "web1\n", "the default subvolume is the root"
            assert not (default / "var/log").exists()


def test_a_btrfs_without_subvolumes_is_as_ever(carrying: Carrying, tmp_path: Path) -> None:
    with btrfs_disk(tmp_path) as (disk, where, own):
        with mounted(disk.part(1), where) as top:
            write_system(top, f"UUID={own} / btrfs defaults 0 0\n")
            there = files_below(top)
        loaded = carrying.capture(disk)
    assert loaded.manifest.format == 1 and not loaded.manifest.volumes[0].subvolume
    with loop_disk(tmp_path / "target.img", 900 * MIB) as target:
        plan = carrying.plan(target)
        carrying.restore(loaded, plan)
        with mounted(target.part(made_step(plan).partition), tmp_path / "seen") as top:
            assert there.items() <= files_below(top).items() and listed(top) == []


def test_two_systems_are_refused_by_name(carrying: Carrying, tmp_path: Path) -> None:
    with btrfs_disk(tmp_path) as (disk, where, own):
        with mounted(disk.part(1), where) as top:
            for name in ("@a", "@b"):
                write_system(subvolume(top / name), f"UUID={own} / btrfs subvol={name} 0 0\n")
        with pytest.raises(RefusedError, match=r"2 file systems on .* /@a, .* /@b"):
            carrying.capture(disk)


@pytest.mark.parametrize("path", ["@", "/../etc", "/a//b", "/@,dev", "/a\nb", "/."])
def test_a_hostile_path_is_refused(path: str) -> None:
    image = gpt_image()
    volume = replace(image.volumes[0], subvolume=path)
    hostile = replace(image, format=2, volumes=(volume, image.volumes[1]))
    data = msgspec.json.encode(hostile).replace(b'"sha256":"0"', b'"sha256":"' + b"0" * 64 + b'"')
    with pytest.raises(DamagedError):
        decode_manifest(data, "the manifest")
