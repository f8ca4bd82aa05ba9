"""Whatever a file of a depot holds, it is read or refused by its name; no other error, no end without bounds."""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import zstandard
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.depot import catalogue, lease, marks, pins, signing, store, unfinished
from agent.depot.catalogue import LoadedImage, decode_manifest
from agent.depot.store import listing_path, pack_path
from agent.errors import DamagedError, RegraftError
from agent.image.compare import file_changes
from agent.image.image_tree import ImageTree
from agent.image.listing import open_listing
from agent.image.pack import MAGIC, MAX_FRAME_BYTES, TRAILER, read_table
from agent.image.stamps import NONE, encode_head, read_stamps
from agent.model.image import ObjectRef
from agent.model.profile_xml import dump_profile, load_profile
from tests.commands.system import machine
from tests.image.hostile import DEEP, changed, flipped, json_lines
from tests.image.made_image import Content, MemoryDepot, entry, folder, made_image

MANY = settings(max_examples=300, deadline=2000, suppress_health_check=list(HealthCheck))
SECONDS = 5


def good_image() -> tuple[MemoryDepot, LoadedImage, Content]:
    depot, content = MemoryDepot(), Content()
    entries = [
        content.file("hostname", b"web-1\n" * 20, mode=0o644, mtime=1_700_000_000_000_000_000),
        entry("link", "link", target="etc"),
        entry("hard", "hardlink", target="hostname"),
        entry("node", "char", device=(1, 3), mode=0o600),
        folder("etc", xattrs={"user.note": "aGk="}),
        content.sparse("etc/sparse", 9 << 20, {0: b"a" * 100, 5 << 20: b"b" * 5000}),
        folder("etc/deep"),
        entry("etc/deep/fifo", "fifo"),
    ]
    return depot, made_image(depot, {"/": entries}, content), content


DEPOT, IMAGE, _ = good_image()
VOLUME = IMAGE.manifest.volumes[0]
PLAIN = (
    zstandard.ZstdDecompressor().stream_reader(DEPOT.files[listing_path(VOLUME.listing.sha256)]).readall()
)  # fmt: skip
LINES = [msgspec.json.decode(line) for line in PLAIN.splitlines()]


def with_listing(packed: bytes) -> tuple[MemoryDepot, LoadedImage]:
    """The image with another listing, as who may sign could make it."""
    ref = ObjectRef(hashlib.sha256(packed).hexdigest(), len(packed))
    depot = MemoryDepot({**DEPOT.files, listing_path(ref.sha256): packed})
    return depot, replace(IMAGE, manifest=replace(IMAGE.manifest, volumes=(replace(VOLUME, listing=ref),)))


def read_everything(depot: MemoryDepot, image: LoadedImage) -> None:
    """As ls, cat, mount, compare and plans do."""
    tree = ImageTree(depot, image)
    for node in range(len(tree.index)):
        tree.index.path(node)
        tree.index.status(node)
        tree.index.attributes(node)
        sum(run.size for run in tree.index.runs(node))
    for path in ("/hostname", "/link/sparse", "/hard", "/etc/deep"):
        if tree.is_file(path):
            tree.read_bytes(path)
    with file_changes(depot, IMAGE, image) as found:
        assert found.files is not None


def refused_by_name(act: Callable[[], object], *names: str) -> None:
    """It works, or is refused with one of these names in the message; within a bounded time."""
    started = time.monotonic()
    try:
        act()
    except RegraftError as error:
        assert any(name in error.message for name in names), error.message
        assert error.hint and "\0" not in error.message
    assert time.monotonic() - started < SECONDS


@given(changed(LINES))
@MANY
def test_listings_with_other_values(lines: list[Any]) -> None:
    depot, image = with_listing(zstandard.compress(json_lines(lines)))
    refused_by_name(lambda: read_everything(depot, image), "objects/", "hard link", "packs/")


@pytest.mark.parametrize(
    "mend",
    [
        lambda lines, at: [*lines[:at], lines[at] + lines[at + 1], b"", *lines[at + 2 :]],
        lambda lines, at: [*lines[:at], b"", lines[at] + lines[at + 1], *lines[at + 2 :]],
        lambda lines, at: [
            *lines[:at],
            lines[at] + lines[at + 1],
            *lines[at + 2 : -1],
            b",\n".join(lines[-1].split(b",", 1)),
        ],
    ],
)
def test_every_line_is_one_value(mend: Callable[[list[bytes], int], list[bytes]]) -> None:
    """As many values as lines is not enough."""
    for at in (1, len(LINES) - 4):
        lines = mend(PLAIN.splitlines(), at)
        with pytest.raises(DamagedError, match="line"):
            read_everything(*with_listing(zstandard.compress(b"".join(b"%s\n" % line for line in lines))))


@given(flipped(PLAIN))
@MANY
def test_listings_with_other_bytes(plain: bytes) -> None:
    depot, image = with_listing(zstandard.compress(plain))
    refused_by_name(lambda: read_everything(depot, image), "objects/", "hard link", "packs/")


