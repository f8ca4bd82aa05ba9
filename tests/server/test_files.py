"""Depot files: only those of the layout, read by range, written by digest."""

from __future__ import annotations

import hashlib
import os
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.depot.component_xml import dump_component
from agent.errors import StorageFullError
from agent.model.image import Component, ComponentFile
from agent.model.recipe_bundle import encode
from agent.server import files
from agent.server.auth import Role
from tests.model.test_recipes import GOOD
from tests.server.conftest import Server, make_profile, make_server, reference

DATA = bytes(range(256)) * 5000
SHA = hashlib.sha256(DATA).hexdigest()
PACK = f"packs/{SHA[:2]}/{SHA}.pack"


@pytest.fixture
def full_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    yield from make_server(tmp_path, monkeypatch, floor_bytes=1 << 60)


@pytest.fixture
def stored(server: Server) -> Server:
    assert server.put(PACK, DATA) == 201
    return server


def get(server: Server, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    answer = server.client.get(f"/{path}", headers=server.headers(Role.READ) | headers)
    return answer.status_code, answer.content, {name.lower(): value for name, value in answer.headers.items()}


def test_a_pack_comes_back_whole_with_its_digest_as_etag(stored: Server) -> None:
    status, data, headers = get(stored, PACK)
    assert (status, data) == (200, DATA)
    assert headers["etag"] == f'"{SHA}"'
    assert headers["content-length"] == str(len(DATA))
    assert headers["accept-ranges"] == "bytes"
    assert "immutable" in headers["cache-control"]
    assert "private" in headers["cache-control"]


def test_what_may_change_is_asked_for_again(server: Server) -> None:
    assert get(server, "catalogue.json")[2]["cache-control"] == "private, no-cache"


@pytest.mark.parametrize(
    ("range_", "first", "end"),
    [("bytes=0-0", 0, 1), ("bytes=100-199", 100, 200), ("bytes=1279999-", 1279999, 1280000),
     ("bytes=-5", 1279995, 1280000), ("bytes=1000-9999999", 1000, 1280000), ("bytes=-9999999", 0, 1280000)],
)  # fmt: skip
def test_a_range_is_exactly_that(stored: Server, range_: str, first: int, end: int) -> None:
    status, data, headers = get(stored, PACK, Range=range_)
    assert status == 206
    assert data == DATA[first:end]
    assert headers["content-range"] == f"bytes {first}-{end - 1}/{len(DATA)}"
    assert headers["content-length"] == str(end - first)


@pytest.mark.parametrize("range_", ["bytes=1280000-", "bytes=9999999-9999999", "bytes=-0"])
def test_a_range_outside_the_file_is_416_with_its_size(stored: Server, range_: str) -> None:
    status, data, headers = get(stored, PACK, Range=range_)
    assert status == 416
    assert headers["content-range"] == f"bytes */{len(DATA)}"
    assert b"1,280,000 bytes" in data


@pytest.mark.parametrize("range_", ["bytes=5-1", "lines=1-2", "bytes=a-b", "bytes=", "bytes=0-1,5-6", "bytes=٣-٤"])
def test_what_is_no_single_range_gets_the_whole_file(stored: Server, range_: str) -> None:
    token = stored.token[Role.READ]
    headers = {b"Authorization": f"Bearer {token}".encode(), b"Range": range_.encode()}
    answer = stored.client.get(f"/{PACK}", headers=headers)
    assert (answer.status_code, answer.content) == (200, DATA)


def test_head_tells_size_without_content(stored: Server) -> None:
    answer = stored.client.head(f"/{PACK}", headers=stored.headers(Role.READ))
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", str(len(DATA)))


def test_a_known_file_is_not_sent_again(stored: Server) -> None:
    status, data, _ = get(stored, PACK, **{"If-None-Match": f'W/"x", "{SHA}"'})
    assert (status, data) == (304, b"")


def test_a_range_of_a_file_that_changed_gets_the_whole_new_one(stored: Server) -> None:
    assert get(stored, PACK, Range="bytes=0-1", **{"If-Range": '"other"'})[0] == 200
    assert get(stored, PACK, Range="bytes=0-1", **{"If-Range": f'"{SHA}"'})[0] == 206


@pytest.mark.parametrize(
    "path",
    ["tmp/catalogue.lock", "..%2f..%2fetc/passwd", "%2e%2e/state/tokens.json", "packs/%2e%2e/depot.json",
     "//etc/passwd", ".git/config", "packs", "packs/", f"packs/00/{SHA}.pack",
     "machines/.hidden/images/20261123T204140Z.json",
     "machines/a/images/latest.json",
     "components/a/1/%2e%2e/%2e%2e/%2e%2e/depot.json", "components/a/1/.secret", "signing.key",
     "recipes/", "depot.json%00", "catalogue.json\u2028"],
)  # fmt: skip
def test_nothing_else_of_the_directory_exists(stored: Server, path: str) -> None:
    (stored.depot.root / "signing.key").write_text("hidden words")
    (stored.depot.root / ".git").mkdir()
    (stored.depot.root / ".git/config").write_text("hidden words")
    status, data, _ = get(stored, path)
    assert status == 404
    assert b"hidden words" not in data


def test_a_link_out_of_the_depot_is_not_followed(stored: Server, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hidden words")
    (stored.depot.root / "recipes/x.toml").symlink_to(tmp_path / "secret")
    assert get(stored, "recipes/x.toml")[0] == 404


# --- writing ------------------------------------------------------------------------------------------------------


def staging(server: Server) -> list[str]:
    return [name for name in os.listdir(server.depot.root / "tmp") if name.startswith("put-")]


def test_the_same_file_twice_is_fine(stored: Server) -> None:
    assert stored.put(PACK, DATA) == 200
    assert staging(stored) == []


def test_bytes_that_do_not_fit_their_name_never_appear(server: Server) -> None:
    answer = server.client.put(f"/{PACK}", content=DATA[:-1] + b"x", headers=server.headers(Role.WRITE))
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["code"] == "damaged"
    found = hashlib.sha256(DATA[:-1] + b"x").hexdigest()
    assert found in problem["detail"]
    assert SHA in problem["detail"]
    assert not (server.depot.root / PACK).exists()
    assert staging(server) == []


def test_putting_good_bytes_heals_a_stored_file_that_rotted(stored: Server) -> None:
    (stored.depot.root / PACK).write_bytes(b"rot")
    assert stored.put(PACK, DATA) == 200
    assert (stored.depot.root / PACK).read_bytes() == DATA


@pytest.mark.parametrize(
    "path",
    ["depot.json", "catalogue.json", "machines/a/images/20261123T204140Z.json", "recipes/x.toml", "tmp/x",
     "machines/a/profiles/20261123T204140Z.xml.sig", "components/a/1/component.xml",
     "components/a/1/component.xml.sig", "packs/aa/short.pack", "components/a/..%2f1/x", "components/a/1/.x"],
)  # fmt: skip
def test_only_packs_listings_and_payloads_can_be_put(server: Server, path: str) -> None:
    before = (server.depot.root / "depot.json").read_bytes()
    assert server.put(path, b"x") == 400
    assert (server.depot.root / "depot.json").read_bytes() == before
    assert staging(server) == []


def test_a_payload_may_carry_its_digest(server: Server) -> None:
    path = "components/linux-image-6.1/6.1.140-1+b1/linux-image_6.1~x.deb"
    good = b64encode(hashlib.sha256(DATA).digest()).decode()
    bad = b64encode(hashlib.sha256(b"").digest()).decode()
    for digest, status in ((bad, 422), (good, 201)):
        headers = server.headers(Role.WRITE) | {"Content-Digest": f"sha-256=:{digest}:"}
        answer = server.client.put(f"/{path}", content=DATA, headers=headers)
        assert answer.status_code == status, answer.text
    assert answer.json()["sha256"] == SHA
    assert get(server, path)[1] == DATA


def test_the_payload_of_a_published_component_stays(server: Server) -> None:
    path = "components/firmware/1/firmware.deb"
    assert server.put(path, b"one") == 201
    assert server.put(path, b"two") == 200  # not published yet: a broken upload is repeated
    (server.depot.root / "components/firmware/1/component.xml").write_text("<component/>")
    assert server.put(path, b"three") == 409
    assert get(server, path)[1] == b"two"


def test_a_full_depot_says_what_it_needs_and_what_it_has(full_server: Server) -> None:
    answer = full_server.client.put(f"/{PACK}", content=DATA, headers=full_server.headers(Role.WRITE))
    assert answer.status_code == 507
    problem = answer.json()
    assert problem["code"] == StorageFullError.code
    assert "1,280,000 bytes" in problem["detail"]
    assert "are free" in problem["detail"]
    assert staging(full_server) == []


def test_a_body_without_announced_length_is_stopped_where_it_is_too_large(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(files.LARGEST_FILE_BYTES, "packs", 1000)
    body = (b"x" * 100 for _ in range(1000))
    answer = server.client.put(f"/{PACK}", content=body, headers=server.headers(Role.WRITE))
    assert answer.status_code == 413
    assert staging(server) == []


def test_a_broken_announced_length_is_refused(server: Server) -> None:
    headers = server.headers(Role.WRITE) | {"Content-Length": "-5"}
    assert server.client.put(f"/{PACK}", content=b"", headers=headers).status_code == 400


def test_the_catalogue_has_a_tag_of_its_content(server: Server) -> None:
    _, data, headers = get(server, "catalogue.json")
    assert headers["etag"] == f'"{hashlib.sha256(data).hexdigest()}"'
    assert get(server, "catalogue.json", **{"If-None-Match": headers["etag"]})[0] == 304


def test_a_bug_is_a_problem_document_without_inner_words(server: Server) -> None:
    (server.depot.root / "catalogue.json").unlink()
    (server.depot.root / "catalogue.json").mkdir()
    answer = server.client.get("/", headers=server.headers(Role.READ))
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert str(server.depot.root) not in answer.text


def component(payload: bytes, sha256: str) -> bytes:
    return dump_component(Component(
        id="firmware-x", version="1:2.0~rc1-1", kind="firmware", architecture="all", for_os="debian 12",
        package_format="deb", payload=(ComponentFile("firmware-x.deb", sha256, len(payload)),),
    ))  # fmt: skip


def test_a_component_is_published_when_its_payload_is_what_it_names(server: Server) -> None:
    def publish(xml: bytes) -> int:
        return server.client.post("/api/v1/components", content=xml, headers=server.headers(Role.WRITE)).status_code

    good = component(b"payload", hashlib.sha256(b"payload").hexdigest())
    assert publish(good) == 409  # its payload is absent
    assert server.put("components/firmware-x/1:2.0~rc1-1/firmware-x.deb", b"pAyload") == 201
    assert publish(good) == 422  # same size, other bytes
    assert get(server, "components/firmware-x/1:2.0~rc1-1/component.xml")[0] == 404
    assert server.put("components/firmware-x/1:2.0~rc1-1/firmware-x.deb", b"payload") == 200
    assert publish(good) == 201
    assert get(server, "components/firmware-x/1:2.0~rc1-1/component.xml")[1] == good
    assert get(server, "components/firmware-x/1:2.0~rc1-1/component.xml.sig")[0] == 200
    assert publish(b"<component/>") == 422


def test_a_capture_finds_what_the_one_before_it_stored(server: Server) -> None:
    def post(path: str, body: bytes = b"") -> tuple[int, bytes]:
        answer = server.client.post(f"/api/v1/unfinished/{path}", content=body, headers=server.headers(Role.WRITE))
        return answer.status_code, answer.content

    there, absent = reference(b"a pack"), reference(b"never came")
    assert server.put(f"packs/{there.sha256[:2]}/{there.sha256}.pack", b"a pack") == 201
    for pack in (absent, there):
        assert post("web1", msgspec.json.encode(pack)) == (204, b"")
    assert post("web1/claim") == (200, msgspec.json.encode([there]))
    assert post("web2/claim") == (200, b"[]")
    for machine, body, status in (
        ("web1", b"{}", 422), ("web1", b'{"sha256":"../x","size_bytes":1}', 400),
        ("web1", b'{"x":' + b"[" * 100_000, 422), ("we b", msgspec.json.encode(there), 400),
        ("..%2F..%2Fx", msgspec.json.encode(there), 405),
    ):  # fmt: skip
        assert post(machine, body)[0] == status
    server.publish(make_profile("web1"))
    assert post("web1/claim") == (200, b"[]"), "what an image needs is its own matter"


def test_recipes_are_published_when_every_one_can_be_read(server: Server) -> None:
    def publish(recipes: dict[str, str], role: Role = Role.WRITE) -> int:
        bundle = encode(recipes, "2026-11-24T18:00:00Z")
        return server.client.post("/api/v1/recipes", content=bundle, headers=server.headers(role)).status_code

    assert publish({"a.toml": GOOD}, Role.AGENT) == 403
    assert publish({"a.toml": GOOD.replace("[[check]]", "[[cheque]]")}) == 400
    assert get(server, "recipes/bundle.json")[0] == 404
    assert publish({"a.toml": GOOD}) == 201
    assert b"site.scale" in get(server, "recipes/bundle.json")[1]
    assert get(server, "recipes/bundle.json.sig")[0] == 200
    answer = server.client.post("/api/v1/recipes", content=b"{}", headers=server.headers(Role.WRITE))
    assert answer.status_code == 422
