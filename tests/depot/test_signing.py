"""Whose signatures count."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import msgspec
import pytest

from agent.depot.http import HttpDepot
from agent.depot.local import LocalDepot
from agent.depot.signing import MANIFEST, PROFILE, TrustedKeys, load_key, trusted_keys, verify
from agent.depot.store import DEPOT_FILE
from agent.errors import NotTrustedError, UsageError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("REGRAFT_TRUST", raising=False)
    return tmp_path / "home"


@pytest.fixture
def depot(tmp_path: Path) -> LocalDepot:
    return LocalDepot.init(tmp_path / "depot")


def test_a_signature_fits_its_type_and_bytes_only(depot: LocalDepot) -> None:
    key = load_key(depot.id)
    trust = TrustedKeys(frozenset({key.public}))
    signature = key.sign(MANIFEST, b"data")
    verify(trust, MANIFEST, "m.json", b"data", signature)
    for type_, data in ((MANIFEST, b"datA"), (PROFILE, b"data")):
        with pytest.raises(NotTrustedError, match=r"m\.json.*does not fit"):
            verify(trust, type_, "m.json", data, signature)


def test_a_stranger_is_named(depot: LocalDepot, tmp_path: Path) -> None:
    stranger = load_key(LocalDepot.init(tmp_path / "other").id)
    with pytest.raises(NotTrustedError) as refused:
        verify(trusted_keys(depot), MANIFEST, "m.json", b"x", stranger.sign(MANIFEST, b"x"))
    assert stranger.public in refused.value.message and depot.public_key in refused.value.message


@pytest.mark.parametrize(
    "signature", [b"", b"{}", b"null", b"\xff", b'{"format":1,"type":"t","key":"k","signature":"!"}']
)
def test_what_is_no_signature_is_refused(signature: bytes, depot: LocalDepot) -> None:
    with pytest.raises(NotTrustedError, match=r"m\.json"):
        verify(trusted_keys(depot), MANIFEST, "m.json", b"x", signature)


def test_stray_bits_in_base64_are_no_second_signature(depot: LocalDepot) -> None:
    key = load_key(depot.id)
    found = msgspec.json.decode(key.sign(MANIFEST, b"x"))
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = found["signature"][-3]
    found["signature"] = found["signature"][:-3] + alphabet[alphabet.index(last) ^ 1] + "=="
    assert len(base64.b64decode(found["signature"])) == 64
    with pytest.raises(NotTrustedError):
        verify(trusted_keys(depot), MANIFEST, "m.json", b"x", msgspec.json.encode(found))


def test_the_private_key_is_never_in_the_depot(depot: LocalDepot, home: Path) -> None:
    key = home / "depots" / depot.id / "signing.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    secret = key.read_bytes().strip()
    assert not [path for path in depot.root.rglob("*") if path.is_file() and secret in path.read_bytes()]


def test_a_local_depot_is_pinned_at_first_use(depot: LocalDepot, home: Path) -> None:
    (home / "depots" / depot.id / "trusted").unlink()
    assert trusted_keys(depot).keys == {depot.public_key}
    other = "ed25519:" + base64.b64encode(bytes(32)).decode()
    text = (depot.root / DEPOT_FILE).read_text().replace(depot.public_key, other)
    (depot.root / DEPOT_FILE).write_text(text)
    again = LocalDepot(depot.root)
    assert again.public_key == other and trusted_keys(again).keys == {depot.public_key}


def test_given_keys_come_first_then_the_environment(depot: LocalDepot, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = ("ed25519:" + base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))
    monkeypatch.setenv("REGRAFT_TRUST", f"{two}")
    assert trusted_keys(depot).keys == {two}
    assert trusted_keys(depot, [one]).keys == {one}
    assert trusted_keys(depot, [f"{one},{two}"]).keys == {one, two}
    with pytest.raises(UsageError, match="not a public key"):
        trusted_keys(depot, ["ed25519:short"])


def test_a_url_is_never_trusted_at_first_sight(depot: LocalDepot, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = HttpDepot("http://depot.example/")
    monkeypatch.setattr(remote, "read", lambda path, limit=0: depot.read(path))
    assert trusted_keys(remote).keys == {depot.public_key}, "its key is known from the local use"
    (home / "depots" / depot.id / "trusted").unlink()
    with pytest.raises(NotTrustedError, match="no key is known"):
        trusted_keys(remote)
