"""Keys of LUKS devices that a job carries: for the machine that claimed it, for nobody else, and not for longer."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.depot.control import Control
from agent.errors import DamagedError, NotAllowedError, RefusedError, UsageError
from agent.model.events import Event
from agent.model.jobs import JobMatch, JobRequest
from agent.model.luks_keys import LuksKey
from agent.server.auth import Role
from agent.server.database import Database
from agent.server.held_keys import HeldKeys
from agent.server.jobs import Jobs
from tests.console.test_report import report
from tests.server.conftest import SOURCE_UUID, Server, make_profile
from tests.server.test_control import as_role, target, wanted

SECRET = "correct horse battery staple"
BINARY = b"\x00\xff key file \x01"
LUKS = "0c1f6a52-52d5-44c1-8d5e-4d4a6cb0a2a1"
KEYS = (LuksKey(passphrase=SECRET), LuksKey(uuid=LUKS, key=BINARY))
EDITS = '[skip]\nrecipes = ["console.serial-kept"]\n'


def keyed(**more: Any) -> JobRequest:
    return msgspec.structs.replace(wanted(), luks_keys=KEYS, **more)


def claimed(server: Server, **more: Any) -> tuple[Control, Control, str]:
    """A technician, the agent that claimed, and the job."""
    server.publish(make_profile())
    technician, agent = as_role(server, Role.WRITE), as_role(server, Role.AGENT)
    job = technician.create_job(keyed(**more))
    agent.submit_target(target())
    agent.claim(job.id)
    return technician, agent, job.id


def kept_anywhere(server: Server) -> list[str]:
    """Files of the server and of its depot that hold a key, in plain or in base64."""
    marks = (SECRET.encode(), BINARY, base64.b64encode(BINARY), base64.b64encode(SECRET.encode()))
    files = [*server.state.rglob("*"), *server.depot.root.rglob("*")]
    return [str(path) for path in files if path.is_file() and any(mark in path.read_bytes() for mark in marks)]


def test_the_machine_that_claimed_gets_them_and_the_rest_of_the_job(server: Server) -> None:
    _, agent, job_id = claimed(server, arrays="keep", edits=EDITS)
    assert agent.job_keys(job_id) == KEYS
    assert [key.secret for key in agent.job_keys(job_id)] == [SECRET.encode(), BINARY]
    job = agent.job(job_id)
    assert (job.arrays, job.edits, job.luks_keys) == ("keep", EDITS, "held")


def test_nobody_else_gets_them(server: Server) -> None:
    technician, agent, job_id = claimed(server)
    other = as_role(server, Role.AGENT)
    other.submit_target(target())
    for stranger in (other, technician):
        with pytest.raises(NotAllowedError, match="was not claimed with this secret"):
            stranger.job_keys(job_id)
    with pytest.raises(NotAllowedError, match="needs the role"):
        as_role(server, Role.READ).job_keys(job_id)
    assert agent.job_keys(job_id)


def test_nothing_that_people_or_programs_read_shows_them(server: Server) -> None:
    _, agent, job_id = claimed(server)
    agent.send_events(job_id, [Event(seq=1, time="t", kind="phase-start", phase="write", text="Writing")])
    (held,) = kept_anywhere(server)
    place = server.state / "keys" / job_id
    assert held == str(place)
    assert stat.S_IMODE(place.stat().st_mode) == 0o600 and stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    reader = server.headers(Role.ADMIN)
    for path in ("/api/v1/jobs", f"/api/v1/jobs/{job_id}", f"/api/v1/jobs/{job_id}/events", "/ui/jobs",
                 f"/ui/jobs/{job_id}", "/api/v1/rehearsals", "/catalogue.json"):  # fmt: skip
        answer = server.client.get(path, headers=reader)
        assert answer.status_code == 200, path
        assert SECRET not in answer.text and base64.b64encode(BINARY).decode() not in answer.text
    assert server.client.get(f"/keys/{job_id}", headers=reader).status_code == 404
    agent.job_keys(job_id)
    audit = [json.loads(line) for line in (server.state / "audit.jsonl").read_text().splitlines()]
    assert [line["status"] for line in audit if line["path"] == f"/api/v1/jobs/{job_id}/keys"] == [200]


@pytest.mark.parametrize("result", ["restored-and-verified", "failed"])
def test_they_are_gone_when_the_job_has_ended_and_are_given_again(server: Server, result: str) -> None:
    technician, agent, job_id = claimed(server)
    agent.send_report(job_id, report(result=result, error="no room"))
    assert kept_anywhere(server) == [] and technician.job(job_id).luks_keys == "gone"
    with pytest.raises(RefusedError, match="its keys are gone"):
        agent.job_keys(job_id)
    with pytest.raises(RefusedError, match="give them again"):
        technician.queue_again(job_id)
    again = technician.queue_again(job_id, (LuksKey(passphrase="another"),))
    assert (again.attempt, again.luks_keys) == (2, "held")
    agent.send_events(job_id, [Event(seq=9, time="t", kind="warning", text="late words of the first attempt")])
    with pytest.raises(RefusedError, match="attempt 1 of job"):
        agent.job_keys(job_id)
    rebooted = as_role(server, Role.AGENT)
    rebooted.submit_target(target())
    rebooted.claim(job_id)
    assert rebooted.job_keys(job_id) == (LuksKey(passphrase="another"),)


def test_an_error_that_ends_a_job_takes_them_away(server: Server) -> None:
    _, agent, job_id = claimed(server)
    agent.send_events(job_id, [Event(seq=1, time="t", kind="result", code="failed", text="no disk")])
    assert kept_anywhere(server) == []


def test_a_job_whose_agent_is_lost_is_queued_again_with_the_keys_that_are_held(server: Server) -> None:
    technician, _, job_id = claimed(server)
    assert technician.queue_again(job_id).luks_keys == "held"


def test_a_cancelled_job_is_not_given_out_and_its_keys_are_gone(server: Server) -> None:
    server.publish(make_profile())
    technician = as_role(server, Role.WRITE)
    job = technician.create_job(keyed())
    ended = technician.cancel(job.id)
    assert (ended.state, ended.message, ended.luks_keys) == ("failed", "cancelled", "gone")
    assert kept_anywhere(server) == []
    assert as_role(server, Role.AGENT).submit_target(target()).decision != "job"
    with pytest.raises(RefusedError, match="is failed already"):
        technician.cancel(job.id)


def test_a_server_that_was_down_when_a_job_ended_forgets_at_its_next_start(tmp_path: Path) -> None:
    database, keys = Database(f"sqlite:///{tmp_path}/state.sqlite"), HeldKeys(tmp_path / "keys")
    jobs = Jobs(database, keys)
    request = msgspec.structs.replace(wanted(), image="web1@20261123T204140Z", luks_keys=KEYS)
    ended, waiting = jobs.create(request)[0], jobs.create(request)[0]
    jobs.cancel(ended.id)
    keys.keep(ended.id, KEYS)  # as if it had been cut in between
    keys.keep("abc123", KEYS)  # of a job that never came to be
    assert keys.jobs() == tuple(sorted((ended.id, waiting.id, "abc123")))
    again = Jobs(database, keys)
    assert keys.jobs() == (waiting.id,) and again.get(waiting.id).luks_keys == "held"
    database.close()


def test_a_job_without_keys_says_so_and_gives_none(server: Server) -> None:
    server.publish(make_profile())
    technician, agent = as_role(server, Role.WRITE), as_role(server, Role.AGENT)
    job = technician.create_job(wanted())
    agent.submit_target(target())
    assert (agent.claim(job.id).luks_keys, agent.job_keys(job.id)) == ("", ())


@pytest.mark.parametrize(
    ("change", "error", "part"),
    [
        ({"match": JobMatch(any=True), "luks_keys": KEYS}, RefusedError, "anybody could ask"),
        ({"luks_keys": (LuksKey(),)}, UsageError, "neither"),
        ({"luks_keys": (LuksKey(passphrase=SECRET, key=b"x"),)}, UsageError, "both"),
        ({"luks_keys": (LuksKey(passphrase=SECRET), LuksKey(passphrase="b"))}, UsageError, "two keys"),
        ({"luks_keys": (LuksKey(uuid="../../x", passphrase=SECRET),)}, UsageError, "no UUID"),
        ({"arrays": "both"}, DamagedError, "arrays"),
        ({"edits": "[skip]\nitms = []\n"}, UsageError, "itms"),
    ],
)
def test_what_is_not_understood_is_refused_without_showing_a_key(
    server: Server, change: dict[str, Any], error: type[Exception], part: str
) -> None:
    server.publish(make_profile())
    with pytest.raises(error, match=part) as refused:
        as_role(server, Role.WRITE).create_job(msgspec.structs.replace(wanted(), **change))
    assert SECRET not in str(refused.value)
    assert kept_anywhere(server) == []


def test_an_unreadable_request_is_refused_without_showing_a_key(server: Server) -> None:
    body = {"match": {"system_uuid": SOURCE_UUID}, "image": "web1", "luks_keys": [{"pass": SECRET}, {"key": SECRET}]}
    answer = server.client.post("/api/v1/jobs", json=body, headers=server.headers(Role.WRITE))
    assert answer.status_code == 422 and SECRET not in answer.text


def test_a_key_is_not_shown_when_it_is_printed() -> None:
    assert SECRET not in repr(KEYS) + str(keyed()) and "horse" not in f"{KEYS[0]}"
