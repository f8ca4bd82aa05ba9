"""Blocks volumes by the real tools: what is used travels, zeros are zeros, the rest is left alone."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.depot.catalogue import LoadedImage, find_image
from agent.depot.local import LocalDepot
from agent.depot.signing import trusted_keys
from agent.errors import DamagedError, DoesNotFitError, RefusedError, UsageError
from agent.image.capture import CaptureResult, CaptureSource, SourceVolume, capture_image
from agent.image.extract import extract
from agent.image.used_blocks import UsedBlocks, held, read_used_blocks
from agent.image.verify_blocks import verify_blocks
from agent.image.write import write_volume
from agent.image.write_blocks import write_blocks
from agent.model.block_map import Run
from agent.model.image import BLOCKS
from agent.model.profile import Profile
from agent.model.storage import FileSystem
from agent.process import run
from tests.image.source_tree import no_events

pytestmark = pytest.mark.root
MIB = 1 << 20
SIZE = 32 * MIB
MAKE: dict[str, list[str]] = {
    "ntfs": ["mkfs.ntfs", "--quick", "--force", "--quiet"],
    "exfat": ["mkfs.exfat"],
    "vfat": ["mkfs.vfat"],
    "ext4": ["mkfs.ext4", "-q", "-F"],
}


def noise(seed: str, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def image(path: Path, kind: str, size: int = SIZE) -> Path:
    """A file system of ``kind`` in a file whose free space is old data."""
    path.write_bytes(noise(path.name, size))
    run([*MAKE[kind], path])
    if kind == "ntfs":
        content, zeros = path.parent / "content", path.parent / "zeros"
        content.write_bytes(noise("content", 9 * MIB + 123))
        zeros.write_bytes(bytes(3 * MIB + 1))
        run(["ntfscp", path, content, "/content"])
        run(["ntfscp", path, zeros, "/zeros"])
    return path


def captured(depot: LocalDepot, node: Path, kind: str, previous: LoadedImage | None = None) -> CaptureResult:
    volume = SourceVolume("win", FileSystem(kind), node, kind=BLOCKS)
    source = CaptureSource("m", "m", Profile("m", "2026-01-01T00:00:00Z"), (), (volume,))
    return capture_image(source, depot, no_events, jobs=2, previous=previous)


def loaded(depot: LocalDepot, result: CaptureResult) -> LoadedImage:
    return find_image(depot, trusted_keys(depot, ()), result.ref)


def blank(path: Path, size: int = SIZE) -> Path:
    """A target with old data all over."""
    path.write_bytes(b"\xaa" * size)
    return path


def file_of(node: Path, name: str) -> bytes:
    """A file of an NTFS."""
    return subprocess.run(["ntfscat", node, name], capture_output=True, check=True).stdout


@contextmanager
def device(file: Path) -> Iterator[Path]:
    node = Path(run(["losetup", "--find", "--show", file]).stdout.strip())
    try:
        yield node
    finally:
        run(["losetup", "--detach", node])


def by_partclone(path: Path, kind: str) -> list[tuple[int, int]]:
    """Used runs, read with our eyes closed: the tool's own words."""
    program = {"ntfs": "ntfs", "exfat": "exfat", "vfat": "fat", "ext4": "extfs"}[kind]
    told = path.with_suffix(".map")
    run([f"partclone.{program}", "-D", "-q", "-s", path, "-o", told, "-L", path.with_suffix(".log")])
    rows = [line.split() for line in told.read_text().splitlines() if not line.startswith("#")]
    return [(int(row[0], 16), int(row[1], 16)) for row in rows[1:] if row[2] == "+"]


