"""Starting a server; and one with real sockets on the loopback interface."""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agent.depot.catalogue import find_image
from agent.depot.control import Control
from agent.depot.http import HttpDepot
from agent.depot.local import LocalDepot
from agent.depot.signing import trusted_keys
from agent.errors import DamagedError, NotAllowedError, NotTrustedError, UsageError
from agent.model.image import ImageRef
from agent.model.profile_xml import dump_profile
from agent.server.auth import Role, Tokens
from agent.server.run import PreparedServer, ServeOptions, give_tokens, prepare, prepare_state, warnings
from tests.server.conftest import make_manifest, make_profile, reference

DATA = os.urandom(3 << 20)
SHA = hashlib.sha256(DATA).hexdigest()
PACK = f"packs/{SHA[:2]}/{SHA}.pack"
TOKEN = "write-token-0123456789"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "home"))


def test_the_first_start_makes_tokens_and_tells_them_once(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    lines = give_tokens(Tokens(path), ServeOptions())
    told = [word for line in lines for word in line.split() if word.startswith("rgt_")]
    assert len(told) == 2
    assert {record.role for record in Tokens(path).records()} == {Role.WRITE, Role.AGENT}
    assert give_tokens(Tokens(path), ServeOptions()) == []


def test_a_given_write_token_works_and_is_not_told_or_stored(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "tokens.json")
    lines = give_tokens(tokens, ServeOptions(write_token=TOKEN))
    assert TOKEN not in "".join(lines)
    assert TOKEN not in (tmp_path / "tokens.json").read_text()
    assert sum("rgt_" in line for line in lines) == 1
    assert tokens.identify(TOKEN) is not None


def test_a_token_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    tokens = Tokens(tmp_path / "tokens.json")
    give_tokens(tokens, ServeOptions(token_file=tmp_path / "token"))
    assert tokens.identify(TOKEN) is not None


def test_state_never_lies_inside_the_depot(tmp_path: Path) -> None:
    depot = LocalDepot.init(tmp_path / "depot")
    with pytest.raises(UsageError, match="lies inside the depot"):
        prepare_state(depot, ServeOptions(state_dir=tmp_path / "depot/state"))
    assert prepare_state(depot, ServeOptions()).stat().st_mode & 0o777 == 0o700


def test_what_is_dangerous_is_said() -> None:
    assert warnings("127.0.0.1", ServeOptions()) == []
    assert "without TLS" in warnings("0.0.0.0", ServeOptions())[0]
    assert "everybody" in warnings("127.0.0.1", ServeOptions(public_read=True))[0]


# --- with sockets -------------------------------------------------------------------------------------------------


@pytest.fixture
def running(tmp_path: Path) -> Iterator[PreparedServer]:
    prepared = prepare(tmp_path / "depot", "127.0.0.1", 0, ServeOptions(write_token=TOKEN))
    thread = threading.Thread(target=prepared.server.run, kwargs={"sockets": [prepared.listener]})
    thread.start()
    deadline = time.monotonic() + 20
    while not prepared.server.started and time.monotonic() < deadline:
        time.sleep(0.02)
    yield prepared
    prepared.server.should_exit = True
    thread.join(30)
    prepared.listener.close()
    assert not thread.is_alive()


def connection(running: PreparedServer) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(running.url).netloc, timeout=20)


def ask(
    running: PreparedServer, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, bytes]:
    link = connection(running)
    link.request(method, f"/{path}", body, {"Authorization": f"Bearer {TOKEN}"} | headers)
    answer = link.getresponse()
    found = answer.status, answer.read()
    link.close()
    return found


@pytest.mark.root
def test_a_pack_goes_up_and_comes_back_in_ranges(running: PreparedServer) -> None:
    assert ask(running, "PUT", PACK, DATA)[0] == 201
    assert ask(running, "PUT", PACK, DATA)[0] == 200
    assert ask(running, "GET", PACK) == (200, DATA)
    assert ask(running, "GET", PACK, Range="bytes=1000000-2000000") == (206, DATA[1000000:2000001])
    assert ask(running, "GET", PACK, Range=f"bytes={len(DATA)}-")[0] == 416
    assert ask(running, "GET", "..%2f..%2fhome/depots")[0] == 404


