"""A depot is checked: damage is found at the depth that can see it, its victims are named, a second depot heals it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from blake3 import blake3

from agent.depot.catalogue import images
from agent.depot.local import LocalDepot
from agent.depot.signing import trusted_keys
from agent.depot.store import image_path, listing_path, pack_path
from agent.image import pack as packs
from agent.image.check import CheckReport, catalogue_findings, check_images
from agent.image.check_work import DECODE, DEPTHS, PACKS, STRUCTURE, PackTask, check_pack
from agent.image.listing import open_listing
from agent.image.pack import PackWriter, read_table
from agent.model.image import ImageRef, ObjectRef
from tests.image.source_tree import Carried, carry, no_events, plain_tree, random_bytes
from tests.image.test_damage import forge

pytestmark = pytest.mark.root


@pytest.fixture
def two(depot: LocalDepot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Carried, Carried]:
    """Two images of one machine that share packs; each has one of its own. Packs of 1 MiB."""
    monkeypatch.setattr(packs, "PACK_BYTES", 1 << 20)
    tree = tmp_path / "source"
    plain_tree(tree)
    (tree / "only-first").write_bytes(random_bytes(300_000))
    (tree / "both").write_bytes(random_bytes(2 << 20))
    first = carry(tree, depot)
    (tree / "only-first").unlink()
    (tree / "only-second").write_bytes(random_bytes(400_000))
    return first, carry(tree, depot, previous=first.loaded)


@pytest.fixture
def copy(two: tuple[Carried, Carried], tmp_path: Path) -> LocalDepot:
    """A good copy of the depot."""
    shutil.copytree(two[0].depot.root, tmp_path / "copy")
    return LocalDepot(tmp_path / "copy")


def check(depot: LocalDepot, depth: str, other: LocalDepot | None = None) -> CheckReport:
    refs = [ImageRef(each.machine, each.time) for each in images(depot)]
    return check_images(depot, trusted_keys(depot), refs, depth, no_events, other, jobs=2)


def pack_with(carried: Carried, name: str) -> str:
    """The pack that the first chunk of a file lies in."""
    volume = carried.loaded.manifest.volumes[0]
    with open_listing(carried.depot, carried.loaded.manifest, volume) as listing:
        for entries in listing.entries():
            for entry in entries:
                if entry.path == name:
                    frame = listing.frames.get(entry.chunks[0].frame)
                    assert frame is not None
                    return listing.frames.packs[frame.pack]
    raise AssertionError(name)


def uses_first_frame(carried: Carried, pack: str) -> bool:
    manifest = carried.loaded.manifest
    with open_listing(carried.depot, manifest, manifest.volumes[0]) as listing:
        return any(listing.frames.packs[frame.pack] == pack and frame.offset == 0 for _, frame in listing.frames)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


def test_a_whole_depot_is_found_whole(two: tuple[Carried, Carried]) -> None:
    depot = two[0].depot
    sizes = {depth: check(depot, depth) for depth in DEPTHS}
    for report in sizes.values():
        assert report.findings == () and report.healed == () and (report.images, report.listings) == (2, 2)
    on_disk = sum(path.stat().st_size for path in (depot.root / "packs").rglob("*.pack"))
    objects = sum(path.stat().st_size for path in (depot.root / "objects").iterdir())
    listings = sum(volume.listing.size_bytes for one in two for volume in one.loaded.manifest.volumes)
    assert sizes[PACKS].bytes_read == sizes[DECODE].bytes_read == on_disk + objects > on_disk + listings
    assert sizes[STRUCTURE].bytes_read == listings
    assert sizes[PACKS].packs == len(list((depot.root / "packs").rglob("*.pack"))) >= 4


def test_damaged_stamps_are_told_and_spoil_no_image(two: tuple[Carried, Carried]) -> None:
    depot = two[0].depot
    stamps = two[0].loaded.manifest.volumes[0].stamps
    assert stamps is not None
    flip(depot.root / listing_path(stamps.sha256), 20)
    assert check(depot, STRUCTURE).findings == ()
    (found,) = check(depot, PACKS).findings
    assert stamps.sha256 in found.path and (found.images, found.file_count) == ((), 0)
    assert "the next capture reads every file" in found.problem
    (depot.root / listing_path(stamps.sha256)).unlink()
    assert "is absent" in check(depot, STRUCTURE).findings[0].problem


def test_a_flipped_byte_in_any_pack_is_found_with_what_it_spoils(two: tuple[Carried, Carried]) -> None:
    depot = two[0].depot
    for pack in {each.sha256: each for one in two for each in one.loaded.manifest.packs}.values():
        path = depot.root / pack_path(pack.sha256)
        good = path.read_bytes()
        flip(path, 9)
        users = sorted(f"{one.loaded.manifest.ref}:root" for one in two if uses_first_frame(one, pack.sha256))
        (finding,) = check(depot, PACKS).findings
        assert finding.path == pack_path(pack.sha256) and list(finding.volumes) == users
        assert finding.file_count == len(finding.files) > 0
        path.write_bytes(good)


def test_an_image_that_uses_other_frames_of_a_damaged_pack_is_whole(depot: LocalDepot, tmp_path: Path) -> None:
    big = tmp_path / "source/big"
    big.parent.mkdir()
    big.write_bytes(random_bytes(2 << 20))
    first = carry(big.parent, depot)
    with big.open("r+b") as file:
        file.seek(1 << 20)
        file.write(random_bytes(1 << 20))
    second = carry(big.parent, depot, previous=first.loaded)
    (pack,) = first.loaded.manifest.packs
    assert pack in second.loaded.manifest.packs
    frames, chunks = read_table(depot, pack)
    replaced = blake3(random_bytes(2 << 20)[1 << 20 :]).digest()
    offset = next(frames[number].offset for id_, number, _, _ in chunks if id_ == replaced)
    flip(depot.root / pack_path(pack.sha256), offset + 5)
    (finding,) = check(depot, DECODE).findings
    assert finding.images == (str(first.loaded.manifest.ref),) and finding.files == ("/big",)


def test_only_the_files_in_the_damaged_frame_are_named(two: tuple[Carried, Carried]) -> None:
    first, second = two
    depot = first.depot
    name = pack_with(second, "only-second")
    path = depot.root / pack_path(name)
    frames, _ = read_table(depot, ObjectRef(name, path.stat().st_size))
    flip(path, frames[0].offset + 5)
    assert check(depot, STRUCTURE).findings == (), "nobody read it"
    (finding,) = check(depot, DECODE).findings
    assert finding.volumes == (f"{second.loaded.manifest.ref}:root",) and "/only-second" in finding.files
    assert "/both" not in finding.files
    shared = pack_with(first, "both")
    flip(path, frames[0].offset + 5)
    flip(depot.root / pack_path(shared), 10)
    (finding,) = check(depot, PACKS).findings
    assert len(finding.images) == 2 and "/only-second" not in finding.files


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), "is absent"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "does not have the"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "does not have the"),
        (lambda path: flip(path, path.stat().st_size - 70), "the table of"),
        (lambda path: flip(path, path.stat().st_size - 3), "the table of"),
    ],
)
def test_every_depth_sees_what_is_wrong_with_a_packs_shape(
    spoil: Callable[[Path], None], said: str, two: tuple[Carried, Carried]
) -> None:
    depot = two[0].depot
    name = pack_with(two[0], "both")
    spoil(depot.root / pack_path(name))
    for depth in (STRUCTURE, DECODE):
        (finding,) = check(depot, depth).findings
        assert finding.path == pack_path(name) and said in finding.problem and len(finding.images) == 2
        assert {"/both"} <= set(finding.files)


@pytest.mark.parametrize("what", ["listing", "listing longer", "manifest", "signature", "profile", "catalogue"])
def test_every_depth_sees_what_is_wrong_beside_packs(what: str, two: tuple[Carried, Carried]) -> None:
    first, _ = two
    depot, manifest = first.depot, first.loaded.manifest
    paths = {
        "listing": listing_path(manifest.volumes[0].listing.sha256),
        "listing longer": listing_path(manifest.volumes[0].listing.sha256),
        "manifest": image_path("web-1", manifest.time),
        "signature": image_path("web-1", manifest.time) + ".sig",
        "profile": f"machines/web-1/profiles/{manifest.profile.time}.xml",
    }
    if what == "catalogue":
        index = msgspec.json.decode(depot.read("catalogue.json"))
        index["images"][0]["manifest_sha256"] = "0" * 64
        depot.write("catalogue.json", msgspec.json.encode(index))
    elif what == "listing longer":
        (depot.root / paths[what]).open("ab").write(b"x")
    else:
        flip(depot.root / paths[what], 40)
    for depth in (STRUCTURE, DECODE):
        findings = check(depot, depth).findings
        assert any(str(manifest.ref) in finding.images for finding in findings), depth
        assert len({finding.path for finding in findings}) == len(findings), "nothing is said twice"


def test_a_catalogue_that_forgot_an_image_is_noticed(two: tuple[Carried, Carried]) -> None:
    depot = two[0].depot
    assert list(catalogue_findings(depot)) == []
    index = msgspec.json.decode(depot.read("catalogue.json"))
    index["images"].pop()
    depot.write("catalogue.json", msgspec.json.encode(index))
    (finding,) = catalogue_findings(depot)
    assert finding.images == (str(two[1].loaded.manifest.ref),)


def test_a_frame_that_the_pack_does_not_have_is_found(two: tuple[Carried, Carried]) -> None:
    pack = two[0].loaded.manifest.packs[0]
    stranger = PackTask(pack.sha256, pack.size_bytes, bytes(8))
    assert "listings name 1 frames" in check_pack(two[0].depot, stranger, STRUCTURE).problem
    assert not check_pack(two[0].depot, PackTask(pack.sha256, pack.size_bytes, b""), DECODE).problem


def test_decoding_sees_what_digests_cannot(depot: LocalDepot, tmp_path: Path) -> None:
    """A pack that was written wrongly: every digest fits, a chunk's id does not."""
    writer = PackWriter(tmp_path, "0.pack")
    writer.append(0, b"some content " * 100, [(bytes(32), 0, 1300)])
    ref = writer.finish()
    depot.put_file(pack_path(ref.sha256), writer.path)
    task = PackTask(ref.sha256, ref.size_bytes, b"")
    assert check_pack(depot, task, PACKS).problem == ""
    done = check_pack(depot, task, DECODE)
    assert "does not match its id" in done.problem and done.bad == [0]