@pytest.mark.parametrize("kind", sorted(MAKE))
def test_used_blocks_come_back_and_free_ones_do_not_travel(depot: LocalDepot, tmp_path: Path, kind: str) -> None:
    source = image(tmp_path / "source", kind)
    result = captured(depot, source, kind)
    volume = loaded(depot, result).manifest.volumes[0]
    assert (volume.kind, volume.size_bytes, volume.entries) == (BLOCKS, SIZE, 1)
    assert volume.content_bytes <= volume.filesystem.used_bytes + 2 * MIB < SIZE - 10 * MIB
    target = blank(tmp_path / "target")
    with device(target) as node:
        written = write_blocks(depot, loaded(depot, result), "win", node, no_events, jobs=2)
        assert written.bytes_written == volume.content_bytes
        assert not verify_blocks(depot, loaded(depot, result), "win", node, no_events, jobs=2).mismatches
    old, new = source.read_bytes(), target.read_bytes()
    used = by_partclone(source, kind)
    assert sum(size for _, size in used) > 50_000
    for at, size in used:
        assert new[at : at + size] == old[at : at + size]
    assert new.count(b"\xaa" * 4096) > 1000, "what is not used is not written"


def test_an_ntfs_reads_as_before_its_boot_sectors_copy_included(depot: LocalDepot, tmp_path: Path) -> None:
    source = image(tmp_path / "source", "ntfs")
    result = captured(depot, source, "ntfs")
    target = blank(tmp_path / "target")
    write_blocks(depot, loaded(depot, result), "win", target, no_events, jobs=2)
    assert target.read_bytes()[-512:] == source.read_bytes()[:512]
    run(["ntfsresize", "--info", "--force", target])
    assert file_of(target, "/content") == noise("content", 9 * MIB + 123)
    assert file_of(target, "/zeros") == bytes(3 * MIB + 1)


