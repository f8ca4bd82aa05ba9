"""Disk images and archives of other programs become images that hold the same, and say what they know."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.foreign.loop import loop_disk as foreign_loop
from agent.model.profile import Profile, Status
from agent.model.profile_xml import load_profile
from agent.probe.disks import partition_names
from agent.process import ProcessError, run
from tests.commands.program import Regraft
from tests.foreign.foreign_disk import (
    PART_ROOT,
    ROOT,
    SIZE_BYTES,
    SRV,
    SWAP,
    TABLE,
    MadeDisk,
    make_disk,
    system_files,
    tree_of,
    whole_filesystem,
)
from tests.probe.loop import LoopDisk, loop_disk
from tests.restore.test_windows import assert_same_blocks
from tests.restore.windows_disk import windows_gpt

pytestmark = pytest.mark.root


def profile_of(depot: Path, name: str) -> Profile:
    (path,) = (depot / "machines" / name / "profiles").glob("*.xml")
    return load_profile(path.read_bytes())


def extracted(regraft: Regraft, name: str, to: Path) -> dict[bytes, tuple[object, ...]]:
    regraft("extract", name, "--to", to)
    return tree_of(to)


def of_root(tree: dict[bytes, tuple[object, ...]]) -> dict[bytes, tuple[object, ...]]:
    """The root volume's part of a tree; the directory that the other is mounted on shows that one's metadata."""
    return {name: facts for name, facts in tree.items() if not name.startswith((b"srv", b"."))}


def loops_of(folder: Path) -> list[str]:
    """Loop devices over files below a folder that are still there."""
    return [line for line in run(["losetup", "--all"]).stdout.splitlines() if str(folder) in line]


def test_a_raw_disk(regraft: Regraft, disk: MadeDisk, tmp_path: Path) -> None:
    before = hashlib.sha256(disk.file.read_bytes()).hexdigest()
    said = regraft("import", disk.file, "--name", "box").stdout
    assert f"imported {disk.file} as box@" in said
    manifest = regraft.json("show", "box")
    assert [(v["id"], v["filesystem"]["uuid"], v["partition"]) for v in manifest["volumes"]] == [
        ("root", ROOT, 2), ("srv", SRV, 3),
    ]  # fmt: skip
    (described,) = manifest["disks"]
    assert (described["table"], described["table_id"]) == ("gpt", TABLE.lower())
    assert (described["size_bytes"], described["role"], described["name"]) == (SIZE_BYTES, "boot", "disk0")
    root, swap = described["partitions"][1], described["partitions"][3]
    assert (root["part_uuid"], root["part_label"]) == (PART_ROOT.lower(), "the system")
    assert (swap["holds"]["kind"], swap["holds"]["uuid"]) == ("swap", SWAP)
    assert of_root(extracted(regraft, "box", tmp_path / "out")) == of_root(disk.trees["root"])
    assert (tmp_path / "out/srv/page.html").read_text() == "served"
    assert hashlib.sha256(disk.file.read_bytes()).hexdigest() == before
    assert not loops_of(disk.file.parent)
    says_what_is_known(profile_of(tmp_path / "depot", "box"))


def says_what_is_known(profile: Profile) -> None:
    """The system's own facts, and nothing of this machine."""
    assert (profile.hostname, profile.os.id, profile.os.version) == ("web-1", "debian", "12")
    assert profile.status("devices") == profile.status("platform") == Status.UNAVAILABLE
    assert profile.status("storage") == profile.status("network") == Status.PARTIAL
    assert not profile.devices and not profile.network.nics and not profile.platform.system_vendor
    (described,) = profile.disks
    assert not described.model and not described.serial and not described.chain


def test_other_formats_hold_the_same(regraft: Regraft, disk: MadeDisk, tmp_path: Path) -> None:
    first = regraft.json("import", disk.file, "--name", "box")
    for form in ("qcow2", "vmdk", "vdi", "vhdx"):
        file = tmp_path / f"disk.{form}"
        run(["qemu-img", "convert", "-O", form, disk.file, file])
        found = regraft.json("import", file, "--name", "box")
        assert (found["entries"], found["content_bytes"]) == (first["entries"], first["content_bytes"]), form
        assert found["stored_bytes"] < 10_000 and not found["warnings"], form
    assert not loops_of(tmp_path)


