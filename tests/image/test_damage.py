"""What is damaged or forged is refused by name, and nothing outside the target is ever written."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import zstandard
from blake3 import blake3

from agent.depot.catalogue import LoadedImage, find_image
from agent.depot.local import LocalDepot
from agent.depot.signing import trusted_keys
from agent.depot.store import listing_path
from agent.errors import DamagedError, NoImageError, NotTrustedError, RegraftError
from agent.image import capture
from agent.image.entry import PART_BYTES, FrameTable
from agent.image.frames import FrameReader
from agent.image.listing import open_listing
from agent.image.pack import Frame, read_table
from agent.image.read_work import Reader
from agent.image.walk import Part
from agent.image.write import write_volume
from agent.model.image import Excluded, ImageRef, ObjectRef
from tests.image.source_tree import Carried, carry, describe, no_events, plain_tree, random_bytes, source

pytestmark = pytest.mark.root


@pytest.fixture
def carried(depot: LocalDepot, tmp_path: Path) -> Carried:
    plain_tree(tmp_path / "source")
    (tmp_path / "source/usr/text").write_text("compressible " * 50_000)
    return carry(tmp_path / "source", depot)


def restore(depot: LocalDepot, target: Path) -> None:
    """All that stands between a depot's bytes and a disk."""
    target.mkdir(exist_ok=True)
    loaded = find_image(depot, trusted_keys(depot), ImageRef("web-1"))
    write_volume(depot, loaded, "root", target, no_events)


def files(depot: LocalDepot) -> list[Path]:
    """All that a restore needs."""
    found = [path for top in ("packs", "objects", "machines") for path in (depot.root / top).rglob("*")]
    return sorted(
        path for path in found if path.is_file() and not zstandard_lines(path).startswith(b'{"format":1,"listing"')
    )


def zstandard_lines(path: Path) -> bytes:
    """What a listing or the stamps beside it begin with."""
    if path.suffix != ".zst":
        return b""
    return zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read(64)


def test_a_flipped_byte_anywhere_is_refused_and_named(carried: Carried, tmp_path: Path) -> None:
    random = Random(1)
    seen = set()
    for path in files(carried.depot):
        good = path.read_bytes()
        kind = path.parent.name if path.suffix != ".sig" else "signature"
        seen.add(kind)
        places = {0, len(good) - 1, len(good) // 2, *(random.randrange(len(good)) for _ in range(6))}
        for place in sorted(places):
            if path.suffix == ".sig" and good[place : place + 1].isspace():
                continue
            spoilt = bytearray(good)
            spoilt[place] ^= 1 << random.randrange(7)
            path.write_bytes(spoilt)
            said = "accepted"
            shutil.rmtree(tmp_path / "target", ignore_errors=True)  # what is there and right is not fetched
            try:
                restore(carried.depot, tmp_path / "target")
            except (DamagedError, NotTrustedError) as refused:
                said = refused.message
            assert path.name.partition(".")[0] in said, f"{path.name} byte {place} of {len(good)}: {said}"
        path.write_bytes(good)
    assert seen >= {"images", "profiles", "objects", "signature"} and len(seen) >= 5
    restore(carried.depot, tmp_path / "target")
    assert describe(tmp_path / "target") == describe(tmp_path / "source")


def test_every_missing_file_is_named(carried: Carried, tmp_path: Path) -> None:
    for path in files(carried.depot):
        kept = path.read_bytes()
        path.unlink()
        with pytest.raises((DamagedError, NotTrustedError, NoImageError)) as refused:
            restore(carried.depot, tmp_path / "target")
        assert path.name.partition(".")[0] in refused.value.message
        path.write_bytes(kept)


def test_a_short_pack_is_named(carried: Carried, tmp_path: Path) -> None:
    pack = next(path for path in files(carried.depot) if path.suffix == ".pack")
    os.truncate(pack, pack.stat().st_size - 10)
    with pytest.raises(DamagedError, match=pack.stem):
        restore(carried.depot, tmp_path / "target")


def test_packs_tell_what_they_hold(carried: Carried) -> None:
    ids = set()
    for pack in carried.loaded.manifest.packs:
        frames, chunks = read_table(carried.depot, pack)
        assert frames and all(chunk[3] for chunk in chunks)
        ids |= {chunk[0].hex() for chunk in chunks}
    with open_listing(carried.depot, carried.loaded.manifest, carried.loaded.manifest.volumes[0]) as listing:
        used = {chunk.id for block in listing.entries() for entry in block for chunk in entry.chunks}
    assert used == ids


def forge(carried: Carried, change: Callable[[list[dict[str, Any]]], object]) -> LoadedImage:
    """The image with another listing, as someone who has the signing key could make it."""
    volume = carried.loaded.manifest.volumes[0]
    packed = (carried.depot.root / listing_path(volume.listing.sha256)).read_bytes()
    plain = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True).readall()
    lines = [msgspec.json.decode(line) for line in plain.splitlines()]
    count = lines[0]["frames"] + 1
    entries = lines[count:]
    change(entries)
    lines[0]["entries"] = len(entries)
    text = b"".join(msgspec.json.encode(line) + b"\n" for line in lines[:count] + entries)
    data = zstandard.ZstdCompressor().compress(text)
    ref = ObjectRef(hashlib.sha256(data).hexdigest(), len(data))
    (carried.depot.root / listing_path(ref.sha256)).write_bytes(data)
    manifest = carried.loaded.manifest
    return replace(carried.loaded, manifest=replace(manifest, volumes=(replace(volume, listing=ref),)))


