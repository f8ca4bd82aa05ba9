"""What is read from an ext4's block device against what the kernel says by system calls: always the same answer."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings

from agent.depot.local import LocalDepot
from agent.errors import DamagedError
from agent.image import ext4, ext4_behind, listing, survey, survey_ext4
from agent.image.ext4 import Fields, StrangeError
from agent.image.ext4_behind import disk_behind
from agent.image.ext4_disk import Ext4Disk
from agent.image.listing import Listing, open_listing
from agent.image.survey_ext4 import DiskSurveyor, Half
from agent.image.survey_marks import Marks
from agent.image.survey_work import Folder, Line
from agent.image.target import Target
from agent.process import run
from tests.image.drifting_tree import drift, ext4_tree, set_flags
from tests.image.hostile import changed
from tests.image.source_tree import Carried, carry, plain_tree

IMAGE_BYTES = 48 << 20
FEATURES = {
    "4 KiB blocks": ["-b", "4096"],
    "1 KiB blocks": ["-b", "1024"],
    "inodes of 128 bytes": ["-b", "4096", "-I", "128"],
    "inodes of 1024 bytes": ["-b", "2048", "-I", "1024"],
    "as ext3": ["-b", "4096", "-O", "^extent,^64bit,^flex_bg,^metadata_csum,^huge_file,^dir_nlink,^extra_isize"],
    "as ext3, 1 KiB blocks": ["-b", "1024", "-O", "^extent,^64bit,^metadata_csum"],
    "inline data": ["-b", "4096", "-O", "inline_data"],
    "32 bits, no index": ["-b", "4096", "-O", "^64bit,^dir_index,^metadata_csum,uninit_bg"],
    "nothing of what came later": ["-b", "1024", "-O", "^filetype,^dir_index,^has_journal,^metadata_csum,^uninit_bg"],
    "all that is known": ["-b", "4096", "-O", "large_dir,metadata_csum,metadata_csum_seed"],
}
# Where so little is known that the kernel is asked for some directories; elsewhere it is asked for single lines only.
ASKED = {"inline data", "as ext3, 1 KiB blocks", "nothing of what came later"}


@contextmanager
def mounted(image: Path, place: Path, options: str = "loop") -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    run(["mount", "-t", "ext4", "-o", options, image, place])
    try:
        yield place
    finally:
        run(["umount", "--recursive", place])


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    def made(*options: str) -> Path:
        image = tmp_path / "ext4.img"
        with image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        run(["mkfs.ext4", "-q", "-F", "-N", "8000", *options, image])
        return image

    return made


@contextmanager
def listing_of(carried: Carried) -> Iterator[Listing]:
    with open_listing(carried.depot, carried.loaded.manifest, carried.loaded.manifest.volumes[0]) as listing:
        yield listing


def both_ways(carried: Carried, tree: Path) -> bytes:
    """The marks, which are the same by the disk and by system calls."""
    with listing_of(carried) as listing:
        by_tables = by_the_disk(listing, tree)
        by_calls = survey.survey_by_calls(listing, tree, frozenset(), 2)
        assert by_tables is not None, "the disk is read"
        assert by_tables[:] == by_calls[:]
        assert sorted_names(by_tables) == sorted_names(by_calls)
        return by_tables[:]


def by_the_disk(listing: Listing, tree: Path) -> Marks | None:
    with survey.from_below(tree) as below:
        return survey.survey_by_tables(listing, tree, frozenset(), below) if below else None


def by_any_way(listing: Listing, tree: Path) -> Marks:
    with survey.from_below(tree) as below:
        return survey.survey(listing, tree, frozenset(), 2, below)


def sorted_names(marks: Marks) -> dict[bytes, list[bytes]]:
    return {name: sorted(extra) for name, extra in marks.extra.items()}


def by_one_process(listing: Listing, tree: Path) -> bytes:
    """The marks, where one process looks at both halves."""
    marks, half = Marks(frozenset()), Half()
    with disk_behind(tree) as (disk, top, covered), closing(Target(tree)) as target:
        for told, part in ((marks, survey.first_half), (half, survey.second_half)):
            looking = DiskSurveyor(disk, target, top, covered, told)
            looking.run(part(listing))
    half.tell(marks)
    marks.end(looking.reached)
    marks.finish()
    return marks[:]


def unlock(tree: Path) -> None:
    for path in tree.glob("owned/flags-*"):
        set_flags(path, 0)


@pytest.mark.root
@pytest.mark.parametrize("name", FEATURES)
def test_the_disk_says_what_system_calls_say(
    name: str, make: Callable[..., Path], depot: LocalDepot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey_ext4, "SEEN_LINES", 50)
    asked: list[str] = []
    enter = Folder.enter

    def noted(folder: Folder, line: Line) -> int:
        asked.append(line.path)
        return enter(folder, line)

    monkeypatch.setattr(Folder, "enter", noted)
    chance = random.Random(name)
    with mounted(make(*FEATURES[name]), tmp_path / "tree") as tree:
        ext4_tree(tree, 128 if name == "inodes of 128 bytes" else 256)
        carried = carry(tree, depot)
        with listing_of(carried) as listing:
            marks = by_one_process(listing, tree)
            directories = carried.result.entries
        few = sum(map(bool, marks))
        assert 0 < few < directories / 10, "only what is asked for always: devices, hard links, what is locked"
        assert len(asked) < (500 if name in ASKED else 8), asked
        before = both_ways(carried, tree)
        assert before == marks
        for _ in range(4):
            drift(tree, chance)
            before, marks = marks, both_ways(carried, tree)
            assert marks != before or sum(map(bool, marks)) > few
        unlock(tree)


@pytest.mark.root
def test_what_is_mounted_below_is_not_looked_through(
    make: Callable[..., Path], depot: LocalDepot, tmp_path: Path
) -> None:
    with mounted(make(), tmp_path / "file system") as top:
        tree = top / "a root below the root"
        plain_tree(tree)
        (tree / "boot/grub").mkdir(parents=True)
        (tree / "boot/grub/grub.cfg").write_text("menu")
        carried = carry(tree, depot)
        (tree / "other").mkdir()
        right = both_ways(carried, tree)
        run(["mount", "-t", "tmpfs", "none", tree / "boot/grub"])
        run(["mount", "--bind", "/dev/null", tree / "etc/hostname"])
        run(["mount", "--bind", tree / "usr/bin", tree / "usr/bin"])
        hidden = both_ways(carried, tree)
        assert sum(map(bool, hidden)) >= sum(map(bool, right)) + 3
        (tmp_path / "bound").mkdir()
        run(["mount", "--bind", tree / "usr", tmp_path / "bound"])
        try:
            with disk_behind(tmp_path / "bound") as (disk, number, covered):
                assert "large" in {os.fsdecode(name) for name in disk.names(*disk.inode(number))}
                assert not covered, "a bind mount does not bring along what is mounted below"
        finally:
            run(["umount", tmp_path / "bound"])


@pytest.mark.root
@pytest.mark.parametrize("options", ["loop,ro", "loop,lazytime", "loop,data=journal", "loop,nodelalloc"])
def test_however_it_is_mounted(options: str, make: Callable[..., Path], depot: LocalDepot, tmp_path: Path) -> None:
    image = make()
    with mounted(image, tmp_path / "tree", options.replace(",ro", "")) as tree:
        plain_tree(tree)
        carried = carry(tree, depot)
        (tree / "usr/bin/tool").write_bytes(b"t" * (40 + (tree / "usr/bin/tool").stat().st_size))
        os.utime(tree / "etc/empty")
        marks = both_ways(carried, tree)
        assert any(marks)
    with mounted(image, tmp_path / "tree", options) as tree:
        assert both_ways(carried, tree) == marks


@pytest.mark.root
def test_a_view_that_the_disk_does_not_show_is_left_to_the_kernel(make: Callable[..., Path], tmp_path: Path) -> None:
    with (
        mounted(make(), tmp_path / "tree", "loop,nouid32") as tree,
        pytest.raises(StrangeError, match="another view"),
        disk_behind(tree),
    ):
        pass


@pytest.mark.root
@pytest.mark.parametrize("features", ["meta_bg,^resize_inode", "casefold", "encrypt", "ea_inode", "bigalloc"])
def test_features_that_are_not_known_are_left_to_the_kernel(
    features: str, make: Callable[..., Path], depot: LocalDepot, tmp_path: Path
) -> None:
    image = make("-O", features)
    with image.open("rb") as file, pytest.raises(StrangeError, match="features"):
        ext4.read_layout(os.pread(file.fileno(), 1024, 1024))


@pytest.mark.root
def test_a_device_that_cannot_be_read_is_left_to_the_kernel(
    make: Callable[..., Path], depot: LocalDepot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(number: int) -> int:
        raise PermissionError(1, "not yours", str(number))

    with mounted(make(), tmp_path / "tree") as tree:
        plain_tree(tree)
        carried = carry(tree, depot)
        with listing_of(carried) as listing:
            expected = by_any_way(listing, tree)[:]
            monkeypatch.setattr(ext4_behind, "_open_device", refuse)
            assert by_the_disk(listing, tree) is None
            assert by_any_way(listing, tree)[:] == expected


@pytest.mark.root
def test_another_file_system_is_left_to_the_kernel(tmp_path: Path, file_system: Callable[[str, str], Path]) -> None:
    for place in (Path("/dev/shm"), Path("/proc"), file_system("xfs", "xfs"), file_system("btrfs", "btrfs")):
        with pytest.raises((StrangeError, OSError)), disk_behind(place):
            pass


# --- listings that are not sound --------------------------------------------------------------------------------------

Lines = list[bytes]


def at(lines: Lines, path: str) -> int:
    return next(number for number, line in enumerate(lines) if b'"path":"%s"' % path.encode() in line)


def swapped(lines: Lines, one: str, other: str) -> None:
    first, second = at(lines, one), at(lines, other)
    lines[first], lines[second] = lines[second], lines[first]


def said_of(lines: Lines, path: str, old: str, new: str) -> None:
    number = at(lines, path)
    assert old.encode() in lines[number], lines[number]
    lines[number] = lines[number].replace(old.encode(), new.encode())


def on_one_line(lines: Lines, path: str) -> None:
    number = at(lines, path)
    lines[number : number + 2] = [lines[number] + lines[number + 1], b""]


def on_two_lines(lines: Lines, path: str) -> None:
    """In place of an entry that is taken out, so that there are as many lines."""
    del lines[at(lines, "etc/empty")]
    said_of(lines, path, ",", ",\n")


UNSOUND: dict[str, Callable[[Lines], None]] = {
    "files that do not ascend": lambda lines: swapped(lines, "etc/empty", "etc/hostname"),
    "a file that comes twice": lambda lines: lines.insert(at(lines, "etc/empty"), lines[at(lines, "etc/empty")]),
    "a directory that comes twice": lambda lines: lines.insert(at(lines, "usr/bin"), lines[at(lines, "usr/bin")]),
    "directories that do not ascend": lambda lines: swapped(lines, "etc", "usr"),
    "a file of another directory": lambda lines: said_of(lines, "etc/empty", "etc/empty", "usr/empty"),
    "a path that leads upwards": lambda lines: said_of(lines, "etc/empty", "etc/empty", "etc/../etc/empty"),
    "a directory named as a file": lambda lines: said_of(lines, "usr/aaa", "usr/aaa", "usr/afile"),
    "a kind that is not known": lambda lines: said_of(lines, "etc/empty", '"file"', '"door"'),
    "a directory's name for a file": lambda lines: said_of(lines, "usr/afile", "usr/afile", "usr/aaa"),
    "a directory's name for a hard link": lambda lines: lines.insert(
        at(lines, "usr/afile"), b'{"path":"usr/aaa","type":"hardlink","target":"etc/empty"}'
    ),
    "a file below a name that is not listed": lambda lines: said_of(lines, "usr/afile", "usr/afile", "usr/a/afile"),
    "a directory above the root": lambda lines: said_of(lines, "etc", "etc", ".."),
    "a directory above another": lambda lines: said_of(lines, "usr/aaa", "usr/aaa", "usr/.."),
    "a directory by an absolute path": lambda lines: said_of(lines, "opt", "opt", "/opt"),
    "a name with a NUL": lambda lines: said_of(lines, "etc/empty", "etc/empty", "etc/em\\u0000pty"),
    "a directory's name with a NUL": lambda lines: said_of(lines, "usr/aaa", "usr/aaa", "usr/a\\u0000a"),
    "exact bytes that are none": lambda lines: said_of(lines, "etc/empty", '"path"', '"raw":"aGk","path"'),
    "exact bytes that are no ASCII": lambda lines: said_of(lines, "usr/aaa", '"path"', '"raw":"ä","path"'),
    "a link that leads to no bytes": lambda lines: said_of(lines, "bin", '"path"', '"raw_target":"aGk","path"'),
    "an empty line": lambda lines: lines.__setitem__(at(lines, "etc/empty"), b""),
    "two entries on a line": lambda lines: on_one_line(lines, "bin"),
    "an entry on two lines": lambda lines: on_two_lines(lines, "bin"),
    "a chunk of what differs": lambda lines: said_of(lines, "etc/hostname", '"chunks":[[0,', '"chunks":[[9,'),
    "a line too many": lambda lines: lines.append(lines[-1].replace(b'"path":"', b'"path":"z')),
    "a line too few": lambda lines: lines.__delitem__(at(lines, "etc/empty")),
    "half a line": lambda lines: lines.__setitem__(at(lines, "etc/empty"), lines[at(lines, "etc/empty")][:-5]),
    "a continued file that is not": lambda lines: said_of(lines, "etc/empty", '"file"', '"more"'),
    "no root": lambda lines: lines.__delitem__(0),
    "nothing": lambda lines: lines.clear(),
}


@pytest.fixture(params=["disk", "calls"])
def looked_at(
    request: pytest.FixtureRequest, make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A tree, looked at by its disk or, directory after directory, by system calls; its listing comes in many blocks.
    Unmounted in the end, which fails if anything of it is still open."""

    def strange(_disk: Ext4Disk, _inode: bytes, _fields: Fields) -> dict[bytes, int]:
        raise StrangeError("to be asked for")

    if request.param == "calls":
        monkeypatch.setattr(Ext4Disk, "names", strange)
    monkeypatch.setattr(listing, "BLOCK_BYTES", 200)
    with mounted(make(), tmp_path / "tree") as tree:
        plain_tree(tree)
        (tree / "usr/afile").touch()
        (tree / "usr/aaa").mkdir()
        (tree / "opt").mkdir()
        yield tree