@given(flipped(DEPOT.files[listing_path(VOLUME.listing.sha256)]))
@MANY
def test_listings_that_hardly_unfold(packed: bytes) -> None:
    depot, image = with_listing(packed)
    refused_by_name(lambda: read_everything(depot, image), "objects/", "hard link", "packs/")


@pytest.mark.parametrize(
    "plain",
    [
        b"\n" * (300 << 20),
        b" " * (300 << 20),
        PLAIN[:-1] + b" " * (300 << 20) + b"\n",
        PLAIN + b"".join(b'{"path":"etc/deep/g%08d","type":"fifo"}\n' % n for n in range(100_000)),
        json_lines([{**LINES[0], "frames": 10**9}, *LINES[1:]]),
        json_lines([{**LINES[0], "entries": 10**30}, *LINES[1:]]),
    ],
    ids=["lines", "spaces", "one long line", "more than was said", "frames", "entries"],
)
def test_bombs_are_refused_before_they_unfold(plain: bytes) -> None:
    depot, image = with_listing(zstandard.compress(plain))
    started = time.monotonic()
    with pytest.raises(DamagedError, match="objects/"):  # noqa: SIM117 - what is inside raises, not the opening alone
        with open_listing(depot, image.manifest, image.manifest.volumes[0]) as listing:
            for _ in listing.entries():
                pass
    assert time.monotonic() - started < SECONDS


def test_a_listing_may_not_ask_for_much_memory_to_unfold() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(19, window_log=27, enable_ldm=True)
    wide = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    depot, image = with_listing(wide.compress(PLAIN) + wide.flush())
    with pytest.raises(DamagedError, match="does not unfold"):
        read_everything(depot, image)


# --- manifests ----------------------------------------------------------------------------------------------------

MANIFEST = msgspec.json.encode(IMAGE.manifest)


@given(changed([msgspec.json.decode(MANIFEST)]))
@MANY
def test_manifests_with_other_values(documents: list[Any]) -> None:
    def read() -> None:
        manifest = decode_manifest(msgspec.json.encode(documents[0]), "machines/x/images/y.json")
        catalogue.image_facts(manifest, "0" * 64)
        read_everything(DEPOT, replace(IMAGE, manifest=manifest))

    refused_by_name(read, "machines/x/images/y.json", "objects/", "packs/", "volume")


@given(flipped(MANIFEST))
@MANY
def test_manifests_with_other_bytes(data: bytes) -> None:
    refused_by_name(lambda: decode_manifest(data, "machines/x/images/y.json"), "machines/x/images/y.json")


@pytest.mark.parametrize("where", ["../etc", "/../etc", "etc", "/a/../../etc", "/a\0b"])
def test_mount_points_lead_nowhere_else(where: str) -> None:
    volume = replace(VOLUME, filesystem=replace(VOLUME.filesystem, mountpoint=where))
    data = msgspec.json.encode(replace(IMAGE.manifest, volumes=(volume,)))
    with pytest.raises(DamagedError, match=r"^m\.json: volume ‘v0’ on "):
        decode_manifest(data, "m.json")


@pytest.mark.parametrize("id_", ["", ".", "..", "../x", "a/b", "a\0", "-rf", "x" * 65])
def test_ids_of_volumes_are_names(id_: str) -> None:
    data = msgspec.json.encode(replace(IMAGE.manifest, volumes=(replace(VOLUME, id=id_),)))
    with pytest.raises(DamagedError, match=r"^m\.json: volume"):
        decode_manifest(data, "m.json")


# --- packs --------------------------------------------------------------------------------------------------------


def pack_of(table: bytes, frames: int, chunks: int, body: bytes, packed: bytes | None = None) -> ObjectRef:
    """A pack whose digests are right, whatever its table says."""
    stored = zstandard.compress(table) if packed is None else packed
    trailer = TRAILER.pack(len(body), len(stored), len(table), frames, chunks, blake3(stored).digest(), MAGIC)
    data = body + stored + trailer
    sha256 = hashlib.sha256(data).hexdigest()
    PACKS.files[pack_path(sha256)] = data
    return ObjectRef(sha256, len(data))


PACKS = MemoryDepot()
FRAME_ROW = struct.Struct("<QIIIB3x32s")
CHUNK_ROW = struct.Struct("<32sII")
BODY = b"a" * 1000 + b"b" * 500
TABLE = (
    FRAME_ROW.pack(0, 1000, 1000, 2, 1, blake3(b"a" * 1000).digest())
    + FRAME_ROW.pack(1000, 500, 500, 1, 1, blake3(b"b" * 500).digest())
    + CHUNK_ROW.pack(b"1" * 32, 0, 600) + CHUNK_ROW.pack(b"2" * 32, 600, 400) + CHUNK_ROW.pack(b"3" * 32, 0, 500)
)  # fmt: skip
WORDS = st.sampled_from([0, 1, 2, 499, 500, 501, 1000, 2**23, 2**23 + 1, 2**31, 2**32 - 1])


