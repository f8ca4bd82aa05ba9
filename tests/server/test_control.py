"""The agent's client against the real application, in one process; and against servers that misbehave."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import requests
from requests.adapters import BaseAdapter
from starlette.testclient import TestClient

from agent.depot.control import ATTEMPTS, Control
from agent.errors import (
    DamagedError,
    DiskSelectionError,
    NoImageError,
    NotAllowedError,
    NotTrustedError,
    RefusedError,
    RegraftError,
    StorageFullError,
    TemporaryError,
    UnreachableError,
    UsageError,
)
from agent.model.events import Event
from agent.model.jobs import JobMatch, JobRequest, Problem, State
from agent.model.profile_xml import dump_profile
from agent.server.auth import Role
from tests.console.test_report import report
from tests.server.conftest import SOURCE_UUID, TIME, Server, make_profile

Answer = tuple[int, bytes, dict[str, str]]


class Script(BaseAdapter):
    """Answers requests from a function instead of the network."""

    def __init__(self, answer: Callable[[requests.PreparedRequest], Answer]) -> None:
        super().__init__()
        self.answer = answer
        self.calls = 0

    def send(self, request: requests.PreparedRequest, *_args: Any, **_more: Any) -> requests.Response:
        self.calls += 1
        status, body, headers = self.answer(request)
        response = requests.Response()
        response.status_code, response.raw = status, io.BytesIO(body)
        response.headers.update(headers)
        response.request, response.url = request, request.url or ""
        return response

    def close(self) -> None:
        pass


def control_with(answer: Callable[[requests.PreparedRequest], Answer], token: str = "") -> tuple[Control, Script]:
    pauses: list[float] = []
    control = Control("http://depot.test/", token, sleep=pauses.append)
    script = Script(answer)
    control._session.mount("http://", script)
    return control, script


def application(client: TestClient) -> Callable[[requests.PreparedRequest], Answer]:
    def send(request: requests.PreparedRequest) -> Answer:
        path = (request.url or "").removeprefix("http://depot.test")
        answer = client.request(request.method or "", path, content=request.body, headers=dict(request.headers))
        return answer.status_code, bytes(answer.content), dict(answer.headers)

    return send


def as_role(server: Server, role: Role) -> Control:
    return control_with(application(server.client), server.token[role])[0]


def wanted(image: str = "web1", **match: Any) -> JobRequest:
    return JobRequest(match=msgspec.convert(match or {"system_uuid": SOURCE_UUID}, JobMatch), image=image)


def onto(selector: str) -> str:
    return f'[disks]\nvda = "{selector}"\n'


def target(uuid: str = SOURCE_UUID, serial: str = "other", mac: str = "52:54:00:aa:bb:cc") -> bytes:
    return dump_profile(make_profile("target", uuid, serial, mac))


# --- the whole conversation ---------------------------------------------------------------------------------------


def test_a_target_is_given_its_job_and_tells_of_it(server: Server) -> None:
    server.publish(make_profile())
    technician, agent = as_role(server, Role.WRITE), as_role(server, Role.AGENT)
    queued = technician.create_job(wanted())
    assert queued.image == f"web1@{TIME}"
    answer = agent.submit_target(target())
    assert (answer.decision, answer.job) == ("job", queued)
    job = agent.claim(queued.id)
    assert job.state is State.CLAIMED
    events = [Event(seq=1, time="t", kind="phase-start", phase="write", text="Schreibe \udcff"),
              Event(seq=2, time="t", kind="progress", phase="write", done=1, total=2)]  # fmt: skip
    agent.send_events(job.id, events)
    agent.send_events(job.id, events)
    assert [each.text for each in technician.events(job.id)] == ["Schreibe \\xff", ""]
    agent.send_report(job.id, report(changed_paths=("/srv/\udcff", "/etc/fstab")))
    assert technician.job(job.id).state is State.DONE
    assert technician.report(job.id).changed_paths == ("/srv/\\xff", "/etc/fstab")
    assert [each.id for each in technician.jobs()] == [job.id]


def test_a_job_that_ended_is_never_given_again_unless_queued_again(server: Server) -> None:
    server.publish(make_profile())
    technician, agent = as_role(server, Role.WRITE), as_role(server, Role.AGENT)
    job = technician.create_job(wanted())
    agent.submit_target(target())
    agent.claim(job.id)
    agent.send_report(job.id, report(result="failed", error="no room"))
    rebooted = as_role(server, Role.AGENT)
    answer = rebooted.submit_target(target())
    assert (answer.decision, answer.image, answer.job) == ("candidates", "", None)
    assert f"job {job.id} failed on this machine: no room" in answer.reason
    with pytest.raises(RefusedError, match="is failed, expected queued"):
        rebooted.claim(job.id)
    technician.queue_again(job.id)
    assert rebooted.submit_target(target()).decision == "job"
    assert rebooted.claim(job.id).attempt == 2


def test_a_machine_whose_job_is_done_is_not_restored_again_by_itself(server: Server) -> None:
    """It boots by network first: the newest image of the same machine would be written at every start."""
    server.publish(make_profile())
    job = as_role(server, Role.WRITE).create_job(wanted())
    agent = as_role(server, Role.AGENT)
    agent.submit_target(target())
    agent.claim(job.id)
    agent.send_report(job.id, report())
    answer = as_role(server, Role.AGENT).submit_target(target())
    assert (answer.decision, answer.image, answer.job) == ("candidates", "", None)
    assert answer.reason.startswith(f"job {job.id} restored {job.image} onto this machine; queue it again")
    assert answer.candidates[0].machine == "web1", "a person may choose it"


def test_a_running_job_is_not_given_to_its_rebooted_machine(server: Server) -> None:
    server.publish(make_profile())
    agent = as_role(server, Role.AGENT)
    job = as_role(server, Role.WRITE).create_job(wanted())
    agent.submit_target(target())
    agent.claim(job.id)
    answer = as_role(server, Role.AGENT).submit_target(target(mac="52:54:00:00:00:99"))
    assert answer.decision == "candidates"
    assert "queue it again if its agent is lost" in answer.reason


def test_without_a_job_the_same_machine_gets_its_own_image(server: Server) -> None:
    server.publish(make_profile("web1"))
    server.publish(make_profile("web2", uuid="11111111-2222-4333-8444-555555555555", serial="other-serial",
                                mac="52:54:00:00:00:02"))  # fmt: skip
    answer = as_role(server, Role.AGENT).submit_target(target())
    assert (answer.decision, answer.image, answer.job) == ("match", f"web1@{TIME}", None)
    assert answer.candidates[0].machine == "web1"
    assert answer.candidates[0].score > 0
    assert answer.candidates[0].reasons


def test_an_unknown_machine_gets_candidates_and_no_decision(server: Server) -> None:
    server.publish(make_profile())
    answer = as_role(server, Role.AGENT).submit_target(target(uuid="99999999-2222-4333-8444-555555555555"))
    assert (answer.decision, answer.image) == ("candidates", "")
    assert [each.image for each in answer.candidates] == [f"web1@{TIME}"]


def test_two_machines_that_fit_equally_are_no_decision(server: Server) -> None:
    server.publish(make_profile("web1"))
    server.publish(make_profile("web2"))
    answer = as_role(server, Role.AGENT).submit_target(target())
    assert answer.decision == "candidates"
    assert "fit equally well" in answer.reason


@pytest.mark.parametrize(
    "placeholder", ["FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "03000200-0400-0500-0006-000700080009"]
)
def test_placeholders_neither_match_nor_make_jobs(server: Server, placeholder: str) -> None:
    server.publish(make_profile("web1", uuid=placeholder))
    answer = as_role(server, Role.AGENT).submit_target(target(uuid=placeholder))
    assert answer.decision == "candidates"
    with pytest.raises(DamagedError, match="placeholder that many machines carry"):
        as_role(server, Role.WRITE).create_job(wanted(system_uuid=placeholder))


def test_the_same_profile_is_one_target(server: Server) -> None:
    agent = as_role(server, Role.AGENT)
    assert agent.submit_target(target()).target == agent.submit_target(target()).target


def test_what_a_target_said_is_kept_as_it_came(server: Server) -> None:
    number = as_role(server, Role.AGENT).submit_target(target()).target
    answer = server.client.get(f"/api/v1/targets/{number}/profile.xml", headers=server.headers(Role.READ))
    assert answer.content == target()


def test_a_document_that_is_no_profile_is_refused(server: Server) -> None:
    for body in (b"", b"<!DOCTYPE a><profile/>", b"<profile/>", b"\xff\xfe"):
        with pytest.raises((DamagedError, UsageError)):
            as_role(server, Role.AGENT).submit_target(body)
    with pytest.raises(RefusedError, match="more than 4 MiB"):
        as_role(server, Role.AGENT).submit_target(b"<" + b"x" * (5 << 20))


@pytest.mark.parametrize(
    ("request_", "error"),
    [(wanted("nothing"), NoImageError), (wanted("../x"), NoImageError), (wanted("web1@20200101T000000Z"), NoImageError),
     (msgspec.structs.replace(wanted(), disk="sda"), DiskSelectionError),
     (msgspec.structs.replace(wanted(), disk="serial="), DiskSelectionError),
     (msgspec.structs.replace(wanted(), mode="wipe"), DamagedError),
     (msgspec.structs.replace(wanted(), on_success="rm"), DamagedError),
     (msgspec.structs.replace(wanted(), also=("sdb",)), DiskSelectionError),
     (msgspec.structs.replace(wanted(), map=("/srv",)), UsageError),
     (msgspec.structs.replace(wanted(), disk="serial=S1", edits=onto("serial=S2")), RefusedError),
     (msgspec.structs.replace(wanted(), disk="serial=S1", edits=onto("only-eligible")), RefusedError),
     (msgspec.structs.replace(wanted(), grow="a\nb"), UsageError)],
)  # fmt: skip
def test_a_job_that_cannot_be_carried_out_is_not_queued(
    server: Server, request_: JobRequest, error: type[RegraftError]
) -> None:
    server.publish(make_profile())
    with pytest.raises(error):
        as_role(server, Role.WRITE).create_job(request_)
    assert as_role(server, Role.READ).jobs() == ()


@pytest.mark.adapts("B0", "T1")
def test_edits_of_a_job_choose_among_the_disks_that_it_names(server: Server) -> None:
    server.publish(make_profile())
    technician = as_role(server, Role.WRITE)
    named = msgspec.structs.replace(wanted(), disk="serial=S1", also=("serial=S2",))
    for selector in ("serial=S1", "serial=S2"):
        assert technician.create_job(msgspec.structs.replace(named, edits=onto(selector))).edits == onto(selector)
    with pytest.raises(RefusedError, match="puts vda onto ‘serial=S3’, and the job names ‘serial=S1’, ‘serial=S2’"):
        technician.create_job(msgspec.structs.replace(named, edits=onto("serial=S3")))


def test_an_agent_cannot_publish_or_queue(server: Server) -> None:
    agent = as_role(server, Role.AGENT)
    for call in (lambda: agent.create_job(wanted()), lambda: agent.publish_profile(target())):
        with pytest.raises(NotAllowedError, match="needs the role ‘write’"):
            call()


def test_an_image_that_names_what_is_not_there_is_not_published(server: Server) -> None:
    server.publish(make_profile())
    manifest = (server.depot.root / f"machines/web1/images/{TIME}.json").read_bytes()
    absent = manifest.replace(b'"time":"20261123T204140Z","tool"', b'"time":"20261124T000000Z","tool"')
    assert absent != manifest
    for pack in server.depot.root.glob("packs/*/*"):
        pack.unlink()
    answer = server.client.post("/api/v1/images", content=absent, headers=server.headers(Role.WRITE))
    assert answer.status_code == 409
    assert "is absent" in answer.json()["detail"]
    assert not (server.depot.root / "machines/web1/images/20261124T000000Z.json").exists()


# --- pages --------------------------------------------------------------------------------------------------------


def test_pages_show_images_jobs_targets_and_the_report(server: Server) -> None:
    server.publish(make_profile())
    agent = as_role(server, Role.AGENT)
    job = as_role(server, Role.WRITE).create_job(wanted())
    agent.submit_target(target(serial="<script>alert(1)</script>"))
    agent.claim(job.id)
    agent.send_events(job.id, [Event(seq=1, time="t", kind="warning", text="<b>careful</b> \x1b[2J")])
    agent.send_report(job.id, report())
    pages = {}
    for path in ("/", "/ui/jobs", f"/ui/jobs/{job.id}", f"/ui/jobs/{job.id}/report", "/ui/targets"):
        answer = server.client.get(path, headers=server.headers(Role.READ))
        assert answer.status_code == 200, answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "<script" not in answer.text
        pages[path] = answer.text
    assert f"web1@{TIME}" in pages["/"]
    assert "✔ done" in pages["/ui/jobs"]
    assert "&lt;b&gt;careful&lt;/b&gt; \\x1b[2J" in pages[f"/ui/jobs/{job.id}"]
    assert "RESTORED AND VERIFIED" in pages[f"/ui/jobs/{job.id}/report"]
    assert "&lt;script&gt;" in pages["/ui/targets"]


# --- servers that misbehave ---------------------------------------------------------------------------------------

BUSY: Answer = (503, b"", {"Retry-After": "3"})
JOB_LIST: Answer = (200, b"[]", {})


def test_a_server_that_is_busy_is_asked_again_after_what_it_says() -> None:
    answers = iter([BUSY, (502, b"", {}), JOB_LIST])
    pauses: list[float] = []
    control, script = control_with(lambda _: next(answers))
    control.sleep = pauses.append
    assert control.jobs() == ()
    assert script.calls == 3
    assert pauses[0] == 3
    assert 0 < pauses[1] <= 1.5


def test_a_server_that_stays_away_is_unreachable_after_a_few_attempts() -> None:
    def refuse(_: requests.PreparedRequest) -> Answer:
        raise requests.ConnectionError("Connection refused\n\x1b[2J")

    control, script = control_with(refuse)
    with pytest.raises(UnreachableError, match=r"http://depot\.test does not answer after 5 attempts") as caught:
        control.jobs()
    assert script.calls == ATTEMPTS
    assert "\x1b" not in str(caught.value)


def test_events_are_tried_once_so_that_a_restore_does_not_wait() -> None:
    control, script = control_with(lambda _: BUSY)
    with pytest.raises(TemporaryError):
        control.send_events("abc", [Event(seq=1, time="", kind="message")])
    assert script.calls == 1
    control.send_events("abc", [])
    assert script.calls == 1


def test_a_certificate_that_is_not_trusted_is_final() -> None:
    def refuse(_: requests.PreparedRequest) -> Answer:
        raise requests.exceptions.SSLError("self-signed certificate")

    control, script = control_with(refuse)
    with pytest.raises(NotTrustedError, match="self-signed"):
        control.jobs()
    assert script.calls == 1


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [(401, "", NotAllowedError), (403, "not-allowed", NotAllowedError), (404, "no-image", NoImageError),
     (404, "", NoImageError), (405, "", NoImageError), (409, "refused", RefusedError), (413, "refused", RefusedError),
     (422, "damaged", DamagedError), (422, "not-trusted", NotTrustedError), (507, "storage-full", StorageFullError),
     (400, "usage", UsageError), (418, "teapot", RegraftError), (302, "", UnreachableError)],
)  # fmt: skip
def test_refusals_are_final_and_become_our_errors(status: int, code: str, error: type[RegraftError]) -> None:
    body = msgspec.json.encode(Problem(code=code, detail="because \x1b[2J", hint="do this"))
    control, script = control_with(lambda _: (status, body if code else b"<html>", {"Location": "http://evil/"}))
    with pytest.raises(error) as caught:
        control.jobs()
    assert type(caught.value) is error
    assert script.calls == 1
    assert "\x1b" not in str(caught.value)
    if code:
        assert caught.value.hint == "do this"


def test_a_plain_web_server_is_told_apart() -> None:
    control, _ = control_with(lambda _: (404, b"<html>not found</html>", {}))
    with pytest.raises(NoImageError, match="no regraft server answers there"):
        control.submit_target(b"<profile/>")


def test_an_answer_of_something_else_is_named() -> None:
    control, _ = control_with(lambda _: (200, b"<html>router login</html>", {}))
    with pytest.raises(DamagedError, match="not what a regraft server says"):
        control.jobs()


def test_an_answer_without_end_is_cut() -> None:
    control, _ = control_with(lambda _: (200, b" " * (17 << 20), {}))
    with pytest.raises(DamagedError, match="larger than 16 MiB"):
        control.jobs()


def test_the_token_travels_as_bearer_and_is_not_shown() -> None:
    seen: list[str] = []

    def look(request: requests.PreparedRequest) -> Answer:
        seen.append(request.headers["Authorization"])
        return JOB_LIST

    control, _ = control_with(look, "secret-token")
    control.jobs()
    assert seen == ["Bearer secret-token"]
    assert "secret-token" not in repr(control)