@contextmanager
def listing_of_lines(like: Listing, lines: Lines, entries: int, place: Path) -> Iterator[Listing]:
    text = b"".join(b"%s\n" % line for line in [*[b"{}"] * (1 + like.head.frames), *lines])
    place.write_bytes(zstandard.compress(text))
    with place.open("rb") as file:
        yield replace(like, _file=file, head=msgspec.structs.replace(like.head, entries=entries))


@pytest.mark.root
@pytest.mark.parametrize("name", UNSOUND)
def test_a_listing_that_is_not_sound_is_refused(name: str, looked_at: Path, depot: LocalDepot, tmp_path: Path) -> None:
    carried = carry(looked_at, depot)
    (looked_at / "etc/hostname").write_text("drifted")
    with listing_of(carried) as sound:
        lines = [line for _, block in sound.entry_lines() for line in block]
        UNSOUND[name](lines)
        entries = sound.head.entries + (name == "a directory's name for a hard link")
        with listing_of_lines(sound, lines, entries, tmp_path / "listing") as unsound, pytest.raises(DamagedError):
            for _ in unsound.marked(by_any_way(unsound, looked_at)):
                pass


COMPARED = {"file": ("path", "raw", "type", "mode", "uid", "gid", "mtime", "size")}
OF_OTHERS = (*COMPARED["file"], "target", "raw_target", "xattrs", "flags")