def test_without_fuse_the_image_is_converted(disk: MadeDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.foreign import disk_image  # noqa: PLC0415 - it is changed here

    def no_daemon(*_: object) -> int:
        raise ProcessError(["qemu-storage-daemon"], 1, "", "no FUSE")

    monkeypatch.setattr(disk_image, "_start", no_daemon)
    run(["qemu-img", "convert", "-O", "qcow2", disk.file, tmp_path / "disk.qcow2"])
    image = disk_image.read_image(tmp_path / "disk.qcow2")
    (tmp_path / "work").mkdir()
    with disk_image.raw_view(image, tmp_path / "work") as raw:
        assert raw.read_bytes() == disk.file.read_bytes()


def test_sectors_of_4096_bytes(regraft: Regraft, tmp_path: Path) -> None:
    made = make_disk(tmp_path, sector=4096)
    regraft("import", made.file, "--name", "box")
    manifest = regraft.json("show", "box")
    assert manifest["disks"][0]["logical_sector_bytes"] == 4096
    assert [volume["id"] for volume in manifest["volumes"]] == ["root", "srv"]


def test_a_file_system_without_a_table(regraft: Regraft, tmp_path: Path) -> None:
    with whole_filesystem(tmp_path) as file:
        pass
    regraft("import", file, "--name", "box")
    (volume,) = regraft.json("show", "box")["volumes"]
    assert (volume["id"], volume["partition"], volume["filesystem"]["uuid"]) == ("root", 0, ROOT)


def test_a_journal_is_never_silently_ignored(regraft: Regraft, tmp_path: Path) -> None:
    with whole_filesystem(tmp_path) as file:
        run(["sync", "--file-system", tmp_path / "whole"])
        (tmp_path / "whole/late").write_text("in the journal only")
        descriptor = os.open(tmp_path / "whole/late", os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        dirty = tmp_path / "dirty.raw"
        shutil.copyfile(file, dirty)
    before = hashlib.sha256(dirty.read_bytes()).hexdigest()
    told = regraft.refused("import", dirty, "--name", "box", code=12, name="refused")
    assert "the whole disk of the image was not unmounted cleanly" in told
    assert regraft.json("images") == []
    regraft("import", dirty, "--name", "box", "--replay")
    regraft("extract", "box", "/late", "--to", tmp_path / "out")
    assert (tmp_path / "out/late").read_text() == "in the journal only"
    assert hashlib.sha256(dirty.read_bytes()).hexdigest() == before
    assert not loops_of(tmp_path)


def test_an_image_that_reaches_into_other_files_is_refused(regraft: Regraft, disk: MadeDisk, tmp_path: Path) -> None:
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", disk.file, tmp_path / "thin.qcow2"])
    told = regraft.refused("import", tmp_path / "thin.qcow2", "--name", "box", code=12, name="refused")
    assert f"its base is {disk.file}" in told
    (tmp_path / "far").mkdir()
    run(["qemu-img", "convert", "-O", "vmdk", "-o", "subformat=monolithicFlat", disk.file, tmp_path / "flat.vmdk"])
    text = (tmp_path / "flat.vmdk").read_bytes()
    (tmp_path / "flat-flat.vmdk").rename(tmp_path / "far/flat-flat.vmdk")
    (tmp_path / "flat.vmdk").write_bytes(text.replace(b'"flat-flat.vmdk"', b'"far/flat-flat.vmdk"'))
    told = regraft.refused("import", tmp_path / "flat.vmdk", "--name", "box", code=12, name="refused")
    assert "far/flat-flat.vmdk, expected a file beside it" in told


@pytest.mark.parametrize(
    ("name", "content", "code", "word", "said"),
    [
        ("cut.qcow2", b"QFI\xfb\0\0\0\3" + bytes(40), 22, "damaged", "is not read as a disk image"),
        ("nothing.raw", bytes(1 << 20), 12, "refused", "1,048,576 bytes without a partition table or a file system"),
        ("cut.tar", b"\0" * 100, 22, "damaged", "cannot be unpacked whole"),
    ],
)
def test_what_is_no_image(
    regraft: Regraft, tmp_path: Path, name: str, content: bytes, code: int, word: str, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert said in regraft.refused("import", tmp_path / name, "--name", "box", code=code, name=word)
    assert regraft.json("images") == []
    assert not loops_of(tmp_path)


def test_a_directory_that_is_no_clonezilla_image(regraft: Regraft, tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    told = regraft.refused("import", tmp_path / "some", "--name", "box", code=2, name="usage")
    assert "no Clonezilla image" in told


# --- tar --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", ["", ".zst"])
def test_a_tar_archive_comes_whole(regraft: Regraft, tmp_path: Path, packing: str) -> None:
    system_files(tmp_path / "tree")
    archive = tmp_path / f"root.tar{packing}"
    run(
        ["tar", "--create", "--auto-compress", f"--file={archive}", "--format=posix", "--sparse", "--acls", "--xattrs",
         "--xattrs-include=*", "--numeric-owner", f"--directory={tmp_path / 'tree'}", "."]
    )  # fmt: skip
    regraft("import", archive, "--name", "box")
    assert extracted(regraft, "box", tmp_path / "out") == tree_of(tmp_path / "tree")
    sparse = (tmp_path / "out/usr/sparse").stat()
    assert sparse.st_blocks * 512 < sparse.st_size
    profile = profile_of(tmp_path / "depot", "box")
    assert (profile.hostname, profile.os.id) == ("web-1", "debian") and not profile.disks


def archive_of(path: Path, **attributes: str) -> Path:
    """An archive of two files, both with these PAX headers."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as made:
        for name in ("etc/f", "etc/g"):
            file = tarfile.TarInfo(name)
            file.pax_headers = {name.replace("__", "."): value for name, value in attributes.items()}
            file.mtime = 9_000_000_000  # of which tar warns, and which comes as it is
            made.addfile(file)
    return path


def test_an_attribute_that_cannot_be_set_is_no_small_matter(regraft: Regraft, tmp_path: Path) -> None:
    """GNU tar only warns of it, and ends with status 0."""
    archive = archive_of(tmp_path / "root.tar", SCHILY__xattr__user__big="x" * 3000)
    work = tmp_path / "work"
    work.mkdir()
    run(["truncate", "--size=64M", tmp_path / "small.img"])
    run(["mkfs.ext4", "-q", "-F", "-b", "1024", tmp_path / "small.img"])  # attributes fill a block at most
    run(["mount", "-o", "loop", tmp_path / "small.img", work])
    try:
        told = regraft.refused("import", archive, "--name", "box", "--work", work, code=12, name="refused")
    finally:
        run(["umount", work])
    assert "Cannot set 'user.big' extended attribute for file 'etc/f': No space left on device" in told
    assert regraft.json("images") == []


def test_what_else_tar_remarks_is_told_once(regraft: Regraft, tmp_path: Path) -> None:
    """An attribute that no Linux has is none of the system's."""
    archive = archive_of(tmp_path / "root.tar", LIBARCHIVE__creationtime="1", SCHILY__xattr__com__apple__x="1")
    said = regraft("import", archive, "--name", "box").stdout
    assert said.count("tar: Ignoring unknown extended header keyword 'LIBARCHIVE.creationtime'") == 1
    assert "Cannot set 'com.apple.x'" in said and "time stamp" not in said
    assert [volume["entries"] for volume in regraft.json("show", "box")["volumes"]] == [4]


def test_an_archive_cannot_reach_out_of_its_folder(regraft: Regraft, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    archive = tmp_path / "evil.tar"
    with tarfile.open(archive, "w") as made:
        link = tarfile.TarInfo("way")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        made.addfile(link)
        for name in ("way/through-a-link", "../../upwards", f"{outside}/absolute"):
            made.addfile(tarfile.TarInfo(name))
    regraft("import", archive, "--name", "box", code=22)
    assert list(outside.iterdir()) == []
    assert not list(tmp_path.parent.glob("upwards")) and not (tmp_path / "upwards").exists()


# --- names of the loop ------------------------------------------------------------------------------------------------


def test_two_imports_at_once_do_not_meet(disk: MadeDisk, tmp_path: Path) -> None:
    from agent.foreign.loop import loop_disk as attached  # noqa: PLC0415 - its name is that of the tests' own

    with attached(disk.file) as one, attached(disk.file) as other:
        assert one != other and Path(f"/dev/{one}p2").is_block_device() and Path(f"/dev/{other}p2").is_block_device()
    with loop_disk(tmp_path / "blank", 1 << 20) as blank:
        assert not Path(f"{blank.node}p1").exists()


def test_a_windows_disk_goes_in_and_comes_out(regraft: Regraft, tmp_path: Path) -> None:
    """Without a system whose files are read: every partition by its blocks, and a disk of the same again."""
    with windows_gpt(tmp_path) as made:
        run(["qemu-img", "convert", "-O", "qcow2", made.node, tmp_path / "windows.qcow2"])
        regraft("import", tmp_path / "windows.qcow2", "--name", "windows")
        shown = regraft.json("show", "windows")
        assert [volume["kind"] for volume in shown["volumes"]] == ["blocks"] * 4
        regraft("export", "windows", "--to", tmp_path / "out.raw")
        with loop_over(tmp_path / "out.raw") as exported:
            assert partitions_of(exported) == partitions_of(made)
            assert_same_blocks(made.part(3), exported.part(3), "ntfs", tmp_path)
            assert_same_blocks(made.part(1), exported.part(1), "fat", tmp_path)


def partitions_of(disk: LoopDisk) -> list[str]:
    """The table as sfdisk writes it, without the device's name."""
    return [
        line.partition(" : ")[2] for line in run(["sfdisk", "--dump", disk.node]).stdout.splitlines() if " : " in line
    ]


@contextmanager
def loop_over(file: Path) -> Iterator[LoopDisk]:
    node = Path(run(["losetup", "--find", "--show", "--partscan", file]).stdout.strip())
    try:
        run(["partx", "--update", node])
        yield LoopDisk(node)
    finally:
        run(["partx", "--delete", node], accept=range(256))
        run(["losetup", "--detach", node])


def test_logical_partitions_of_a_raw_disk_are_seen(tmp_path: Path) -> None:
    """partx --update passes over them; they hold the root of every Debian that was installed onto an MBR so."""
    disk = tmp_path / "mbr.raw"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    script = b"label: dos\n1: size=8M, type=83\n2: type=5\n5: size=8M, type=82\n6: type=83\n"
    run(["sfdisk", "--quiet", disk], stdin=script)
    with foreign_loop(disk) as name:
        assert partition_names(Path("/"), name) == [f"{name}p{number}" for number in (1, 2, 5, 6)]
