"""Nothing outside the target is ever written, whatever listing, image or old tree there is; depth has no bounds."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.depot.catalogue import LoadedImage, find_image
from agent.depot.local import LocalDepot
from agent.depot.signing import trusted_keys
from agent.depot.store import listing_path
from agent.errors import RegraftError
from agent.image.capture import CaptureSource, SourceVolume, capture_image
from agent.image.check import check_images
from agent.image.check_work import DECODE
from agent.image.extract import Existing, extract
from agent.image.write import write_volume
from agent.image.write_blocks import write_blocks
from agent.model.image import BLOCKS, ObjectRef
from agent.model.storage import FileSystem
from agent.process import run
from tests.image.hostile import changed, flipped, json_lines
from tests.image.source_tree import Carried, carry, describe, no_events, plain_tree, profile

pytestmark = pytest.mark.root
FEW = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))


@dataclass
class Place:
    """A target, and beside it a tree that nobody may touch."""

    carried: Carried
    plain: bytes  # the lines of the good listing
    target: Path
    canary: Path
    before: dict[bytes, Any]

    def restore(self, lines: bytes, old: bool) -> None:
        """Into an empty directory or over an old tree; what is outside stays as it is."""
        shutil.rmtree(self.target)
        self.target.mkdir()
        if old:
            (self.target / "etc").symlink_to(self.canary)
            (self.target / "usr").symlink_to("../canary")
            (self.target / "bin").mkdir()
        packed = zstandard.compress(lines)
        ref = ObjectRef(hashlib.sha256(packed).hexdigest(), len(packed))
        place = self.carried.depot.root / listing_path(ref.sha256)
        place.write_bytes(packed)
        manifest = self.carried.loaded.manifest
        forged = replace(manifest, volumes=(replace(manifest.volumes[0], listing=ref),))
        try:
            write_volume(self.carried.depot, replace(self.carried.loaded, manifest=forged), "root", self.target,
                         no_events, jobs=1)  # fmt: skip
        except RegraftError as error:
            assert error.exit_code != 1, f"an error without a name: {error}"
            assert "objects/" in error.message or str(self.target) in error.message or "packs/" in error.message, error
        finally:
            place.unlink()
        assert describe(self.canary) == self.before
        assert sorted(path.name for path in self.canary.parent.iterdir()) == ["canary", "target"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGRAFT_HOME", str(folder / "home"))
        depot = LocalDepot.init(folder / "depot")
        plain_tree(folder / "source")
        carried = carry(folder / "source", depot)
    volume = carried.loaded.manifest.volumes[0]
    packed = (depot.root / listing_path(volume.listing.sha256)).read_bytes()
    plain = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True).readall()
    canary = folder / "outer/canary"
    plain_tree(canary)
    (folder / "outer/target").mkdir()
    yield Place(carried, plain, folder / "outer/target", canary, describe(canary))


@given(data=st.data(), old=st.booleans())
@FEW
def test_other_values_write_nothing_outside(place: Place, data: st.DataObject, old: bool) -> None:
    lines = [msgspec.json.decode(line) for line in place.plain.splitlines()]
    place.restore(json_lines(data.draw(changed(lines))), old)


@given(data=st.data(), old=st.booleans())
@FEW
def test_other_bytes_write_nothing_outside(place: Place, data: st.DataObject, old: bool) -> None:
    place.restore(data.draw(flipped(place.plain)), old)


def two_volumes(depot: LocalDepot, tmp_path: Path) -> LoadedImage:
    """An image whose root volume has a link where the other volume belongs."""
    root, boot = tmp_path / "root", tmp_path / "boot"
    plain_tree(root)
    (root / "boot").symlink_to(tmp_path / "canary")
    boot.mkdir()
    (boot / "evil").write_text("e")
    volumes = (
        SourceVolume("root", FileSystem("ext4", mountpoint="/"), root),
        SourceVolume("boot", FileSystem("ext4", mountpoint="/boot"), boot),
    )
    source = CaptureSource("web-1", "web-1", profile(), (), volumes)
    return find_image(depot, trusted_keys(depot), capture_image(source, depot, no_events, jobs=1).ref)


@pytest.mark.parametrize("existing", [Existing(), Existing(delete=True)])
def test_a_link_where_a_volume_belongs_is_not_followed(depot: LocalDepot, tmp_path: Path, existing: Existing) -> None:
    (tmp_path / "canary").mkdir()
    (tmp_path / "canary/mine").write_text("m")
    loaded = two_volumes(depot, tmp_path)
    with pytest.raises(RegraftError, match=r"volume boot belongs at /boot, and .* is no directory"):
        extract(depot, loaded, [], tmp_path / "target", no_events, existing)
    assert [path.name for path in (tmp_path / "canary").iterdir()] == ["mine"]


# --- depth --------------------------------------------------------------------------------------------------------

DEPTH = 1500


@pytest.fixture
def deep_path(tmp_path: Path) -> Iterator[Path]:
    """Emptied by a program that can: who cleans up after tests cannot remove what is so deep."""
    yield tmp_path
    run(["rm", "-rf", *tmp_path.iterdir()])


def make_deep(top: Path, depth: int) -> None:
    here = os.open(top, os.O_RDONLY)
    for number in range(depth):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
        os.close(os.open(f"f{number}", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=here))
    os.close(here)


def test_a_tree_deeper_than_calls_is_carried(depot: LocalDepot, deep_path: Path) -> None:
    (deep_path / "s").mkdir()
    make_deep(deep_path / "s", DEPTH)
    carried = carry(deep_path / "s", depot)
    assert carried.loaded.manifest.unreadable == () and carried.loaded.manifest.volumes[0].entries == 2 * DEPTH + 1
    (deep_path / "t").mkdir()
    for trust in (False, True):
        result = write_volume(depot, carried.loaded, "root", deep_path / "t", no_events, trust_metadata=trust)
        assert (result.entries, result.removed) == (2 * DEPTH + 1, 0)
    assert check_images(depot, trusted_keys(depot), [carried.result.ref], DECODE, no_events).findings == ()


def test_what_is_deeper_than_any_path_gives_way(depot: LocalDepot, deep_path: Path) -> None:
    """A user of a laboratory can make such a tree, and the reset must remove it."""
    plain_tree(deep_path / "source")
    carried = carry(deep_path / "source", depot)
    target = deep_path / "target"
    target.mkdir()
    write_volume(depot, carried.loaded, "root", target, no_events)
    (target / "mine").mkdir()
    make_deep(target / "mine", 3 * DEPTH)
    (target / "etc/hostname").unlink()
    (target / "etc/hostname").mkdir()
    make_deep(target / "etc/hostname", 300)
    write_volume(depot, carried.loaded, "root", target, no_events)
    assert describe(target) == describe(deep_path / "source")


# --- captures and what they build on --------------------------------------------------------------------------------


def test_a_damaged_last_image_is_none_to_build_on(depot: LocalDepot, tmp_path: Path) -> None:
    tree = tmp_path / "source"
    plain_tree(tree)
    first = carry(tree, depot)
    listing = depot.root / listing_path(first.loaded.manifest.volumes[0].listing.sha256)
    for spoil in (listing.read_bytes()[:-20], None):
        if spoil is None:
            listing.unlink(missing_ok=True)
        else:
            listing.write_bytes(spoil)
        again = carry(tree, depot, previous=first.loaded)
        assert again.result.unchanged == 0 and again.result.stored_bytes > 0
        target = tmp_path / f"target-{spoil is None}"
        target.mkdir()
        write_volume(depot, again.loaded, "root", target, no_events)
        assert describe(target) == describe(tree)


# --- blocks -------------------------------------------------------------------------------------------------------


@given(data=st.data())
@settings(FEW, max_examples=30)
def test_blocks_stay_on_their_partition(place: Place, data: st.DataObject) -> None:
    """A file larger than the partition stands for the disk: what is behind the partition is a canary."""
    size = 4 << 20
    chunk_lines = [msgspec.json.decode(line) for line in place.plain.splitlines()]
    frames = chunk_lines[0]["frames"]
    large = next(line for line in chunk_lines[frames + 1 :] if line["path"] == "usr/large")
    whole = {"path": "", "type": "blocks", "size": size, "chunks": large["chunks"], "zeros": [[3 << 20, 4096]]}
    head = {**chunk_lines[0], "entries": 1}
    number = data.draw(st.sampled_from(["chunks", "zeros", "size"]))
    (forged,) = data.draw(changed([{number: whole[number]}]).filter(lambda made: len(made) == 1))
    entry = {**whole, **forged} if isinstance(forged, dict) else forged
    packed = zstandard.compress(json_lines([head, *chunk_lines[1 : frames + 1], entry]))
    ref = ObjectRef(hashlib.sha256(packed).hexdigest(), len(packed))
    listing = place.carried.depot.root / listing_path(ref.sha256)
    listing.write_bytes(packed)
    manifest = place.carried.loaded.manifest
    volume = replace(manifest.volumes[0], kind=BLOCKS, listing=ref, size_bytes=size)
    node = place.canary.parent.parent / "node"
    node.write_bytes(b"\xaa" * (size + 8192))
    try:
        write_blocks(place.carried.depot, replace(place.carried.loaded, manifest=replace(manifest, volumes=(volume,))),
                     "root", node, no_events, jobs=1)  # fmt: skip
    except RegraftError as error:
        assert error.exit_code != 1 and ("objects/" in error.message or "packs/" in error.message), error
    finally:
        listing.unlink()
    assert node.stat().st_size == size + 8192 and node.read_bytes()[size:] == b"\xaa" * 8192