@pytest.mark.root
def test_whatever_a_listing_says_what_has_no_mark_is_sound(looked_at: Path, depot: LocalDepot, tmp_path: Path) -> None:
    """Lines changed anywhere: what is right need not have sound chunks; all else of it is as a listing may say."""
    carried = carry(looked_at, depot)
    (looked_at / "etc/hostname").write_text("drifted")
    (looked_at / "usr/aaa").rmdir()
    (looked_at / "opt/new").touch()
    with listing_of(carried) as sound:
        documents = [msgspec.json.decode(line) for _, block in sound.entry_lines() for line in block]

        @given(changed(documents))
        @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        def look(changed_documents: list[Any]) -> None:
            lines = [msgspec.json.encode(document) for document in changed_documents]
            with listing_of_lines(sound, lines, len(lines), tmp_path / "listing") as other:
                marks = by_the_disk(other, looked_at)
                if marks is None:
                    return
                try:
                    for _ in other.marked(marks):
                        pass
                except DamagedError:
                    return
            for number, mark in enumerate(marks[:]):
                if not mark:
                    document = changed_documents[number]
                    fields = COMPARED.get(document["type"], OF_OTHERS)
                    lines[number] = msgspec.json.encode({name: document[name] for name in fields if name in document})
            with listing_of_lines(sound, lines, len(lines), tmp_path / "listing") as other:
                assert sum(len(entries) for entries in other.entries()) == len(lines)

        look()


