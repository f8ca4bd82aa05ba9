"""Nothing is reachable without a token but what is named here, and no token reaches more than its role."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from agent.errors import DamagedError, UsageError
from agent.server.auth import GRANTS, Need, Role, Tokens
from tests.server.conftest import Server

OPEN = {("GET", "/healthz"), ("GET", "/api/v1/version"), ("GET", "/depot.json"), ("HEAD", "/depot.json")}


def every_route(app: object) -> Iterator[tuple[str, str, Need]]:
    """(method, path, need) of every route; any that is not an APIRoute would escape the checks."""
    assert isinstance(app, FastAPI)
    for route in flatten(app.routes):
        assert isinstance(route, APIRoute), f"{route} is not covered by the checks"
        for method in route.methods or ():
            need = Need((route.openapi_extra or {})["x-needs"])
            yield method, example(route.path), need


def flatten(routes: object) -> Iterator[object]:
    for route in routes:  # type: ignore[attr-defined]
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from flatten(inner.routes)
        else:
            yield route


def example(path: str) -> str:
    for name, value in (
        ("{path:path}", "catalogue.json"),
        ("{job_id}", "abc"),
        ("{target}", "1"),
        ("{token_id}", "x"),
        ("{lease}", "0" * 32),
        ("{image}", "web1"),
        ("{machine}", "web1"),
        ("{edit_id}", "x"),
        ("{name}", "x"),
    ):
        path = path.replace(name, value)
    assert "{" not in path
    return path


def test_without_a_token_only_the_open_routes_answer(server: Server) -> None:
    seen = set()
    for method, path, _ in every_route(server.client.app):
        status = server.client.request(method, path).status_code
        if (method, path) in OPEN:
            assert status == 200, (method, path)
            seen.add((method, path))
        else:
            assert status == 401, (method, path)
    assert seen == OPEN


def test_a_token_reaches_what_its_role_grants_and_nothing_else(server: Server) -> None:
    refused = 0
    for method, path, need in every_route(server.client.app):
        for role in Role:
            status = server.client.request(method, path, headers=server.headers(role)).status_code
            assert (status == 403) == (need not in GRANTS[role]), (method, path, role, status)
            assert status != 401
            refused += status == 403
    assert refused > 20


def test_roles_are_what_the_documentation_says() -> None:
    assert Need.WRITE not in GRANTS[Role.AGENT] | GRANTS[Role.READ]
    assert Need.AGENT not in GRANTS[Role.READ]
    assert Need.ADMIN not in GRANTS[Role.READ] | GRANTS[Role.AGENT] | GRANTS[Role.WRITE]


def test_a_route_that_names_no_need_is_closed_to_everybody(server: Server) -> None:
    app = server.client.app
    assert isinstance(app, FastAPI)
    app.router.routes.insert(0, APIRoute("/forgotten", lambda: "secret", methods=["GET"],
                                         dependencies=app.router.dependencies))  # fmt: skip
    assert server.client.get("/forgotten", headers=server.headers(Role.ADMIN)).status_code == 403


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/redoc", "/nothing", "/api/v1/nothing"])
def test_what_does_not_exist_is_not_told_to_strangers(server: Server, path: str) -> None:
    assert server.client.get(path).status_code == 401
    assert server.client.get(path, headers=server.headers(Role.ADMIN)).status_code == 404


@pytest.mark.parametrize("header", ["Bearer wrong", "Bearer", "Basic !!!", "Digest x", "", "Bearer \udcff"])
def test_bad_credentials_are_no_credentials(server: Server, header: str) -> None:
    value = header.encode("latin-1", "replace")
    answer = server.client.get("/catalogue.json", headers={b"Authorization": value})
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "not-allowed"
    assert "Bearer" in answer.headers["www-authenticate"]


def test_basic_works_for_reading_and_never_for_writing(server: Server) -> None:
    value = base64.b64encode(f"anybody:{server.token[Role.WRITE]}".encode()).decode()
    headers = {"Authorization": f"Basic {value}"}
    assert server.client.get("/", headers=headers).status_code == 200
    assert server.client.post("/api/v1/jobs", headers=headers, content=b"{}").status_code == 401


def test_public_reading_opens_the_depots_files_and_nothing_more(public_server: Server) -> None:
    for method, path, need in every_route(public_server.client.app):
        status = public_server.client.request(method, path).status_code
        assert (status == 401) == (need not in (Need.OPEN, Need.FILES)), (method, path, status)
    assert public_server.client.get("/catalogue.json", headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_a_disabled_token_is_worth_nothing(server: Server) -> None:
    (record,) = [each for each in server.tokens.records() if each.role is Role.READ]
    assert server.client.get("/catalogue.json", headers=server.headers(Role.READ)).status_code == 200
    answer = server.client.delete(f"/api/v1/tokens/{record.id}", headers=server.headers(Role.ADMIN))
    assert answer.json()["enabled"] is False
    assert server.client.get("/catalogue.json", headers=server.headers(Role.READ)).status_code == 401


def test_a_token_made_over_the_api_works_and_is_never_shown_again(server: Server) -> None:
    admin = server.headers(Role.ADMIN)
    made = server.client.post("/api/v1/tokens", content=b'{"role":"read","label":"wall"}', headers=admin).json()
    assert server.client.get("/catalogue.json", headers={"Authorization": f"Bearer {made['token']}"}).status_code == 200
    assert made["token"] not in server.client.get("/api/v1/tokens", headers=admin).text


def test_tokens_survive_a_restart_and_are_not_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    _, token = Tokens(path).create(Role.WRITE, "one")
    assert path.stat().st_mode & 0o777 == 0o600
    assert token not in path.read_text()
    again = Tokens(path)
    found = again.identify(token)
    assert found is not None
    assert found.grants == GRANTS[Role.WRITE]
    assert again.identify(token[:-1]) is None
    assert len(token) >= 40


def test_given_tokens_must_be_long_and_are_not_stored(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "tokens.json")
    with pytest.raises(UsageError, match="6 characters, expected at least 16"):
        tokens.accept(Role.WRITE, "secret", "given")
    tokens.accept(Role.WRITE, "x" * 16, "given")
    assert tokens.identify("x" * 16) is not None
    assert not (tmp_path / "tokens.json").exists()


def test_a_damaged_token_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokens.json").write_text("{")
    with pytest.raises(DamagedError, match=r"tokens\.json"):
        Tokens(tmp_path / "tokens.json")


def test_writes_and_denials_are_recorded_reads_are_not(server: Server) -> None:
    server.client.get("/catalogue.json")
    server.client.get("/catalogue.json", headers=server.headers(Role.READ))
    server.client.post("/api/v1/jobs", content=b"{}", headers=server.headers(Role.READ))
    text = (server.state / "audit.jsonl").read_text()
    lines = [msgspec.json.decode(line) for line in text.splitlines()]
    assert [(line["status"], line["label"], line["path"]) for line in lines] == [
        (401, "nobody", "/catalogue.json"),
        (403, "test read", "/api/v1/jobs"),
    ]
    assert not any(token in text for token in server.token.values())
