"""What is refused: by a stable exit code, naming the thing, what was found against what was expected, the next act."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.depot.local import LocalDepot
from agent.depot.signing import SigningKey
from tests.commands.program import Regraft
from tests.depot.web_server import Ranges, serve


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("frobnicate",), "frobnicate"),
        (("images", "--depot", ".", "--loud"), "--loud"),
        (("images",), "--depot"),
        (("restore", "web-1", "--depot", "."), "--disk"),
        (("capture", "--root", "/no/such/place", "--depot", "."), "/no/such/place"),
    ],
)
def test_wrong_words(regraft: Regraft, words: tuple[str, ...], named: str) -> None:
    done = regraft(*words, code=2)
    assert named in done.stderr and "--help" in done.stderr and not done.stdout
    error = regraft.json(*words, code=2)["error"]
    assert (error["code"], error["exit_code"]) == ("usage", 2) and named in error["message"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("show", "../etc"), "../etc"),
        (("show", "web-1@yesterday"), "web-1@yesterday"),
        (("show", "web-1", "--trust", "ed25519:short"), "ed25519:short"),
        (("capture", "--root", "/etc/default", "--name", "a/b"), "a/b"),
        (("extract", "web-1", "../etc/hostname", "--to", "target"), "../etc/hostname"),
    ],
)
def test_words_that_mean_nothing(regraft: Regraft, captured: Path, words: tuple[str, ...], named: str) -> None:
    assert named in regraft.refused(*words, "--depot", captured, code=2, name="usage")


def test_no_depot_there(regraft: Regraft, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for location in (str(tmp_path / "empty"), str(tmp_path / "nowhere")):
        assert location in regraft.refused("show", "web-1", "--depot", location, code=2, name="usage")
        assert location in regraft.refused("images", "--depot", location, code=2, name="usage")
    assert "ftp://host/" in regraft.refused("images", "--depot", "ftp://host/", code=2, name="usage")


def test_no_such_image(regraft: Regraft, captured: Path, tmp_path: Path) -> None:
    absent = regraft.refused("show", "mail", "--depot", captured, code=10, name="no-image")
    assert "‘mail’" in absent and "web-1" in absent  # what is asked for, what there is
    old = "web-1@20010101T000000Z"
    assert old in regraft.refused("show", old, "--depot", captured, code=10, name="no-image")
    words = ("extract", "web-1", "/etc/absent", "--to", tmp_path / "target", "--depot", captured)
    assert "/etc/absent" in regraft.refused(*words, code=10, name="no-image")


# --- depots that do not answer, or whose key is not known ---------------------------------------------------------


def test_a_depot_that_does_not_answer(regraft: Regraft) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    done = regraft("images", "--depot", url, "--json", code=20)
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "unreachable" and url in error["message"] and "refused" in error["message"]
    assert "attempts" in error["message"] and error["hint"] in done.stderr


@pytest.fixture
def url(captured: Path) -> Iterator[str]:
    with serve(Ranges, captured) as (address, _):
        yield address


def test_the_key_of_a_depot_behind_a_url_must_be_given(regraft: Regraft, url: str, captured: Path) -> None:
    stranger = Regraft(regraft.program, regraft.home.parent / "stranger")
    info = LocalDepot(captured).info
    unknown = stranger.refused("show", "web-1", "--depot", url, code=21, name="not-trusted")
    assert url in unknown and info.id in unknown
    other = SigningKey(Ed25519PrivateKey.generate()).public
    wrong = stranger.refused("show", "web-1", "--depot", url, "--trust", other, code=21, name="not-trusted")
    assert info.public_key in wrong and other in wrong  # found, expected
    assert stranger.json("show", "web-1", "--depot", url, "--trust", info.public_key)["machine"] == "web-1"
    assert stranger("show", "web-1", "--depot", url, REGRAFT_TRUST=info.public_key).stdout
    stranger.refused("show", "web-1", "--depot", url, code=21, name="not-trusted")  # giving it does not pin it


def test_only_where_the_key_is_an_image_is_made(regraft: Regraft, captured: Path, tree: Path) -> None:
    stranger = Regraft(regraft.program, regraft.home.parent / "stranger")
    words = ("capture", "--root", tree, "--depot", captured)
    assert "signing key" in stranger.refused(*words, code=21, name="not-trusted")
    assert len(regraft.json("images", "--depot", captured)) == 1
    plain = stranger.json("show", "web-1", "--depot", captured)  # a depot in a directory is trusted at first use
    assert plain["machine"] == "web-1"


# --- damage -------------------------------------------------------------------------------------------------------


def needed(depot: Path, pattern: str) -> list[Path]:
    """Files that a restore reads: of the objects not the stamps, which only captures look at."""
    manifests = [json.loads(path.read_text()) for path in depot.glob("machines/*/images/*.json")]
    stamps = {volume["stamps"]["sha256"] for image in manifests for volume in image["volumes"] if volume["stamps"]}
    return [path for path in sorted(depot.glob(pattern)) if path.name.partition(".")[0] not in stamps]


@pytest.mark.parametrize(
    ("pattern", "code", "name"),
    [
        ("packs/*/*.pack", 22, "damaged"),
        ("objects/*.jsonl.zst", 22, "damaged"),
        # Signed as a whole: a flipped byte cannot be told from a forgery.
        ("machines/*/images/*.json", 21, "not-trusted"),
        ("machines/*/profiles/*.xml", 21, "not-trusted"),
        ("machines/*/images/*.json.sig", 21, "not-trusted"),
    ],
)
def test_a_flipped_byte_is_refused_and_named(
    regraft: Regraft, captured: Path, tmp_path: Path, pattern: str, code: int, name: str
) -> None:
    for path in needed(captured, pattern):
        good = path.read_bytes()
        spoilt = bytearray(good)
        spoilt[len(good) // 2] ^= 4
        path.write_bytes(spoilt)
        target = tmp_path / f"without {path.name}"  # a new one: what is there and right is not fetched again
        words = ("extract", "web-1", "--to", target, "--depot", captured)
        assert str(path.relative_to(captured)).removesuffix(".sig") in regraft.refused(*words, code=code, name=name)
        path.write_bytes(good)
    regraft("extract", "web-1", "--to", tmp_path / "target", "--depot", captured)


@pytest.mark.parametrize("pattern", ["packs/*/*.pack", "objects/*.jsonl.zst", "machines/*/profiles/*.xml"])
def test_what_is_absent_is_named(regraft: Regraft, captured: Path, tmp_path: Path, pattern: str) -> None:
    path = needed(captured, pattern)[0]
    path.unlink()
    words = ("extract", "web-1", "--to", tmp_path / "target", "--depot", captured)
    assert str(path.relative_to(captured)) in regraft.refused(*words, code=22, name="damaged")


def test_a_depot_of_the_future_is_refused(regraft: Regraft, captured: Path) -> None:
    info = json.loads((captured / "depot.json").read_text())
    (captured / "depot.json").write_text(json.dumps({**info, "features": ["holograms"]}))
    assert "holograms" in regraft.refused("show", "web-1", "--depot", captured, code=22, name="damaged")


# --- the system says no -------------------------------------------------------------------------------------------


def test_a_place_that_cannot_be_written_is_named(regraft: Regraft, captured: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    below = tmp_path / "file/below"
    done = regraft("extract", "web-1", "--to", below, "--depot", captured, code=1)
    assert str(below) in done.stderr and "Traceback" not in done.stderr
    done = regraft("depot", "init", below, code=1)
    assert str(below) in done.stderr and "Traceback" not in done.stderr