# --- damage, on file systems that nobody mounts -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def populated(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Of an ext4 with some directories, small and large, all bytes."""
    folder = tmp_path_factory.mktemp("populated")
    for number in range(600):
        path = folder / f"tree/d{number % 7}/{number}-{'n' * 60}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x") if number % 5 else path.symlink_to("elsewhere")
    for number in range(400):
        (folder / f"tree/large-{number}-{'n' * 60}").touch()
    image = folder / "ext4.img"
    with image.open("wb") as file:
        file.truncate(4 << 20)
    run(["mkfs.ext4", "-q", "-F", "-b", "1024", "-N", "1200", "-O", "^has_journal", "-d", folder / "tree", image])
    return image.read_bytes()


def everything_on(image: Path) -> int:
    """Reads all directories from the root on as the survey does; how many names there are."""
    device = os.open(image, os.O_RDONLY)
    try:
        disk = Ext4Disk(device, ext4.read_layout(os.pread(device, 1024, 1024)))
        disk.read_ahead()
        count, left = 0, [ext4.ROOT_INODE]
        while left and count < LIMIT:
            inode, fields = disk.inode(left.pop())
            disk.attributes(inode, fields)
            if fields[0] >> 12 == 4:
                names = disk.names(inode, fields)
                count += len(names)
                left += names.values()
            elif fields[0] >> 12 == 10:
                ext4.link_text(inode, fields)
        return count
    finally:
        os.close(device)