def by_path(entries: list[dict[str, Any]], path: str) -> dict[str, Any]:
    return next(entry for entry in entries if entry["path"] == path)


def insert(entry: dict[str, Any]) -> Callable[[list[dict[str, Any]]], object]:
    return lambda entries: entries.insert(1, entry)


LINK = {"path": "evil", "type": "link", "target": "/"}
FORGERIES: dict[str, Callable[[list[dict[str, Any]]], object]] = {
    "upwards": insert({"path": "../outside", "type": "dir"}),
    "upwards inside": insert({"path": "etc/../../outside", "type": "dir"}),
    "dot dot": insert({"path": "..", "type": "dir"}),
    "absolute": insert({"path": "/outside", "type": "dir"}),
    "raw upwards": insert({"path": "x", "raw": base64.b64encode(b"../outside").decode(), "type": "dir"}),
    "raw no base64": insert({"path": "x", "raw": "!", "type": "dir"}),
    "nul": insert({"path": "a\0b", "type": "dir"}),
    "empty name": insert({"path": "a//b", "type": "dir"}),
    "long name": insert({"path": "n" * 256, "type": "dir"}),
    "twice": lambda entries: entries.__setitem__(slice(1, 1), [{"path": "A", "type": "fifo"}] * 2),
    "directory twice": lambda entries: entries.extend([{"path": "zz", "type": "dir"}] * 2),
    "files out of order": insert({"path": "zz", "type": "fifo"}),
    "directories out of order": lambda entries: entries.extend(
        [{"path": "zz", "type": "dir"}, {"path": "yy", "type": "dir"}]
    ),
    "a file after directories": lambda entries: entries.append({"path": "zz", "type": "fifo"}),
    "a file and a directory": insert({"path": "usr", "type": "fifo"}),
    "below a symbolic link": lambda entries: entries.__setitem__(
        slice(1, 1), [LINK, {"path": "evil/outside", "type": "dir"}]
    ),
    "below a file": lambda entries: entries.extend([{"path": "etc/hostname/x", "type": "dir"}]),
    "no such directory": insert({"path": "not/there", "type": "fifo"}),
    "second root": lambda entries: entries.append({"path": "", "type": "dir"}),
    "hard link upwards": insert({"path": "h", "type": "hardlink", "target": "../../etc/passwd"}),
    "hard link absolute": insert({"path": "h", "type": "hardlink", "target": "/etc/passwd"}),
    "link to nothing": insert({"path": "l", "type": "link"}),
    "unknown type": insert({"path": "d", "type": "door"}),
    "device without number": insert({"path": "d", "type": "char"}),
    "number without device": insert({"path": "d", "type": "fifo", "device": [1, 2]}),
    "mode": lambda entries: by_path(entries, "etc").update(mode=0o17777),
    "negative owner": lambda entries: by_path(entries, "etc").update(uid=-1),
    "frame": lambda entries: by_path(entries, "etc/hostname")["chunks"][0].__setitem__(2, 9999),
    "beyond the frame": lambda entries: by_path(entries, "etc/hostname")["chunks"][0].__setitem__(3, 8 << 20),
    "beyond the file": lambda entries: by_path(entries, "etc/hostname").update(size=2),
    "overlap": lambda entries: by_path(entries, "usr/large")["chunks"][1].__setitem__(0, 5),
    "stray part": lambda entries: entries.append({"path": "etc/hostname", "type": "more"}),
    "content of a directory": lambda entries: by_path(entries, "usr").update(
        chunks=by_path(entries, "etc/hostname")["chunks"]
    ),
    "a time beyond all time": lambda entries: by_path(entries, "etc/hostname").update(mtime=10**30),
    "a size beyond all files": lambda entries: by_path(entries, "etc/empty").update(size=2**63),
    "an attribute with a zero": lambda entries: by_path(entries, "etc").update(xattrs={"user.a\0b": ""}),
    "an attribute that is no base64": lambda entries: by_path(entries, "etc").update(xattrs={"user.a": "!"}),
    "a large attribute": lambda entries: by_path(entries, "etc").update(
        xattrs={"user.a": base64.b64encode(bytes(65537)).decode()}
    ),
    "flags beyond a word": lambda entries: by_path(entries, "etc").update(flags=2**32),
    "a device that is none": insert({"path": "d", "type": "char", "device": [2**40, -1]}),
    "a path too long": insert({"path": "/".join(["d" * 250] * 17), "type": "dir"}),
    "blocks in a tree": insert({"path": "", "type": "blocks", "size": 5}),
    "zeros in a tree": lambda entries: by_path(entries, "usr/sparse").update(zeros=[[0, 4096]]),
    "no UTF-8 in a link": insert({"path": "l", "type": "link", "target": "x", "raw_target": "AA=="}),
    "not even JSON": lambda entries: by_path(entries, "etc").update(mode="0755"),
}