def test_a_good_table_is_read() -> None:
    frames, chunks = read_table(PACKS, pack_of(TABLE, 2, 3, BODY))
    assert [frame.plain for frame in frames] == [1000, 500] and len(chunks) == 3


@given(st.lists(st.tuples(st.integers(0, len(TABLE) // 4 - 1), WORDS), min_size=1, max_size=3), WORDS, WORDS)
@MANY
def test_tables_with_other_numbers(changes: list[tuple[int, int]], frames: int, chunks: int) -> None:
    table = bytearray(TABLE)
    for place, word in changes:
        struct.pack_into("<I", table, 4 * place, word)
    pack = pack_of(bytes(table), *((2, 3) if frames == 500 or chunks > 2 else (frames, chunks)), BODY)

    def read() -> None:
        found, parts = read_table(PACKS, pack)
        assert [frame.offset for frame in found] == [0, *(frame.offset + frame.stored for frame in found[:-1])]
        assert all(0 < frame.plain <= MAX_FRAME_BYTES for frame in found)
        assert all(size > 0 and at + size <= found[number].plain for _, number, at, size in parts)

    refused_by_name(read, pack_path(pack.sha256))


@given(flipped(BODY + zstandard.compress(TABLE) + bytes(64)))
@MANY
def test_packs_with_other_bytes(data: bytes) -> None:
    sha256 = hashlib.sha256(data).hexdigest()
    PACKS.files[pack_path(sha256)] = data
    for size in (len(data), len(data) + 1, 0, 64, 2**40):
        refused_by_name(lambda size=size: read_table(PACKS, ObjectRef(sha256, size)), sha256)  # type: ignore[misc]


def test_a_table_that_unfolds_to_more_is_refused() -> None:
    bomb = zstandard.compress(bytes(1 << 30))
    pack = pack_of(TABLE, 2, 3, BODY, bomb)
    started = time.monotonic()
    with pytest.raises(DamagedError, match=pack.sha256):
        read_table(PACKS, pack)
    assert time.monotonic() - started < 1


# --- the rest -----------------------------------------------------------------------------------------------------

STAMPS = encode_head(VOLUME.listing.sha256, "fs") + b"[12,34]\n[]\n[56,78]\n"


@given(flipped(STAMPS), st.booleans())
@MANY
def test_stamps_are_believed_or_not(data: bytes, packed: bool) -> None:
    """A capture reads again what they do not say; it never stops for them."""
    data = zstandard.compress(data) if packed else data
    ref = ObjectRef(hashlib.sha256(data).hexdigest(), len(data))
    depot = MemoryDepot({listing_path(ref.sha256): data})
    found = read_stamps(depot, IMAGE, replace(VOLUME, stamps=ref), "fs")
    assert found is None or all(each == NONE or len(each) == 2 for each in found)


def test_stamps_that_are_bombs_are_read_as_far_as_they_are_stamps() -> None:
    data = zstandard.compress(STAMPS + b"\n" * (300 << 20))
    ref = ObjectRef(hashlib.sha256(data).hexdigest(), len(data))
    found = read_stamps(MemoryDepot({listing_path(ref.sha256): data}), IMAGE, replace(VOLUME, stamps=ref), "fs")
    assert found is not None and len(list(found)) <= 3


PROFILE = dump_profile(machine("qemu-i440fx-virtio-bios-debian"))


@given(flipped(PROFILE))
@settings(MANY, max_examples=150)
def test_profiles_with_other_bytes(xml: bytes) -> None:
    try:
        load_profile(xml)
    except DamagedError as error:
        assert error.message and error.hint


DOCUMENTS: dict[str, Callable[[bytes], object]] = {
    "depot.json": lambda data: store.decode_info(data, "DEPOT"),
    "marks.json": lambda data: marks.decode_marks(data, "DEPOT"),
    "pins.json": lambda data: pins.read_pins(MemoryDepot({"pins.json": data}, location="DEPOT")),
    "catalogue.json": lambda data: catalogue.read_catalogue(MemoryDepot({"catalogue.json": data}, location="DEPOT")),
    "m.json": lambda data: decode_manifest(data, "m.json"),
    "x.sig": lambda data: signing.verify(signing.TrustedKeys(frozenset(), "DEPOT"), "t", "x", b"data", data),
    "lease": lease.decode,
    "unfinished": unfinished.decode_lines,
}
JSON = st.binary(max_size=40) | st.sampled_from(
    [b'{"x":' + DEEP, DEEP, b"null", b'{"format":1e999}', b'{"format":1,"marked":{"\xff":"x"}}', b"9" * 9999]
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
@given(data=JSON)
@settings(MANY, max_examples=60)
def test_documents_that_are_none(name: str, data: bytes) -> None:
    refused_by_name(lambda: DOCUMENTS[name](data), name, "DEPOT")
