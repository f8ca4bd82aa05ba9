"""The small talk with a regraft server: target profiles, jobs, events, reports. Protocol: docs/server.md.

Image bytes do not pass here; see `http`. Server answers that may pass (5xx, no connection) are tried again with
growing pauses, refusals are final.
"""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

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
from agent.model.jobs import Candidate, Claim, Job, JobKeys, JobRequest, NewAttempt, Problem, TargetAnswer
from agent.model.luks_keys import LuksKey
from agent.model.report import Report, well_formed_report
from agent.model.undecodable import UNDECODABLE
from agent.model.wording import printable, well_formed
from agent.version import VERSION

__all__ = ["Candidate", "Control", "Job", "JobRequest", "TargetAnswer"]

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
ATTEMPTS = 5
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0
ANSWER_LIMIT_BYTES = 16 << 20
EVENT_TEXT_LIMIT = 4000
EVENTS_PER_POST = 500
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})

BY_CODE: dict[str, type[RegraftError]] = {
    each.code: each
    for each in (DamagedError, DiskSelectionError, NoImageError, NotAllowedError, NotTrustedError, RefusedError,
                 StorageFullError, TemporaryError, UsageError)
}  # fmt: skip
BY_STATUS: dict[int, type[RegraftError]] = {
    400: UsageError, 401: NotAllowedError, 403: NotAllowedError, 404: NoImageError, 405: NoImageError,
    409: RefusedError, 413: RefusedError, 422: DamagedError, 429: TemporaryError, 501: NoImageError,
    503: TemporaryError, 507: StorageFullError,
}  # fmt: skip

Answer = TypeVar("Answer")


