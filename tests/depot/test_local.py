"""A depot in a directory: what it publishes, what it refuses."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from agent.depot.catalogue import decode_manifest, find_image, images, newest_profile, read_catalogue
from agent.depot.local import LocalDepot
from agent.depot.location import open_depot
from agent.depot.signing import trusted_keys
from agent.depot.store import listing_path, pack_path
from agent.errors import DamagedError, NoImageError, RefusedError, UsageError
from agent.model.image import ImageRef, Manifest, ObjectRef, ProfileRef, Volume
from agent.model.profile import Profile
from agent.model.profile_xml import dump_profile
from agent.model.storage import FileSystem, LogicalVolume, PhysicalVolume, Stack, VolumeGroup


def put(depot: LocalDepot, tmp_path: Path, data: bytes, listing: bool = False) -> ObjectRef:
    sha256 = hashlib.sha256(data).hexdigest()
    (tmp_path / "file").write_bytes(data)
    depot.put_file(listing_path(sha256) if listing else pack_path(sha256), tmp_path / "file")
    return ObjectRef(sha256, len(data))


def manifest(depot: LocalDepot, tmp_path: Path, time: str = "20261123T204141Z", machine: str = "web-1") -> Manifest:
    xml = dump_profile(Profile(machine=machine, time="2026-11-23T20:41:40Z"))
    published = depot.publish_profile(xml)
    pack, listing = put(depot, tmp_path, b"pack"), put(depot, tmp_path, b"listing", listing=True)
    volume = Volume("root", "tree", FileSystem("ext4", mountpoint="/"), listing, 1, 0, (pack.sha256,))
    profile = ProfileRef(published.time, published.sha256, "f")
    return Manifest(1, machine, time, "test", machine, profile, (), (volume,), (pack,))


def test_what_is_published_is_found(depot: LocalDepot, tmp_path: Path) -> None:
    older = manifest(depot, tmp_path, "20261123T204141Z")
    newer = manifest(depot, tmp_path, "20261124T204141Z")
    for each in (newer, older):
        depot.publish_image(msgspec.json.encode(each))
    assert [image.time for image in images(depot)] == [older.time, newer.time]
    trust = trusted_keys(depot)
    assert find_image(depot, trust, ImageRef("web-1")).manifest == newer
    assert find_image(depot, trust, ImageRef("web-1", older.time)).manifest == older
    found = newest_profile(depot, "web-1")
    assert found is not None and found.sha256 == older.profile.sha256
    with pytest.raises(NoImageError, match=r"web-2.*web-1"):
        find_image(depot, trust, ImageRef("web-2"))
    with pytest.raises(NoImageError, match="20260101T000000Z"):
        find_image(depot, trust, ImageRef("web-1", "20260101T000000Z"))


def test_an_image_that_is_not_whole_is_not_published(depot: LocalDepot, tmp_path: Path) -> None:
    good = manifest(depot, tmp_path)
    for path in (pack_path(good.packs[0].sha256), listing_path(good.volumes[0].listing.sha256)):
        kept = (depot.root / path).read_bytes()
        for spoilt in (b"short", None):
            (depot.root / path).unlink() if spoilt is None else (depot.root / path).write_bytes(spoilt[:3])
            with pytest.raises(RefusedError, match=path):
                depot.publish_image(msgspec.json.encode(good))
            assert images(depot) == ()
        (depot.root / path).write_bytes(kept)
    depot.publish_image(msgspec.json.encode(good))
    assert len(images(depot)) == 1


def test_what_is_published_never_changes(depot: LocalDepot, tmp_path: Path) -> None:
    good = manifest(depot, tmp_path)
    data = msgspec.json.encode(good)
    depot.publish_image(data)
    depot.publish_image(data)
    with pytest.raises(RefusedError, match="never changes"):
        depot.publish_image(data.replace(b'"test"', b'"Test"'))
    with pytest.raises(RefusedError, match="never changes"):
        depot.publish_profile(dump_profile(Profile(machine="web-1", time="2026-11-23T20:41:40Z", hostname="other")))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"web-1"', b'"../web"'), (b'"web-1"', b'".."'), (b"20261123T204141Z", b"yesterday"),
        (b'"format":1', b'"format":4'), (b'"packs":["', b'"packs":["/'),
    ],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(old: bytes, new: bytes, depot: LocalDepot, tmp_path: Path) -> None:
    data = msgspec.json.encode(manifest(depot, tmp_path))
    assert old in data
    with pytest.raises((DamagedError, UsageError)):
        depot.publish_image(data.replace(old, new))
    assert images(depot) == ()


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "packs/../../x", "packs//x", "", "a\nb", "./x"])
def test_paths_stay_inside(path: str, depot: LocalDepot, tmp_path: Path) -> None:
    (tmp_path / "source").write_text("x")
    with pytest.raises(UsageError, match="not a path inside a depot"):
        depot.read(path)
    with pytest.raises(UsageError):
        depot.put_file(path, tmp_path / "source")


def test_init_takes_an_empty_directory_only(depot: LocalDepot, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="already a depot"):
        LocalDepot.init(depot.root)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(UsageError, match="not empty"):
        LocalDepot.init(tmp_path / "full")


def test_what_is_no_depot_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no depot at"):
        trusted_keys(LocalDepot(tmp_path))
    with pytest.raises(UsageError, match="ftp"):
        open_depot("ftp://host/depot")
    with pytest.raises(UsageError, match="no depot is given"):
        open_depot("")


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", '{"format":1,"id":"12345678"', '{"format":9,"id":"12345678"}', '{"format":1,"id":"../../x"}',
        '{"format":1,"id":"12345678","features":["chunky"]}',
    ],
)  # fmt: skip
def test_a_depot_we_do_not_understand_is_refused(text: str, depot: LocalDepot) -> None:
    (depot.root / "depot.json").write_text(text)
    with pytest.raises(DamagedError, match=r"depot"):
        trusted_keys(LocalDepot(depot.root))


def test_a_spoilt_catalogue_is_named(depot: LocalDepot) -> None:
    (depot.root / "catalogue.json").write_text('{"format":1')
    with pytest.raises(DamagedError, match=r"catalogue\.json"):
        read_catalogue(depot)


def test_files_that_are_too_large_or_too_short_are_named(depot: LocalDepot) -> None:
    (depot.root / "objects/x").write_bytes(bytes(100))
    with pytest.raises(DamagedError, match="larger than 99 bytes"):
        depot.read("objects/x", 99)
    with pytest.raises(DamagedError, match="ends at byte 100, expected 110"):
        depot.read_into("objects/x", 90, memoryview(bytearray(20)))


def test_a_stack_that_no_disk_could_have_is_damage(depot: LocalDepot, tmp_path: Path) -> None:
    group = VolumeGroup("vg", "u", 4 << 20, 10, (PhysicalVolume("p", "vda:3", 64 << 20, 1 << 20),),
                        (LogicalVolume("root", "l", 8 << 20, "linear", None),))  # fmt: skip
    good = replace(manifest(depot, tmp_path), format=3, stack=Stack(groups=(group,)))
    assert decode_manifest(msgspec.json.encode(good), "m") == good
    bad = replace(good, stack=Stack(groups=(replace(group, extent_bytes=0),)))
    with pytest.raises(DamagedError, match="m: what its disks carry has a volume group whose extents have no size"):
        decode_manifest(msgspec.json.encode(bad), "m")
