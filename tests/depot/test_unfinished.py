"""What captures that run tell of their packs: written line by line, read with care, gone when an image is there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from agent.depot.local import LocalDepot
from agent.depot.marks import MARKS_FILE, decode_marks
from agent.depot.prune import prune
from agent.depot.store import pack_path
from agent.depot.unfinished import decode_lines, encode_line, unfinished_path
from agent.errors import UsageError
from agent.model.image import ObjectRef

ONE, TWO = ObjectRef("1" * 64, 11), ObjectRef("2" * 64, 22)


@pytest.fixture
def depot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalDepot:
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "home"))
    return LocalDepot.init(tmp_path / "depot")


def put(depot: LocalDepot, data: bytes) -> ObjectRef:
    pack = ObjectRef(hashlib.sha256(data).hexdigest(), len(data))
    (depot.root.parent / "staged").write_bytes(data)
    depot.put_file(pack_path(pack.sha256), depot.root.parent / "staged")
    return pack


def test_lines_come_back_each_pack_once() -> None:
    assert decode_lines(encode_line(ONE) + encode_line(TWO) + encode_line(ONE)) == (ONE, TWO)
    assert decode_lines(b"") == ()


@pytest.mark.parametrize(
    "spoilt",
    [
        encode_line(ONE)[:-5], b"\n{}", b"\n[]", b"\nnull", b"\n\xff", b'\n{"x":' + b"[" * 100_000,
        b'\n{"sha256":"../../../etc/passwd","size_bytes":5}', b'\n{"sha256":"' + b"1" * 64 + b'","size_bytes":-1}',
        b'\n{"sha256":"' + b"1" * 64 + b'","size_bytes":1e99}',
        b'\n{"sha256":"' + "١".encode() * 64 + b'","size_bytes":1}',
    ],
)  # fmt: skip
def test_a_line_that_is_none_spoils_no_other(spoilt: bytes) -> None:
    assert decode_lines(encode_line(ONE) + spoilt + encode_line(TWO)) == (ONE, TWO)


def test_only_what_is_there_and_whole_is_named(depot: LocalDepot) -> None:
    there, short = put(depot, b"there"), put(depot, b"short")
    for pack in (ONE, there, short):
        depot.note_pack("web-1", pack)
    (depot.root / pack_path(short.sha256)).write_bytes(b"shor")
    assert depot.unfinished("web-1") == (there,)
    assert depot.unfinished("web-2") == ()


def test_who_asks_wants_them(depot: LocalDepot) -> None:
    pack, other = put(depot, b"wanted"), put(depot, b"other")
    depot.note_pack("web-1", pack)
    prune(depot, 3600, lambda: "20261123T204140Z")
    depot.unfinished("web-1")
    assert set(decode_marks(depot.read(MARKS_FILE), "")) == {pack_path(other.sha256)}


@pytest.mark.parametrize("name", ["", "..", "a/b", "../../etc", "web 1", "x" * 65])
def test_names_that_are_none_are_refused(depot: LocalDepot, name: str) -> None:
    for act in (lambda: depot.note_pack(name, ONE), lambda: depot.unfinished(name)):
        with pytest.raises(UsageError, match="cannot name a machine"):
            act()
    assert not list(depot.root.rglob("unfinished*"))


def test_prune_forgets_what_was_told_of_packs_that_are_gone(depot: LocalDepot) -> None:
    depot.note_pack("web-1", ONE)
    depot.note_pack("web-2", put(depot, b"there"))
    with_lease = "0" * 32
    depot.hold(with_lease, "capture")
    prune(depot, 3600)
    assert depot.exists(unfinished_path("web-1")), "while a capture runs, it may just be about to put it"
    depot.release(with_lease)
    prune(depot, 3600)
    assert not depot.exists(unfinished_path("web-1")) and depot.exists(unfinished_path("web-2"))
