"""Depots behind URLs: plain web servers, servers with ranges, servers that fail."""

from __future__ import annotations

import http.server
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agent.depot.catalogue import find_image
from agent.depot.http import HttpDepot
from agent.depot.local import LocalDepot
from agent.depot.signing import trusted_keys
from agent.errors import (
    DamagedError,
    NotAllowedError,
    RefusedError,
    StorageFullError,
    UnreachableError,
    UsageError,
)
from agent.image.write import write_volume
from agent.model.image import ImageRef
from tests.depot.web_server import Plain, Ranges, serve
from tests.image.source_tree import carry, describe, no_events, plain_tree, random_bytes

pytestmark = pytest.mark.root
DATA = random_bytes(300_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "packs").mkdir()
    (tmp_path / "packs/x.pack").write_bytes(DATA)
    return tmp_path


def quick(url: str, token: str = "") -> HttpDepot:
    return HttpDepot(url, token, sleep=lambda seconds: None)


def ranged(depot: HttpDepot, offset: int, size: int) -> bytes:
    buffer = bytearray(size)
    depot.read_into("packs/x.pack", offset, memoryview(buffer))
    return bytes(buffer)


@pytest.mark.parametrize("kind", [Plain, Ranges])
def test_files_and_ranges_are_read(kind: type[Plain], folder: Path) -> None:
    with serve(kind, folder) as (url, handler):
        depot = quick(url)
        assert depot.read("packs/x.pack") == DATA
        for offset, size in ((0, 10), (299_990, 10), (1000, 200_000), (5, 1)):
            assert ranged(depot, offset, size) == DATA[offset : offset + size]
        assert depot.exists("packs/x.pack") and not depot.exists("packs/y.pack")
        assert depot.exists("packs/x.pack", len(DATA)) and not depot.exists("packs/x.pack", len(DATA) + 1)
        with pytest.raises(FileNotFoundError):
            depot.read("packs/y.pack")
        with pytest.raises(FileNotFoundError):
            depot.read_into("packs/y.pack", 0, memoryview(bytearray(1)))
        with pytest.raises(DamagedError, match="ends before byte 300,010"):
            ranged(depot, 299_990, 20)
        with pytest.raises(DamagedError, match="ends before"):
            ranged(depot, 300_000, 20)
        with pytest.raises(DamagedError, match="larger than 1,000 bytes"):
            depot.read("packs/x.pack", 1000)
        whole = [line for line in handler.requests if line.startswith("GET /packs/x.pack")]
        if kind is Plain:
            assert len(whole) <= 4, "a server without ranges is asked for the file once, not once a range"


def test_a_cut_connection_is_taken_up_where_it_stopped(folder: Path) -> None:
    with serve(Ranges, folder, cuts=20, cut_after=10_000) as (url, handler):
        assert ranged(quick(url), 1000, 250_000) == DATA[1000:251_000]
        asked = [line.partition("bytes=")[2] for line in handler.requests]
    assert asked[:3] == ["1000-250999", "11000-250999", "21000-250999"]
    assert len(asked) == 21


def test_a_connection_that_never_brings_anything_ends(folder: Path) -> None:
    ends = pytest.raises(UnreachableError, match=r"packs/x\.pack.*8 attempts")
    with serve(Ranges, folder, cuts=1000, cut_after=0) as (url, _), ends:
        ranged(quick(url), 0, 1000)


def test_answers_that_may_pass_are_tried_again(folder: Path) -> None:
    with serve(Ranges, folder, errors=[503, 500, 429]) as (url, handler):
        assert quick(url).read("packs/x.pack") == DATA
        assert len(handler.requests) == 4


def test_nobody_there_is_named_soon() -> None:
    pauses: list[float] = []
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1.* 4 attempts"):
        HttpDepot("http://127.0.0.1:9/", sleep=pauses.append).read("depot.json")
    assert sum(pauses) < 2
    with pytest.raises(UsageError, match="not a depot’s URL"):
        HttpDepot("http:///nowhere")


class Refusing(http.server.BaseHTTPRequestHandler):
    """Has nothing, and answers every PUT and POST with ``status`` and ``body``."""

    status = 200
    body = b""
    requests: ClassVar[list[str]] = []
    protocol_version = "HTTP/1.1"

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.requests.append(f"{self.command} {self.path} {self.headers.get('Authorization', '')}".strip())
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_PUT(self) -> None:
        self._answer(self.status, self.body)

    def do_POST(self) -> None:
        self._answer(self.status, self.body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (401, b"", NotAllowedError), (403, b'{"code":"not-allowed","detail":"read only"}', NotAllowedError),
        (422, b'{"code":"damaged","title":"digest","detail":"SHA-256 differs"}', DamagedError),
        (507, b"", StorageFullError), (409, b'{"code":"refused","detail":"x"}', RefusedError),
        (413, b"not json", RefusedError), (404, b"", FileNotFoundError),
    ],
)  # fmt: skip
def test_refusals_of_a_server_are_final_and_said(
    status: int, body: bytes, error: type[Exception], folder: Path
) -> None:
    with serve(Refusing, folder, status=status, body=body) as (url, handler):
        with pytest.raises(error):
            quick(url, "secret").put_file("packs/x.pack", folder / "packs/x.pack")
        assert handler.requests == ["PUT /packs/x.pack Bearer secret"]
    assert (folder / "packs/x.pack").exists(), "what was not stored is still there"


def test_a_plain_web_server_takes_no_images(folder: Path) -> None:
    refused = pytest.raises(NotAllowedError, match="plain web server")
    with serve(Refusing, folder, status=405) as (url, _), refused:
        quick(url).publish_image(b"{}")


@pytest.mark.parametrize("kind", [Plain, Ranges])
def test_an_image_is_restored_from_a_plain_web_server(
    kind: type[Plain], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("REGRAFT_TRUST", raising=False)
    plain_tree(tmp_path / "source")
    local = LocalDepot.init(tmp_path / "depot")
    carry(tmp_path / "source", local)
    with serve(kind, tmp_path / "depot", cuts=3, cut_after=100_000) as (url, _):
        depot = quick(url)
        loaded = find_image(depot, trusted_keys(depot, [local.public_key]), ImageRef("web-1"))
        (tmp_path / "target").mkdir()
        write_volume(depot, loaded, "root", tmp_path / "target", no_events)
    assert describe(tmp_path / "target") == describe(tmp_path / "source")


@pytest.mark.parametrize("kind", [Plain, Ranges])
def test_a_server_that_knows_no_leases_is_no_hindrance(kind: type[Plain], folder: Path) -> None:
    with serve(kind, folder) as (url, handler):
        depot = quick(url)
        depot.hold("0" * 32, "a test")
        depot.release("0" * 32)
        assert {line.split()[0] for line in handler.requests} <= {"PUT", "DELETE"}


class Ports(Ranges):
    """Remembers the clients' ports: one a connection."""

    def log_message(self, format: str, *args: Any) -> None:
        self.requests.append(str(self.client_address[1]))


def test_threads_have_connections_of_their_own_and_keep_them(folder: Path) -> None:
    with serve(Ports, folder) as (url, handler), ThreadPoolExecutor(4) as threads:
        depot = quick(url)
        places = [(number * 37, 5000 + number) for number in range(100)]
        for (offset, size), found in zip(places, threads.map(lambda each: ranged(depot, *each), places), strict=True):
            assert found == DATA[offset : offset + size]
        assert len(handler.requests) == 100 and len(set(handler.requests)) <= 4