def test_used_zeros_replace_what_was_there_and_are_not_stored(depot: LocalDepot, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(noise("a", 2 * MIB) + bytes(5 * MIB) + noise("b", MIB) + bytes(33 * MIB - 512) + b"z" * 512)
    result = captured(depot, source, "")
    assert result.content_bytes == 4 * MIB, "the last MiB holds 512 bytes that are not zero"
    for number, place in enumerate(("file", "device")):
        target = blank(tmp_path / place, source.stat().st_size)
        if number:
            with device(target) as node:
                write_blocks(depot, loaded(depot, result), "win", node, no_events, jobs=2)
        else:
            write_blocks(depot, loaded(depot, result), "win", target, no_events, jobs=2)
        assert target.read_bytes() == source.read_bytes()


def test_zeros_between_odd_bytes_stop_where_they_stop(depot: LocalDepot, tmp_path: Path) -> None:
    """A device of a size that is no multiple of a page, zeros up to its end."""
    source = tmp_path / "source"
    source.write_bytes(b"x" * MIB + bytes(MIB + 512))
    result = captured(depot, source, "")
    target = blank(tmp_path / "target", 2 * MIB + 1024)
    with device(target) as node:
        write_blocks(depot, loaded(depot, result), "win", node, no_events, jobs=2)
    assert target.read_bytes() == source.read_bytes() + b"\xaa" * 512


def test_writing_again_keeps_what_is_right_and_mends_what_is_not(depot: LocalDepot, tmp_path: Path) -> None:
    source = image(tmp_path / "source", "ntfs")
    image_ = loaded(depot, captured(depot, source, "ntfs"))
    target = blank(tmp_path / "target")
    first = write_blocks(depot, image_, "win", target, no_events, jobs=2)
    again = write_blocks(depot, image_, "win", target, no_events, jobs=2)
    assert (again.bytes_written, again.bytes_fetched) == (0, 0)
    assert again.bytes_kept == first.bytes_written
    at, size = max(by_partclone(source, "ntfs"), key=lambda each: each[1])
    with target.open("r+b") as file:
        file.seek(at + size // 2)
        file.write(b"drifted")
    found = verify_blocks(depot, image_, "win", target, no_events, jobs=2).mismatches
    assert len(found) == 1 and "differ" in found[0]
    mended = write_blocks(depot, image_, "win", target, no_events, jobs=2)
    assert 0 < mended.bytes_written <= 4 * MIB
    assert not verify_blocks(depot, image_, "win", target, no_events, jobs=2).mismatches


def test_a_zero_that_is_none_any_more_is_found(depot: LocalDepot, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * MIB + bytes(3 * MIB))
    image_ = loaded(depot, captured(depot, source, ""))
    target = tmp_path / "target"
    target.write_bytes(source.read_bytes())
    with target.open("r+b") as file:
        file.seek(4 * MIB - 1)
        file.write(b"!")
    (found,) = verify_blocks(depot, image_, "win", target, no_events, jobs=2).mismatches
    assert "hold data where the image has zeros" in found and "4,194,304" in found


def test_a_second_capture_stores_only_what_changed(depot: LocalDepot, tmp_path: Path) -> None:
    source = image(tmp_path / "source", "ntfs")
    first = captured(depot, source, "ntfs")
    same = captured(depot, source, "ntfs", previous=loaded(depot, first))
    assert same.stored_bytes < 16 << 10, "but for chunks so small that fetching them from afar would cost more"
    new = tmp_path / "new"
    new.write_bytes(noise("new", 20_000))
    run(["ntfscp", source, new, "/new"])
    changed = captured(depot, source, "ntfs", previous=loaded(depot, same))
    assert 20_000 < changed.stored_bytes < first.stored_bytes // 2


# --- refusals -----------------------------------------------------------------------------------------------------


def test_a_target_that_is_too_small_is_told_in_bytes(depot: LocalDepot, tmp_path: Path) -> None:
    image_ = loaded(depot, captured(depot, image(tmp_path / "source", "ntfs"), "ntfs"))
    small = blank(tmp_path / "small", SIZE - 512)
    before = small.read_bytes()
    with pytest.raises(DoesNotFitError, match=f"has {SIZE - 512:,} bytes.*needs {SIZE:,}"):
        write_blocks(depot, image_, "win", small, no_events)
    assert small.read_bytes() == before


def test_an_ntfs_that_is_marked_for_a_check_is_refused_and_can_be_taken_whole(tmp_path: Path) -> None:
    source = image(tmp_path / "source", "ntfs")
    os.truncate(source, SIZE + 4 * MIB)
    run(["ntfsresize", "--force", "--no-progress-bar", source])
    with pytest.raises(RefusedError, match="scheduled for a check or it was shut") as caught:
        read_used_blocks(source, "ntfs", whole=False)
    assert "--whole source" in caught.value.hint and "--without source" in caught.value.hint
    size = SIZE + 4 * MIB
    assert read_used_blocks(source, "ntfs", whole=True) == UsedBlocks(size, (Run(0, size),))


def test_a_hibernated_windows_is_refused_and_nothing_is_written_to_it(tmp_path: Path) -> None:
    source = image(tmp_path / "source", "ntfs")
    hibernation = tmp_path / "hiberfil.sys"
    hibernation.write_bytes(b"hibr" + bytes(8188))
    run(["ntfscp", source, hibernation, "/hiberfil.sys"])
    before = source.read_bytes()
    with device(source) as node, held(node), pytest.raises(RefusedError, match="hibernated") as caught:
        read_used_blocks(node, "ntfs", whole=False)
    assert "shutdown /s" in caught.value.hint
    assert source.read_bytes() == before


def test_an_ext4_whose_journal_was_not_written_back_is_refused_and_can_be_taken_whole(tmp_path: Path) -> None:
    """As a power cut leaves it: the file is in the journal, the bitmap on the disk does not know of it."""
    source, place, dirty = image(tmp_path / "source", "ext4"), tmp_path / "mnt", tmp_path / "dirty"
    place.mkdir()
    run(["mount", "-o", "loop", source, place])
    try:
        with (place / "late").open("wb") as late:
            late.write(noise("late", 5 * MIB))
            late.flush()
            os.fsync(late.fileno())
        dirty.write_bytes(source.read_bytes())
    finally:
        run(["umount", place])
    lost = sum(size for _, size in by_partclone(source, "ext4")) - sum(size for _, size in by_partclone(dirty, "ext4"))
    assert lost >= 5 * MIB, "partclone would leave it out, without a word"
    with pytest.raises(RefusedError, match="its journal holds changes") as caught:
        read_used_blocks(dirty, "ext4", whole=False)
    assert "--whole dirty" in caught.value.hint and "--without dirty" in caught.value.hint
    assert read_used_blocks(dirty, "ext4", whole=True) == UsedBlocks(SIZE, (Run(0, SIZE),))
    assert read_used_blocks(source, "ext4", whole=False).used_bytes > 5 * MIB, "unmounted, it is captured as before"


def test_an_exfat_that_is_marked_dirty_is_refused_and_can_be_taken_whole(tmp_path: Path) -> None:
    source = image(tmp_path / "source", "exfat")
    with source.open("r+b") as file:
        file.seek(106)
        file.write(b"\x02")
    assert by_partclone(source, "exfat"), "partclone takes it as it is"
    with pytest.raises(RefusedError, match=r"exfat on .* was not unmounted cleanly") as caught:
        read_used_blocks(source, "exfat", whole=False)
    assert "--whole source" in caught.value.hint and "--without source" in caught.value.hint
    assert read_used_blocks(source, "exfat", whole=True) == UsedBlocks(SIZE, (Run(0, SIZE),))


@pytest.mark.parametrize("kind", ["ext2", "vfat"])
def test_without_a_journal_partclone_itself_refuses(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(SIZE))
    run([*(["mkfs.ext2", "-q", "-F"] if kind == "ext2" else MAKE[kind]), source])
    with source.open("r+b") as file:
        file.seek(1024 + 0x3A if kind == "ext2" else 2048 + 3)  # s_state; the end of the second entry of the FAT (16)
        file.write(b"\0" if kind == "ext2" else b"\x7f")
    with pytest.raises(RefusedError, match=r"cannot be told: .*cleanly"):
        read_used_blocks(source, kind, whole=False)


@pytest.mark.parametrize("options", ["rw", "ro"])
def test_what_is_mounted_is_refused(depot: LocalDepot, tmp_path: Path, options: str) -> None:
    source = image(tmp_path / "source", "ext4")
    (tmp_path / "mnt").mkdir()
    with device(source) as node:
        run(["mount", "-o", options, node, tmp_path / "mnt"])
        try:
            with pytest.raises(RefusedError, match="is mounted, or held by another program"):
                captured(depot, node, "ext4")
        finally:
            run(["umount", tmp_path / "mnt"])
        assert not list((tmp_path / "depot").rglob("*.json.sig"))


def test_what_is_captured_cannot_be_mounted_meanwhile(tmp_path: Path) -> None:
    source = image(tmp_path / "source", "ext4")
    (tmp_path / "mnt").mkdir()
    with device(source) as node, held(node):
        done = run(["mount", node, tmp_path / "mnt"], accept=range(256))
        assert done.status != 0 and "already mounted or mount point busy" in done.stderr


def test_blocks_are_no_files_and_files_no_blocks(depot: LocalDepot, tmp_path: Path) -> None:
    image_ = loaded(depot, captured(depot, image(tmp_path / "source", "ext4"), "ext4"))
    with pytest.raises(UsageError, match="holds blocks, expected a tree"):
        write_volume(depot, image_, "win", tmp_path, no_events)
    with pytest.raises(Exception, match="no files to extract"):
        extract(depot, image_, [], tmp_path / "to", no_events)


def test_a_manifest_that_lies_about_the_size_is_found_out(depot: LocalDepot, tmp_path: Path) -> None:
    image_ = loaded(depot, captured(depot, image(tmp_path / "source", "ext4"), "ext4"))
    volume = replace(image_.manifest.volumes[0], size_bytes=MIB)
    lying = replace(image_, manifest=replace(image_.manifest, volumes=(volume,)))
    with pytest.raises(DamagedError, match=f"speaks of {SIZE:,} bytes, the manifest of {MIB:,}"):
        write_blocks(depot, lying, "win", blank(tmp_path / "target", MIB), no_events)