@pytest.mark.parametrize("name", sorted(FORGERIES))
def test_impossible_entries_are_refused(name: str, carried: Carried, tmp_path: Path) -> None:
    target = tmp_path / "deep/er/target"
    target.mkdir(parents=True)
    forged = forge(carried, FORGERIES[name])
    with pytest.raises(DamagedError, match=r"objects/[0-9a-f]{64}\.jsonl\.zst line \d+"):
        write_volume(carried.depot, forged, "root", target, no_events)
    (target / "there").touch()
    with pytest.raises(DamagedError, match=r"objects/[0-9a-f]{64}\.jsonl\.zst line \d+"):
        write_volume(carried.depot, forged, "root", target, no_events, trust_metadata=True)
    assert not list(tmp_path.rglob("outside"))


def test_a_hard_link_never_leaves_through_a_symbolic_link(carried: Carried, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("v")

    def change(entries: list[dict[str, Any]]) -> None:
        entries.insert(1, {"path": "way", "type": "link", "target": str(outside)})
        entries.insert(2, {"path": "h", "type": "hardlink", "target": "way/victim"})

    (tmp_path / "target").mkdir()
    with pytest.raises(RegraftError):
        write_volume(carried.depot, forge(carried, change), "root", tmp_path / "target", no_events)
    assert (outside / "victim").stat().st_nlink == 1


@pytest.mark.parametrize("trust", [False, True])
def test_links_in_the_target_lead_nowhere(trust: bool, carried: Carried, tmp_path: Path) -> None:
    """A tree from before may hold links where directories and files are to be."""
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    (outside / "hostname").write_text("mine")
    (outside / "large").write_text("mine")
    (target / "etc").symlink_to(outside)
    (target / "usr").mkdir()
    (target / "usr/large").symlink_to(outside / "large")
    (target / "usr/sparse").symlink_to(outside / "new")
    write_volume(carried.depot, carried.loaded, "root", target, no_events, trust_metadata=trust)
    assert describe(target) == describe(tmp_path / "source")
    assert (outside / "hostname").read_text() == (outside / "large").read_text() == "mine"
    assert not (outside / "new").exists()


def test_a_frame_that_unfolds_to_more_is_refused(carried: Carried, tmp_path: Path) -> None:
    """A decompression bomb: the frame's digest is right, what it promises is not."""
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 30))
    pack = carried.depot.root / "packs/bo" / "bomb.pack"
    pack.parent.mkdir()
    pack.write_bytes(bomb)
    table = FrameTable(("bomb",))
    table.add(0, Frame(0, 0, len(bomb), 100, False, blake3(bomb).digest()))
    with pytest.raises(DamagedError, match="unfolds to 1,073,741,824 bytes, expected 100"):
        FrameReader(carried.depot, table).get(0)