@pytest.mark.root
def test_an_upload_that_is_cut_leaves_nothing(running: PreparedServer, tmp_path: Path) -> None:
    link = connection(running)
    link.putrequest("PUT", f"/{PACK}")
    link.putheader("Authorization", f"Bearer {TOKEN}")
    link.putheader("Content-Length", str(len(DATA)))
    link.endheaders()
    link.send(DATA[: 2 << 20])
    staging = tmp_path / "depot/tmp"
    deadline = time.monotonic() + 10
    while not list(staging.glob("put-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(staging.glob("put-*"))
    link.close()
    while list(staging.glob("put-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not list(staging.glob("put-*"))
    assert ask(running, "GET", PACK)[0] == 404


@pytest.mark.root
def test_the_client_talks_to_it(running: PreparedServer) -> None:
    assert Control(running.url).version()["program"] == "regraft"
    assert Control(running.url, TOKEN).jobs() == ()
    with pytest.raises(NotAllowedError, match="needs a token"):
        Control(running.url, "wrong").jobs()


@pytest.mark.root
def test_a_source_publishes_over_the_network_and_a_reader_believes_the_servers_key_only(
    running: PreparedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    depot = HttpDepot(running.url, TOKEN)
    published = depot.publish_profile(dump_profile(make_profile()))
    pack, listing = reference(b"a pack"), reference(b"a listing")
    for path, data in ((f"packs/{pack.sha256[:2]}/{pack.sha256}.pack", b"a pack"),
                       (f"objects/{listing.sha256}.jsonl.zst", b"a listing")):  # fmt: skip
        (tmp_path / "file").write_bytes(data)
        depot.put_file(path, tmp_path / "file")
    depot.publish_image(make_manifest("web1", published.sha256, pack, listing))
    (tmp_path / "file").write_bytes(b"other bytes")
    with pytest.raises(DamagedError, match="expected " + "0" * 64):
        depot.put_file(f"packs/00/{'0' * 64}.pack", tmp_path / "file")
    key = LocalDepot(tmp_path / "depot").public_key
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "another machine"))
    with pytest.raises(NotTrustedError):
        trusted_keys(depot)
    loaded = find_image(depot, trusted_keys(depot, [key]), ImageRef("web1"))
    assert loaded.profile.machine == "web1"
    assert Control(running.url, TOKEN).submit_target(dump_profile(make_profile("target"))).decision == "match"


class CuttingProxy:
    """Passes connections on, and cuts the first ones after some bytes of the answer."""

    def __init__(self, target: str, cuts: tuple[int, ...]) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._cuts = iter(cuts)
        self.passed = 0
        self.connections = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._pass_on, args=(client, next(self._cuts, 1 << 40)), daemon=True).start()

    def _pass_on(self, client: socket.socket, room: int) -> None:
        with client, socket.create_connection(self._target) as server:
            threading.Thread(target=pump, args=(client, server), daemon=True).start()
            while room > 0 and (data := server.recv(min(room, 1 << 16))):
                client.sendall(data)
                self.passed += len(data)
                room -= len(data)
            server.shutdown(socket.SHUT_RDWR)
            client.shutdown(socket.SHUT_RDWR)


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
    except OSError:
        pass


@pytest.mark.root
def test_a_cut_connection_goes_on_where_it_stopped(running: PreparedServer) -> None:
    assert ask(running, "PUT", PACK, DATA)[0] == 201
    proxy = CuttingProxy(urlsplit(running.url).netloc, (500_000, 1_000_000, 100, 700_000))
    buffer = bytearray(len(DATA))
    HttpDepot(proxy.url, TOKEN, sleep=lambda _: None).read_into(PACK, 0, memoryview(buffer))
    proxy.listener.close()
    assert buffer == DATA
    assert proxy.connections == 5
    assert proxy.passed < len(DATA) + 5 * 1000  # the rest is headers: nothing was fetched twice