class _Bearer(AuthBase):
    """An explicit scheme, so that a .netrc never replaces the token."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


@dataclass(slots=True)
class Control:
    """A session with one server. ``sleep`` is a parameter for tests."""

    url: str
    token: str = field(default="", repr=False)
    sleep: Callable[[float], None] = time.sleep
    target: int = 0  # number of the last target record, from submit_target
    _session: requests.Session = field(init=False, repr=False)
    _claims: dict[str, str] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.url = self.url.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False  # like the depot's own client: no proxies, no .netrc
        self._session.verify = os.environ.get("SSL_CERT_FILE") or True  # an authority of one's own, as in `http`
        self._session.auth = _Bearer(self.token)
        self._session.headers["User-Agent"] = f"regraft/{VERSION}"
        self._session.headers["Accept"] = "application/json, application/problem+json"
        self._session.mount("http://", HTTPAdapter(max_retries=0))
        self._session.mount("https://", HTTPAdapter(max_retries=0))

    # --- targets and jobs ---------------------------------------------------------------------------------------

    def version(self) -> dict[str, str]:
        return self._call("GET", "version", dict[str, str])

    def submit_target(self, profile_xml: bytes) -> TargetAnswer:
        """Tell the server what this machine is; it answers what is to be done."""
        answer = self._call("POST", "targets", TargetAnswer, profile_xml, "application/xml")
        self.target = answer.target
        return answer

    def create_job(self, request: JobRequest) -> Job:
        key = {"Idempotency-Key": secrets.token_hex(16)}
        return self._call("POST", "jobs", Job, msgspec.json.encode(request), headers=key)

    def jobs(self) -> tuple[Job, ...]:
        return self._call("GET", "jobs", tuple[Job, ...])

    def job(self, job_id: str) -> Job:
        return self._call("GET", f"jobs/{job_id}", Job)

    def claim(self, job_id: str) -> Job:
        """Take a job for the target told of last. Exactly one agent can."""
        secret = self._claims.setdefault(job_id, secrets.token_urlsafe(32))
        claim = Claim(target=self.target, secret=secret)
        return self._call("POST", f"jobs/{job_id}/claim", Job, msgspec.json.encode(claim))

    def job_keys(self, job_id: str) -> tuple[LuksKey, ...]:
        """The keys of LUKS devices that a claimed job carries."""
        return self._call("POST", f"jobs/{job_id}/keys", JobKeys, b"", headers=self._claim_header(job_id)).luks_keys

    def queue_again(self, job_id: str, keys: tuple[LuksKey, ...] = ()) -> Job:
        """A new attempt of a job that is done or failed, or whose agent is lost."""
        key = {"Idempotency-Key": secrets.token_hex(16)}
        body = msgspec.json.encode(NewAttempt(luks_keys=keys)) if keys else b""
        return self._call("POST", f"jobs/{job_id}/attempts", Job, body, headers=key)

    def cancel(self, job_id: str) -> Job:
        return self._call("POST", f"jobs/{job_id}/cancel", Job, b"")

    # --- what a run tells ---------------------------------------------------------------------------------------

    def send_events(self, job_id: str, events: Sequence[Event]) -> None:
        """Once, with a short time-out: a restore does not wait for its audience. The server ignores what it has."""
        for first in range(0, len(events), EVENTS_PER_POST):
            batch = [_fit_for_json(event) for event in events[first : first + EVENTS_PER_POST]]
            self._call("POST", f"jobs/{job_id}/events", dict[str, int], msgspec.json.encode(batch),
                       headers=self._claim_header(job_id), attempts=1)  # fmt: skip

    def send_report(self, job_id: str, report: Report) -> None:
        """The end of a job."""
        body = msgspec.json.encode(well_formed_report(report))
        self._call("PUT", f"jobs/{job_id}/report", Job, body, headers=self._claim_header(job_id))

    def report(self, job_id: str) -> Report:
        return self._call("GET", f"jobs/{job_id}/report", Report)

    def events(self, job_id: str, after: int = -1) -> tuple[Event, ...]:
        return self._call("GET", f"jobs/{job_id}/events?after={after}", tuple[Event, ...])

    def _claim_header(self, job_id: str) -> dict[str, str]:
        return {"Regraft-Claim": self._claims.get(job_id, "")}

    # --- publishing ---------------------------------------------------------------------------------------------

    def publish_profile(self, profile_xml: bytes) -> dict[str, str]:
        """{"machine", "time", "sha256", "path"} of a source profile in the depot."""
        return self._call("POST", "profiles", dict[str, str], profile_xml, "application/xml")

    # --- the wire -----------------------------------------------------------------------------------------------

    def _call(  # noqa: PLR0913 - one door for every request
        self,
        method: str,
        path: str,
        answer: type[Answer],
        body: bytes | None = None,
        content_type: str = "application/json",
        *,
        headers: dict[str, str] | None = None,
        attempts: int = ATTEMPTS,
    ) -> Answer:
        url = f"{self.url}/api/v1/{path}"
        all_headers = {"Content-Type": content_type, **(headers or {})} if body is not None else headers
        pause = FIRST_PAUSE_S
        for attempt in range(1, attempts + 1):
            try:
                status, data, wait = self._once(method, url, body, all_headers)
            except requests.exceptions.SSLError as error:
                raise NotTrustedError(f"{self.url}: its certificate is not trusted: {printable(str(error))}") from None
            except requests.RequestException as error:
                if attempt == attempts:
                    raise UnreachableError(
                        f"{self.url} does not answer after {attempt} attempts: {printable(str(error), 300)}",
                        "check the cable, the address and that ‘regraft serve’ runs there",
                    ) from None
                wait = 0.0
            else:
                if status not in AGAIN or attempt == attempts:
                    return self._answer(method, url, status, data, answer)
            # Jitter: thirty machines that lost their server must not come back in one moment.
            self.sleep(max(wait, pause * random.uniform(0.5, 1.5)))
            pause = min(pause * 2, LONGEST_PAUSE_S)
        raise AssertionError("the last attempt returns or raises")

    def _once(
        self, method: str, url: str, body: bytes | None, headers: dict[str, str] | None
    ) -> tuple[int, bytes, float]:
        """Status, body and Retry-After of one request. Redirects are answers: the token stays with its server."""
        timeout = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
        with self._session.request(
            method, url, data=body, headers=headers, timeout=timeout, allow_redirects=False, stream=True
        ) as response:
            data = bytearray()
            for piece in response.iter_content(1 << 16):
                data += piece
                if len(data) > ANSWER_LIMIT_BYTES:
                    raise DamagedError(f"{url}: the answer is larger than {ANSWER_LIMIT_BYTES >> 20} MiB")
            after = response.headers.get("Retry-After", "")
            wait = min(float(after), LONGEST_PAUSE_S) if after.isdecimal() else 0.0
            return response.status_code, bytes(data), wait

    def _answer(self, method: str, url: str, status: int, data: bytes, answer: type[Answer]) -> Answer:
        if not 200 <= status < 300:
            raise _problem(method, url, status, data)
        try:
            return msgspec.json.decode(data, type=answer)
        except UNDECODABLE as error:
            raise DamagedError(
                f"{url}: the answer is not what a regraft server says: {printable(str(error), 200)}",
                "check that the address is that of ‘regraft serve’",
            ) from None


def _problem(method: str, url: str, status: int, data: bytes) -> RegraftError:
    """The error that an answer with a bad status means."""
    where = f"{method} {url}"
    if 300 <= status < 400:
        return UnreachableError(
            f"{where}: the server sends us elsewhere (status {status}), which is not followed",
            "give the depot's final address",
        )
    try:
        problem = msgspec.json.decode(data, type=Problem)
    except UNDECODABLE:
        problem = Problem()
    default = TemporaryError if status >= 500 else RegraftError
    kind = BY_CODE.get(problem.code) or BY_STATUS.get(status, default)
    detail = printable(problem.detail or problem.title or "no reason given", 1000)
    hint = printable(problem.hint, 500)
    if not problem.code and status in (404, 405, 501):
        detail, hint = "no regraft server answers there", "a plain web server has images, but neither jobs nor targets"
    return kind(f"{where}: {detail} (status {status})", hint)


def _fit_for_json(event: Event) -> Event:
    return msgspec.structs.replace(event, text=well_formed(event.text)[:EVENT_TEXT_LIMIT])