def test_an_aborted_capture_leaves_no_image(depot: LocalDepot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "source"
    plain_tree(tree)

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    for place in ("put_file", "publish_profile", "publish_image"):
        with monkeypatch.context() as patch:
            patch.setattr(LocalDepot, place, broken)
            with pytest.raises((OSError, RegraftError)):
                capture.capture_image(source(tree), depot, no_events)
        with pytest.raises(NoImageError):
            find_image(depot, trusted_keys(depot), ImageRef("web-1"))
        assert not list((depot.root / "machines").rglob("*.json"))
    assert not [path for path in (depot.root / "tmp").iterdir() if path.is_dir()], "no packs of the dead are left"


def test_files_that_change_or_cannot_be_read_are_listed(
    depot: LocalDepot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "source"
    plain_tree(tree)
    (tree / "restless").write_bytes(random_bytes(10_000))
    (tree / "broken").write_text("x")
    real = os.pread

    def pread(descriptor: int, count: int, offset: int) -> bytes:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if name.endswith("/broken"):
            raise OSError(5, "Input/output error")
        if name.endswith("/restless"):
            os.utime(name, ns=(0, os.stat(name).st_mtime_ns + 1))
        return real(descriptor, count, offset)

    monkeypatch.setattr(os, "pread", pread)
    done = carry(tree, depot)
    assert [each.path for each in done.loaded.manifest.unreadable] == ["/broken"]
    assert done.loaded.manifest.changed_while_read == ("/restless",)
    assert len(done.result.warnings) == 2
    monkeypatch.undo()
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "home"))
    (tmp_path / "target").mkdir()
    write_volume(depot, done.loaded, "root", tmp_path / "target", no_events)
    assert (tmp_path / "target/restless").read_bytes() == random_bytes(10_000)
    assert not (tmp_path / "target/broken").exists()


def parts_of(huge: Path, depot: LocalDepot, before: Callable[[Part], object], patch: pytest.MonkeyPatch) -> Carried:
    """An image of a tree with a file of three parts; ``before`` each of them something happens."""
    huge.write_bytes(random_bytes(2 * PART_BYTES + 5000))
    real = Reader._part

    def part(self: Reader, task: Part) -> object:
        before(task)
        return real(self, task)

    with patch.context() as meanwhile:
        meanwhile.setattr(Reader, "_part", part)
        result = capture.capture_image(source(huge.parent), depot, no_events, jobs=1)
    return Carried(depot, result, find_image(depot, trusted_keys(depot), result.ref))


@pytest.mark.parametrize("how", ["deleted", "renamed", "a link"])
def test_a_file_that_vanishes_while_it_is_read_is_listed(
    how: str, depot: LocalDepot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").mkdir()
    huge, target = tmp_path / "source/huge", tmp_path / "target"

    def vanish(part: Part) -> None:
        if part.at == PART_BYTES:
            huge.rename(tmp_path / "elsewhere")
            if how == "deleted":
                (tmp_path / "elsewhere").unlink()
            elif how == "a link":
                huge.symlink_to("elsewhere")

    done = parts_of(huge, depot, vanish, monkeypatch)
    reason = "vanished while it was read, from byte 33,554,432"
    assert done.loaded.manifest.unreadable == (Excluded("/huge", reason),)
    assert done.result.warnings == (f"/huge could not be read: {reason}",)
    target.mkdir()
    (target / "huge").write_bytes(random_bytes(2 * PART_BYTES + 5000)[::-1])
    write_volume(depot, done.loaded, "root", target, no_events)
    whole = random_bytes(2 * PART_BYTES + 5000)
    assert (target / "huge").read_bytes() == whole[:PART_BYTES] + bytes(PART_BYTES + 5000), "nothing of the old file"


def test_a_large_file_that_was_gone_before_it_was_read_is_no_part_of_the_image(
    depot: LocalDepot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").mkdir()
    huge = tmp_path / "source/huge"
    done = parts_of(huge, depot, lambda _: huge.unlink(missing_ok=True), monkeypatch)
    assert done.loaded.manifest.unreadable == () and done.result.warnings == ()
    restore(depot, tmp_path / "target")
    assert not list((tmp_path / "target").iterdir())


def test_a_large_file_whose_attributes_cannot_be_read_is_listed_and_left_out(
    depot: LocalDepot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").mkdir()
    real = os.listxattr

    def listxattr(where: int | str | bytes, **more: bool) -> list[str]:
        if isinstance(where, int) and os.readlink(f"/proc/self/fd/{where}").endswith("/huge"):
            raise OSError(5, "Input/output error")
        return real(where, **more)

    monkeypatch.setattr(os, "listxattr", listxattr)
    done = parts_of(tmp_path / "source/huge", depot, lambda _: None, monkeypatch)
    assert done.loaded.manifest.unreadable == (Excluded("/huge", "Input/output error"),)
    monkeypatch.setattr(os, "listxattr", real)
    restore(depot, tmp_path / "target")
    assert not list((tmp_path / "target").iterdir())