def test_decoding_compares_listings_with_packs(two: tuple[Carried, Carried], monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing that names another id for a chunk than the pack has: a capture that was wrong."""
    first = two[0]

    def change(entries: list[dict[str, object]]) -> None:
        entry = next(each for each in entries if each["path"] == "both")
        entry["chunks"][0][4] = "0" * 64  # type: ignore[index]

    forged = forge(first, change)
    monkeypatch.setattr("agent.image.check.find_image", lambda *_: replace(first.loaded, manifest=forged.manifest))
    refs = [first.loaded.manifest.ref]
    keys = trusted_keys(first.depot)
    assert check_images(first.depot, keys, refs, PACKS, no_events).findings == ()
    (finding,) = check_images(first.depot, keys, refs, DECODE, no_events).findings
    assert "‘both’ at byte 0" in finding.problem and "has no chunk 0000" in finding.problem


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_second_depot_heals(two: tuple[Carried, Carried], copy: LocalDepot, depth: str) -> None:
    depot, manifest = two[0].depot, two[0].loaded.manifest
    wanted = [
        pack_path(manifest.packs[0].sha256),
        pack_path(pack_with(two[1], "only-second")),
        listing_path(manifest.volumes[0].listing.sha256),
        listing_path(two[1].loaded.manifest.volumes[0].listing.sha256),
        f"machines/web-1/profiles/{manifest.profile.time}.xml",
    ]  # fmt: skip
    (depot.root / wanted[0]).unlink()
    (depot.root / wanted[2]).unlink()
    for path, place in ((wanted[1], -5), (wanted[3], 100), (wanted[4], 60)):
        flip(depot.root / path, place)
    report = check(depot, depth, copy)
    assert sorted(report.healed) == sorted(wanted) and report.findings == ()
    assert check(depot, DECODE).findings == ()


def test_bad_copies_do_not_heal(two: tuple[Carried, Carried], copy: LocalDepot) -> None:
    depot, manifest = two[0].depot, two[0].loaded.manifest
    pack = pack_path(manifest.packs[0].sha256)
    flip(depot.root / pack, 20)
    bad = (depot.root / pack).read_bytes()
    flip(copy.root / pack, 30)
    (depot.root / image_path("web-1", manifest.time)).write_text("{}")
    report = check(depot, PACKS, copy)
    assert report.healed == ()
    of_manifest, of_pack = sorted(report.findings, key=lambda each: each.path)
    assert "manifest itself" in of_manifest.not_healed and "has SHA-256" in of_pack.not_healed
    assert (depot.root / pack).read_bytes() == bad, "what is there is not touched"
    assert not list((depot.root / "tmp").glob("heal-*"))
