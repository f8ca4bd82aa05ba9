"""Trees through a depot and back: nothing about them may change."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.depot.local import LocalDepot
from agent.errors import NoImageError
from agent.image import flags
from agent.image.extract import extract
from agent.image.image_tree import ImageTree
from agent.image.verify import verify_volume
from agent.image.write import write_volume
from tests.image.source_tree import (
    awkward_tree,
    carry,
    describe,
    no_events,
    plain_tree,
    set_flags,
)

pytestmark = pytest.mark.root
MakeFileSystem = Callable[[str, str], Path]


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_everything_awkward_comes_back_as_it_was(kind: str, depot: LocalDepot, file_system: MakeFileSystem) -> None:
    source, target = file_system(kind, "source"), file_system(kind, "target")
    awkward_tree(source)
    if kind == "btrfs":
        (source / "nocow").touch()
        set_flags(source / "nocow", flags.NOCOW)
        (source / "nocow").write_bytes(b"no copy on write")
    carried = carry(source, depot, kind)
    assert not carried.result.warnings
    written = write_volume(depot, carried.loaded, "root", target, no_events)
    assert not written.warnings
    before, after = describe(source), describe(target)
    before.pop(b"lost+found", None), after.pop(b"lost+found", None)
    before.pop(b"lost+found/.", None), after.pop(b"lost+found/.", None)
    assert after == before
    assert (target / "usr/huge").stat().st_blocks * 512 < 2 << 20, "holes stay holes"
    assert (target / "usr/sparse").stat().st_blocks * 512 < 1 << 20
    assert verify_volume(depot, carried.loaded, "root", target, no_events).mismatches == ()


def test_writing_twice_keeps_what_is_right_and_mends_what_is_not(
    depot: LocalDepot, file_system: MakeFileSystem
) -> None:
    source, target = file_system("ext4", "source"), file_system("ext4", "target")
    awkward_tree(source)
    carried = carry(source, depot)
    first = write_volume(depot, carried.loaded, "root", target, no_events)
    with (target / "usr/huge").open("r+b") as file:
        file.seek(31 << 20)
        file.write(b"spoilt")
        file.seek(50 << 20)
        file.write(b"where zeros were")
    (target / "etc/hostname").unlink()
    (target / "etc/hostname").mkdir()
    (target / "etc/hostname/deep").mkdir()
    (target / "etc/stranger").symlink_to("/etc/passwd")
    set_flags(target / "immutable", 0)
    (target / "immutable").write_text("IMMUTABLE")
    set_flags(target / "immutable", flags.IMMUTABLE)
    (target / "usr/large").chmod(0o600)
    os.setxattr(target / "usr/large", "user.stray", b"x")
    (target / "bin").unlink()
    (target / "bin").symlink_to("/etc")
    (target / "usr/bin/another").unlink()
    (target / "usr/bin/another").write_text("no link any more")
    second = write_volume(depot, carried.loaded, "root", target, no_events)
    assert verify_volume(depot, carried.loaded, "root", target, no_events).mismatches == ()
    assert 0 < second.bytes_written < first.bytes_written / 4
    assert second.bytes_kept > 2 << 20
    assert second.removed == 1


def test_verify_names_every_difference(depot: LocalDepot, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    plain_tree(source)
    carried = carry(source, depot)
    target.mkdir()
    write_volume(depot, carried.loaded, "root", target, no_events)
    content = bytearray((target / "usr/large").read_bytes())
    content[1_500_000] ^= 1
    status = (target / "usr/large").stat()
    (target / "usr/large").write_bytes(content)
    os.utime(target / "usr/large", ns=(0, status.st_mtime_ns))
    (target / "etc/empty").chmod(0o600)
    (target / "etc/extra").touch()
    (target / "usr/bin/tool").unlink()
    with (target / "usr/sparse").open("r+b") as file:
        file.write(b"not a hole")
    found = verify_volume(depot, carried.loaded, "root", target, no_events).mismatches
    said = "\n".join(found)
    assert "/usr/large: bytes 1,048,576 to 2,097,152 differ" in found
    assert "/etc/empty: mode 600" in said
    assert "/etc/extra: is not in the image" in said
    assert "/usr/bin/tool: " in said
    assert "/usr/sparse: " in said and "zeros" in said
    excepted = frozenset(line.partition(":")[0] for line in found)
    assert verify_volume(depot, carried.loaded, "root", target, no_events, excepted).mismatches == ()


def test_content_is_stored_once_and_zeros_never(depot: LocalDepot, tmp_path: Path) -> None:
    source = tmp_path / "source"
    plain_tree(source)
    carried = carry(source, depot)
    volume = carried.loaded.manifest.volumes[0]
    stored = sum(pack.size_bytes for pack in carried.loaded.manifest.packs)
    assert 3 << 20 < stored < 3.2 * (1 << 20), "usr/large is random: once, not twice"
    assert 6 << 20 < volume.content_bytes < 6.2 * (1 << 20), "neither holes nor zeros count"


def test_excluded_contents_stay_behind_and_are_listed(depot: LocalDepot, tmp_path: Path) -> None:
    source = tmp_path / "source"
    plain_tree(source)
    for name in ("proc", "tmp", "var/cache/apt/archives", "home/ann"):
        (source / name).mkdir(parents=True)
        (source / name / "package.deb").write_text("x")
    (source / "swapfile").write_bytes(bytes(8192))
    (source / "etc/fstab").write_text("/swapfile none swap sw 0 0\n")
    carried = carry(source, depot, excludes=("/home/*",))
    tree = ImageTree(depot, carried.loaded)
    assert tree.list_dir("/proc") == tree.list_dir("/tmp") == tree.list_dir("/home") == ()
    assert tree.list_dir("/var/cache/apt/archives") == ()
    assert tree.is_dir("/proc") and not tree.exists("/swapfile")
    listed = {each.path: each.reason for each in carried.loaded.manifest.excluded}
    assert listed["/swapfile"] == "swap file"
    assert {"/proc/*", "/tmp/*", "/home/*", "/var/cache/apt/archives/*.deb"} <= listed.keys()
    assert "/run/*" not in listed, "only what was there"


def test_other_file_systems_stay_behind(depot: LocalDepot, file_system: MakeFileSystem) -> None:
    source = file_system("ext4", "source")
    plain_tree(source)
    carried = carry(source.parent, depot, excludes=("/depot*", "/home*", "/*.img"))
    tree = ImageTree(depot, carried.loaded)
    assert tree.is_dir("/source") and tree.list_dir("/source") == ()
    assert any(each.reason == "another file system" for each in carried.loaded.manifest.excluded)


def test_the_image_as_a_tree(depot: LocalDepot, tmp_path: Path) -> None:
    source = tmp_path / "source"
    plain_tree(source)
    (source / "etc/absolute").symlink_to("/etc/hostname")
    (source / "etc/upwards").symlink_to("../../../../etc/hostname")
    (source / "etc/loop").symlink_to("loop")
    tree = ImageTree(depot, carry(source, depot).loaded)
    assert tree.read_bytes("/etc/hostname") == b"web-1\n"
    assert tree.read_bytes("/etc/absolute") == tree.read_bytes("/etc/upwards") == b"web-1\n"
    assert tree.read_bytes("/bin/tool") == tree.read_bytes("/usr/bin/another") == (source / "usr/bin/tool").read_bytes()
    assert tree.read_bytes("/usr/sparse") == (source / "usr/sparse").read_bytes()
    assert tree.read_bytes("/usr/large") == (source / "usr/large").read_bytes()
    assert tree.read_link("/bin") == "usr/bin" and tree.read_link("/etc") is None
    assert tree.list_dir("/bin") == ("another", "tool")
    assert not tree.exists("/etc/loop") and not tree.exists("/nothing")
    with pytest.raises(FileNotFoundError):
        tree.read_bytes("/usr")


def test_extract_takes_what_was_asked_for(depot: LocalDepot, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    plain_tree(source)
    carried = carry(source, depot)
    target.mkdir()
    (target / "mine").write_text("stays")
    done = extract(depot, carried.loaded, ["/etc", "/usr/bin/tool"], target, no_events)
    assert sorted(os.listdir(target)) == ["etc", "mine", "usr"]
    assert os.listdir(target / "usr") == ["bin"]
    assert (target / "usr/bin/tool").read_bytes() == (source / "usr/bin/tool").read_bytes()
    assert (target / "etc/hostname").stat().st_mtime_ns == (source / "etc/hostname").stat().st_mtime_ns
    assert done.entries >= 5
    with pytest.raises(NoImageError, match="/nothing"):
        extract(depot, carried.loaded, ["/nothing"], target, no_events)


def test_extract_without_paths_takes_all(depot: LocalDepot, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    plain_tree(source)
    extract(depot, carry(source, depot).loaded, [], target, no_events)
    assert describe(target) == describe(source)


def test_a_second_capture_stores_what_is_new(depot: LocalDepot, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    plain_tree(source)
    (source / "usr/share").mkdir()
    for number in range(3000):
        (source / f"usr/share/{number}").write_text(f"small file {number} " * 40)
    first = carry(source, depot)
    (source / "etc/hostname").write_text("web-2\n")
    (source / "usr/share/7").unlink()
    second = carry(source, depot, previous=first.loaded)
    assert second.result.stored_bytes < first.result.stored_bytes / 20
    assert second.loaded.manifest.packs != first.loaded.manifest.packs
    target.mkdir()
    write_volume(depot, second.loaded, "root", target, no_events)
    assert describe(target) == describe(source)


def test_content_whose_pack_is_gone_is_stored_again(depot: LocalDepot, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    plain_tree(source)
    first = carry(source, depot)
    for pack in (depot.root / "packs").rglob("*.pack"):
        pack.unlink()
    second = carry(source, depot, previous=first.loaded)
    target.mkdir()
    write_volume(depot, second.loaded, "root", target, no_events)
    assert describe(target) == describe(source)