LIMIT = 5000


@pytest.mark.root
def test_all_names_are_found_without_mounting(populated: bytes, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(populated)
    assert everything_on(tmp_path / "image") == 600 + 7 + 400 + 1  # lost+found


@pytest.mark.root
@pytest.mark.parametrize("seed", range(60))
def test_damage_is_strange_and_nothing_worse(seed: int, populated: bytes, tmp_path: Path) -> None:
    """Bytes changed anywhere in the metadata: either an answer, or StrangeError."""
    chance = random.Random(seed)
    damaged = bytearray(populated)
    layout = ext4.read_layout(populated[1024:2048])
    tables, used = ext4.inode_tables(layout, populated[layout.descriptors_at :])
    places = [(1024, 1024), (layout.descriptors_at, 64), (tables[0], used[0] * layout.inode_bytes), (0, len(damaged))]
    start, size = places[seed % len(places)]
    for _ in range(chance.choice((1, 20, 400))):
        at = start + chance.randrange(size)
        damaged[at] = chance.choice((0, 1, 0x2F, 0x7F, 0xFF, chance.randrange(256)))
    if seed % 10 == 9:
        del damaged[chance.randrange(2048, len(damaged)) :]
    (tmp_path / "image").write_bytes(damaged)
    with suppress(StrangeError):
        everything_on(tmp_path / "image")


RECORD = b"\x0c\0\0\0\x0c\0\x01\x02.\0\0\0\x0c\0\0\0\x0c\0\x02\x02..\0\0"


@pytest.mark.parametrize(
    "record",
    [
        b"\x0d\0\0\0\0\0\x01\x01a\0\0\0",  # a length of nothing: the walk would never end
        b"\x0d\0\0\0\x28\0\x03\x01a/b\0" + bytes(28),
        b"\x0d\0\0\0\x28\0\x00\x01" + bytes(32),  # no name at all
        b"\x0d\0\0\0\x28\0\x02\x01a\0" + bytes(30),
        b"\x0d\0\0\0\x0c\0\x09\x01long name" + bytes(23),
        b"\x0d\0\0\0\x80\0\x01\x01a" + bytes(31),  # beyond the block
        b"\x0d\0\0\0\x27\0\x01\x01a" + bytes(31),
        b"\x0d\0\0\0\x0c\0\x01\x01a\0\0\0\x0e\0\0\0\x1c\0\x01\x01a" + bytes(19),  # twice
    ],
)
def test_a_directory_that_cannot_be_is_strange(record: bytes) -> None:
    names: dict[bytes, int] = {}
    with pytest.raises(StrangeError):
        ext4.names_in(RECORD + record, names, True)
        ext4.check_names(names)


@pytest.mark.root
def test_a_tree_of_extents_that_leads_to_itself_ends(populated: bytes, tmp_path: Path) -> None:
    """A directory whose index block names itself, at a depth that goes down only once."""
    layout = ext4.read_layout(populated[1024:2048])
    tables, _ = ext4.inode_tables(layout, populated[layout.descriptors_at :])
    at = tables[0] + layout.inode_bytes + ext4.BLOCK_AT
    block = len(populated) // layout.block_bytes - 1
    root = struct.pack("<HHHHI", 0xF30A, 1, 4, 2, 0) + struct.pack("<IIHH", 0, block, 0, 0)
    damaged = bytearray(populated)
    damaged[at : at + len(root)] = root
    damaged[block * layout.block_bytes :] = root.ljust(layout.block_bytes, b"\0")
    (tmp_path / "image").write_bytes(damaged)
    with pytest.raises(StrangeError):
        everything_on(tmp_path / "image")
