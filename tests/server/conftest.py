"""A server in this process, without sockets, on a small depot."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from starlette.testclient import TestClient

from agent.depot.local import LocalDepot
from agent.model.image import Manifest, ObjectRef, ProfileRef, Volume
from agent.model.profile import Network, Nic, Platform, Profile, Section, Status
from agent.model.profile_xml import dump_profile
from agent.model.storage import FileSystem
from agent.server.app import create_app
from agent.server.auth import Role, Tokens

TIME = "20261123T204140Z"
SOURCE_UUID = "4c4c4544-0038-4b10-8032-b8c04f523933"


def make_profile(
    machine: str = "web1", uuid: str = SOURCE_UUID, serial: str = "8XK2R93", mac: str = "52:54:00:12:34:56"
) -> Profile:
    return Profile(
        machine=machine,
        time="2026-11-23T20:41:40Z",
        sections=(Section("platform", Status.COMPLETE),),
        platform=Platform(
            system_vendor="Dell Inc.", product_name="OptiPlex 7090", system_uuid=uuid, system_serial=serial
        ),
        network=Network(nics=(Nic(mac=mac, name="ens3"),)),
    )


@dataclass(slots=True)
class Server:
    client: TestClient
    depot: LocalDepot
    tokens: Tokens
    state: Path
    token: dict[Role, str]

    def headers(self, role: Role) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token[role]}"}

    def put(self, path: str, data: bytes) -> int:
        return self.client.put(f"/{path}", content=data, headers=self.headers(Role.WRITE)).status_code

    def publish(self, profile: Profile) -> None:
        """A profile, and an image of one small volume that belongs to it."""
        answer = self.client.post("/api/v1/profiles", content=dump_profile(profile), headers=self.headers(Role.WRITE))
        assert answer.status_code == 201, answer.text
        pack, listing = b"pack of " + profile.machine.encode(), b"listing of " + profile.machine.encode()
        pack_ref, listing_ref = reference(pack), reference(listing)
        assert self.put(f"packs/{pack_ref.sha256[:2]}/{pack_ref.sha256}.pack", pack) == 201
        assert self.put(f"objects/{listing_ref.sha256}.jsonl.zst", listing) == 201
        manifest = make_manifest(profile.machine, answer.json()["sha256"], pack_ref, listing_ref)
        answer = self.client.post("/api/v1/images", content=manifest, headers=self.headers(Role.WRITE))
        assert answer.status_code == 201, answer.text


def reference(data: bytes) -> ObjectRef:
    return ObjectRef(hashlib.sha256(data).hexdigest(), len(data))


def make_manifest(machine: str, profile_sha256: str, pack: ObjectRef, listing: ObjectRef) -> bytes:
    volume = Volume("root", "tree", FileSystem("ext4", mountpoint="/"), listing, 3, 12, (pack.sha256,))
    manifest = Manifest(
        format=1, machine=machine, time=TIME, tool="regraft test", hostname=machine,
        profile=ProfileRef(TIME, profile_sha256, "f" * 64), disks=(), volumes=(volume,), packs=(pack,),
    )  # fmt: skip
    return msgspec.json.encode(manifest)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    yield from make_server(tmp_path, monkeypatch)


@pytest.fixture
def public_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    yield from make_server(tmp_path, monkeypatch, public_read=True)


def make_server(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    public_read: bool = False,
    floor_bytes: int = 0,
    rehearse: bool = False,
) -> Iterator[Server]:
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "home"))
    depot = LocalDepot.init(tmp_path / "depot")
    state = tmp_path / "state"
    state.mkdir()
    tokens = Tokens(state / "tokens.json")
    token = {role: tokens.create(role, f"test {role}")[1] for role in Role}
    app = create_app(depot, state, tokens, public_read=public_read, floor_bytes=floor_bytes, rehearse=rehearse)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield Server(client, depot, tokens, state, token)
