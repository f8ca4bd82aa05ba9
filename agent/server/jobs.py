"""Jobs and their attempts in the database: the state machine of agent.model.jobs, and nothing about HTTP."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec
from sqlalchemy import CursorResult, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from agent.console.recorder import now
from agent.errors import DamagedError, NoImageError, NotAllowedError, RefusedError
from agent.model.events import Event
from agent.model.jobs import ENDED, Claim, Job, JobLayout, JobMatch, JobRequest, State
from agent.model.luks_keys import LuksKey
from agent.model.report import Report
from agent.model.wording import printable
from agent.server.database import (
    AttemptRow,
    Database,
    EventRow,
    JobCardsRow,
    JobLayoutRow,
    JobRow,
    ReportRow,
    TargetRow,
)
from agent.server.held_keys import HeldKeys

EVENTS_LIMIT = 200_000  # of one attempt; beyond it progress is not kept, everything else is
PAGE_LIMIT = 500
KEYS_FOR_ANY = "a job for the next machine that asks has keys of LUKS devices, and anybody could ask"
ANY_HINT = "match on a machine's property, such as mac; keys go to a machine that is named"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a job can be matched on; "" and () where the machine says nothing that tells it apart."""

    system_uuid: str
    system_serial: str
    macs: tuple[str, ...]


class Jobs:
    def __init__(self, database: Database, keys: HeldKeys) -> None:
        self._database = database
        self._keys = keys
        for job_id in keys.jobs():  # of jobs that ended when the server could not see to it
            self._forget_keys(job_id)

    # --- making and finding -----------------------------------------------------------------------------------

    def create(self, request: JobRequest, idempotency_key: str = "") -> tuple[Job, bool]:
        """The queued job, and whether it is new: a repeated request finds what the first one made."""
        kind, value = match_pair(request.match)
        with self._database.transaction() as session:
            if idempotency_key:
                known = session.scalar(select(JobRow).where(JobRow.idempotency_key == idempotency_key))
                if known is not None:
                    return self._job(session, known), False
            row = JobRow(
                id=secrets.token_hex(6), created=now(), idempotency_key=idempotency_key or None, match_kind=kind,
                match_value=value, image=request.image, disk=request.disk, mode=request.mode,
                on_success=request.on_success,
            )  # fmt: skip
            session.add(row)
            session.flush()
            if request.nic or request.on_nic_tie:
                session.add(JobCardsRow(job_id=row.id, nic=" ".join(request.nic), on_nic_tie=request.on_nic_tie))
            layout = JobLayout(also=request.also, map=request.map, grow=request.grow, arrays=request.arrays,
                               edits=request.edits, keyed=bool(request.luks_keys))  # fmt: skip
            if layout != JobLayout():
                session.add(JobLayoutRow(job_id=row.id, body=msgspec.json.encode(layout)))
            session.add(AttemptRow(job_id=row.id, number=1, state=State.QUEUED, created=row.created))
            session.flush()
            if request.luks_keys:
                self._keys.keep(row.id, request.luks_keys)
            return self._job(session, row), True

    def get(self, job_id: str) -> Job:
        with self._database.transaction() as session:
            return self._job(session, _job_row(session, job_id))

    def newest(self, limit: int = PAGE_LIMIT) -> tuple[Job, ...]:
        with self._database.transaction() as session:
            rows = session.scalars(select(JobRow).order_by(JobRow.created.desc(), JobRow.id).limit(limit))
            return tuple(self._job(session, row) for row in rows)

    def queued_for(self, facts: Facts) -> Job | None:
        """The oldest queued job for a machine; one that names the machine goes before one for any machine."""
        with self._database.transaction() as session:
            rows = session.execute(
                select(JobRow)
                .join(AttemptRow, AttemptRow.job_id == JobRow.id)
                .where(AttemptRow.state == State.QUEUED)
                .order_by(JobRow.created, JobRow.id)
            ).scalars()
            fitting = [row for row in rows if fits(row, facts)]
            named = [row for row in fitting if row.match_kind != "any"]
            chosen = (named or fitting)[:1]
            return self._job(session, chosen[0]) if chosen else None

    def latest_for(self, facts: Facts) -> Job | None:
        """The job that this machine took last, whatever became of it."""
        with self._database.transaction() as session:
            taken = session.execute(
                select(AttemptRow, TargetRow)
                .join(TargetRow, AttemptRow.target_id == TargetRow.id)
                .order_by(AttemptRow.id.desc())
            )
            for attempt, target in taken:
                if same_machine(facts_of(target), facts):
                    return self._job(session, _job_row(session, attempt.job_id))
            return None

    # --- the life of an attempt -------------------------------------------------------------------------------

    def claim(self, job_id: str, claim: Claim) -> Job:
        """Give the job to one target. The same claim twice is one claim; any other second one is refused."""
        if len(claim.secret) < 32:
            raise DamagedError(f"the claim's secret has {len(claim.secret)} characters, expected at least 32")
        with self._database.transaction() as session:
            job, attempt = _job_row(session, job_id), _newest_attempt(session, job_id)
            target = session.get(TargetRow, claim.target)
            if target is None:
                raise NoImageError(f"no target has the number {claim.target}", "post the target's profile first")
            if not fits(job, facts_of(target)):
                raise NotAllowedError(f"job {job_id} is not for target {claim.target}", "look at the job's match")
            taken = session.execute(
                update(AttemptRow)
                .where(AttemptRow.id == attempt.id, AttemptRow.state == State.QUEUED)
                .values(state=State.CLAIMED, claimed=now(), last_seen=now(), target_id=target.id,
                        secret_sha256=_digest(claim.secret))
            )  # fmt: skip
            repeated = _holds(attempt, claim.secret) and attempt.state not in ENDED  # cancelled meanwhile is cancelled
            if cast(CursorResult[Any], taken).rowcount != 1 and not repeated:
                raise RefusedError(
                    f"job {job_id} is {attempt.state}, expected {State.QUEUED}: a job is given out once",
                    "queue it again if it is to run again",
                )
            session.refresh(attempt)
            return self._job(session, job)

    def keys_for(self, job_id: str, secret: str) -> tuple[LuksKey, ...]:
        """The keys of a job, for the machine that claimed its newest attempt and has not ended it."""
        with self._database.transaction() as session:
            attempt = _claimed_attempt(session, job_id, secret)
            if attempt.state in ENDED or attempt.id != _newest_attempt(session, job_id).id:
                raise RefusedError(f"attempt {attempt.number} of job {job_id} has ended, and its keys are gone",
                                   "queue the job again, and claim it again")  # fmt: skip
            return self._keys.of(job_id)

    def queue_again(self, job_id: str, idempotency_key: str = "", keys: Sequence[LuksKey] = ()) -> Job:
        """A new attempt; the old one stays as it was. One that was cut is ended as failed."""
        with self._database.transaction() as session:
            job, attempt = _job_row(session, job_id), _newest_attempt(session, job_id)
            if idempotency_key and attempt.idempotency_key == idempotency_key:
                return self._job(session, job)
            if attempt.state == State.QUEUED:
                raise RefusedError(f"job {job_id} is queued already (attempt {attempt.number})")
            if _layout(session, job_id).keyed and not keys and not self._keys.has(job_id):
                raise RefusedError(f"job {job_id} was made with keys of LUKS devices, which are gone since it ended",
                                   "give them again: ‘regraft job again --luks-passphrase FILE’")  # fmt: skip
            if keys and job.match_kind == "any":
                raise RefusedError(KEYS_FOR_ANY, ANY_HINT)
            if attempt.state not in ENDED:
                _end(attempt, State.FAILED, "given up: the job was queued again", "stopped")
            session.add(AttemptRow(job_id=job_id, number=attempt.number + 1, state=State.QUEUED, created=now(),
                                   idempotency_key=idempotency_key or None))  # fmt: skip
            session.flush()
            if keys:
                self._keys.keep(job_id, keys)
                _mark_keyed(session, job_id)
            return self._job(session, job)

    def cancel(self, job_id: str) -> Job:
        """End a job that nobody is to carry out any more. A machine that has begun goes on: it is told nothing."""
        with self._database.transaction() as session:
            job, attempt = _job_row(session, job_id), _newest_attempt(session, job_id)
            if attempt.state in ENDED:
                raise RefusedError(f"job {job_id} is {attempt.state} already")
            began = attempt.state != State.QUEUED
            _end(attempt, State.FAILED, "cancelled" + (" after a machine had taken it" if began else ""), "stopped")
        self._forget_keys(job_id)
        return self.get(job.id)

    def add_events(self, job_id: str, secret: str, events: Sequence[Event]) -> int:
        """Keep what is new; the number of events that were. Events of an ended attempt change nothing else."""
        with self._database.transaction() as session:
            attempt = _claimed_attempt(session, job_id, secret)
            kept = session.scalar(select(func.count()).where(EventRow.attempt_id == attempt.id)) or 0
            if kept > EVENTS_LIMIT:
                events = [event for event in events if event.kind != "progress"]
            added = _insert_events(session, attempt.id, events)
            attempt.last_seen = now()
            if attempt.state == State.CLAIMED and events:
                attempt.state, attempt.started = State.RUNNING, now()
            if attempt.state not in ENDED:
                for each in events:
                    _follow(attempt, each)
        self._forget_keys(job_id)
        return added

    def put_report(self, job_id: str, secret: str, report: Report, body: bytes) -> Job:
        """The report ends the attempt. Once stored it stays; failed stays failed."""
        with self._database.transaction() as session:
            attempt = _claimed_attempt(session, job_id, secret)
            known = session.get(ReportRow, attempt.id)
            if known is not None and known.body != body:
                raise RefusedError(f"job {job_id} has another report already (attempt {attempt.number})")
            if known is None:
                session.add(ReportRow(attempt_id=attempt.id, received=now(), body=body))
                if attempt.state not in ENDED:
                    failed = report.result == "failed"
                    _end(attempt, State.FAILED if failed else State.DONE, report.error or report.result,
                         report.error_code)  # fmt: skip
        self._forget_keys(job_id)
        return self.get(job_id)

    def _forget_keys(self, job_id: str) -> None:
        """Of a job that has ended; one that was queued again keeps its own."""
        if not self._keys.has(job_id):
            return
        with self._database.transaction() as session:
            if session.get(JobRow, job_id) is None or _newest_attempt(session, job_id).state in ENDED:
                self._keys.forget(job_id)

    def _job(self, session: Session, row: JobRow) -> Job:
        return _job(session, row, self._keys.has(row.id))

    # --- reading back -----------------------------------------------------------------------------------------

    def report(self, job_id: str) -> bytes:
        """The report of the newest attempt that has one."""
        with self._database.transaction() as session:
            _job_row(session, job_id)
            body = session.scalar(
                select(ReportRow.body)
                .join(AttemptRow, AttemptRow.id == ReportRow.attempt_id)
                .where(AttemptRow.job_id == job_id)
                .order_by(AttemptRow.number.desc())
                .limit(1)
            )
        if body is None:
            raise NoImageError(f"job {job_id} has no report yet")
        return body

    def has_report(self, job_id: str) -> bool:
        """Whether any attempt has one."""
        with self._database.transaction() as session:
            return session.scalar(
                select(func.count())
                .select_from(ReportRow)
                .join(AttemptRow, AttemptRow.id == ReportRow.attempt_id)
                .where(AttemptRow.job_id == job_id)
            ) not in (0, None)

    def talk(self, job_id: str, limit: int) -> tuple[Event, ...]:
        """The last events of the newest attempt that are for people: all but progress."""
        with self._database.transaction() as session:
            _job_row(session, job_id)
            attempt = _newest_attempt(session, job_id)
            bodies = session.scalars(
                select(EventRow.body)
                .where(EventRow.attempt_id == attempt.id, EventRow.kind != "progress")
                .order_by(EventRow.seq.desc())
                .limit(limit)
            )
            return tuple(msgspec.json.decode(body, type=Event) for body in bodies)[::-1]

    def events(self, job_id: str, after: int = -1, limit: int = PAGE_LIMIT) -> tuple[Event, ...]:
        """Events of the newest attempt, oldest first, at most ``limit``."""
        with self._database.transaction() as session:
            _job_row(session, job_id)
            attempt = _newest_attempt(session, job_id)
            bodies = session.scalars(
                select(EventRow.body)
                .where(EventRow.attempt_id == attempt.id, EventRow.seq > after)
                .order_by(EventRow.seq)
                .limit(limit)
            )
            return tuple(msgspec.json.decode(body, type=Event) for body in bodies)

    def attempts(self, job_id: str) -> tuple[tuple[int, str, str, str], ...]:
        """(number, state, ended, message) of every attempt, oldest first."""
        with self._database.transaction() as session:
            rows = session.scalars(select(AttemptRow).where(AttemptRow.job_id == job_id).order_by(AttemptRow.number))
            return tuple((row.number, row.state, row.ended, row.message) for row in rows)


# --- matching -----------------------------------------------------------------------------------------------------


def match_pair(match: JobMatch) -> tuple[str, str]:
    """The one property a job names, normalised. Raises DamagedError when there is none or more than one."""
    given = [(name, value) for name, value in (
        ("system_uuid", match.system_uuid.strip().lower()),
        ("system_serial", match.system_serial.strip().casefold()),
        ("mac", match.mac.strip().lower().replace("-", ":")),
        ("any", "any" if match.any else ""),
    ) if value]  # fmt: skip
    if len(given) != 1:
        raise DamagedError(
            f"a job's match names {len(given)} properties, expected exactly one of system_uuid, system_serial, mac, any"
        )
    return given[0]


def fits(job: JobRow, facts: Facts) -> bool:
    match job.match_kind:
        case "system_uuid":
            return facts.system_uuid == job.match_value
        case "system_serial":
            return facts.system_serial == job.match_value
        case "mac":
            return job.match_value in facts.macs
        case "any":
            return True
    return False


def facts_of(target: TargetRow) -> Facts:
    return Facts(target.system_uuid, target.system_serial, tuple(target.macs.split()))


def same_machine(one: Facts, other: Facts) -> bool:
    """Whether two targets name the same UUID; without one the same serial; without that, share a network card."""
    if one.system_uuid and other.system_uuid:
        return one.system_uuid == other.system_uuid
    if one.system_serial and other.system_serial:
        return one.system_serial == other.system_serial
    return bool(set(one.macs) & set(other.macs))


# --- rows ---------------------------------------------------------------------------------------------------------


def _job_row(session: Session, job_id: str) -> JobRow:
    row = session.get(JobRow, job_id)
    if row is None:
        raise NoImageError(
            f"there is no job ‘{printable(job_id, 40)}’", "list them with ‘regraft job list’ or GET /api/v1/jobs"
        )
    return row


def _newest_attempt(session: Session, job_id: str) -> AttemptRow:
    return session.scalars(
        select(AttemptRow).where(AttemptRow.job_id == job_id).order_by(AttemptRow.number.desc()).limit(1)
    ).one()


def _claimed_attempt(session: Session, job_id: str, secret: str) -> AttemptRow:
    """The attempt that ``secret`` claimed, also when a newer one has been queued since."""
    _job_row(session, job_id)
    for attempt in session.scalars(select(AttemptRow).where(AttemptRow.job_id == job_id)):
        if _holds(attempt, secret):
            return attempt
    raise NotAllowedError(f"job {job_id} was not claimed with this secret", "claim the job before telling of it")


def _holds(attempt: AttemptRow, secret: str) -> bool:
    return bool(secret) and hmac.compare_digest(attempt.secret_sha256, _digest(secret))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _insert_events(session: Session, attempt_id: int, events: Sequence[Event]) -> int:
    if not events:
        return 0
    rows = [
        {"attempt_id": attempt_id, "seq": each.seq, "kind": each.kind, "body": msgspec.json.encode(each)}
        for each in events
    ]
    before = session.scalar(select(func.count()).where(EventRow.attempt_id == attempt_id)) or 0
    if session.get_bind().dialect.name == "postgresql":
        session.execute(postgresql.insert(EventRow).on_conflict_do_nothing(), rows)
    else:
        session.execute(sqlite.insert(EventRow).on_conflict_do_nothing(), rows)
    after = session.scalar(select(func.count()).where(EventRow.attempt_id == attempt_id)) or 0
    return after - before


def _follow(attempt: AttemptRow, event: Event) -> None:
    """What the newest events say about where the attempt is."""
    if event.phase:
        attempt.phase = event.phase
    if event.kind == "progress":
        attempt.done, attempt.total, attempt.unit = event.done, event.total, event.unit
    elif event.kind in ("phase-start", "warning", "error", "result"):
        attempt.message = event.text
        attempt.error_code = event.code if event.kind == "error" else attempt.error_code
    # Only the report says done; a run that failed may never come to write one.
    if event.kind == "result" and event.code == "failed":
        _end(attempt, State.FAILED, event.text, attempt.error_code)


def _end(attempt: AttemptRow, state: State, message: str, error_code: str) -> None:
    attempt.state, attempt.ended, attempt.message, attempt.error_code = state, now(), message, error_code


def _layout(session: Session, job_id: str) -> JobLayout:
    row = session.get(JobLayoutRow, job_id)
    return msgspec.json.decode(row.body, type=JobLayout) if row else JobLayout()


def _mark_keyed(session: Session, job_id: str) -> None:
    row = session.get(JobLayoutRow, job_id)
    body = msgspec.json.encode(msgspec.structs.replace(_layout(session, job_id), keyed=True))
    if row is None:
        session.add(JobLayoutRow(job_id=job_id, body=body))
    else:
        row.body = body


def _job(session: Session, row: JobRow, keys_held: bool) -> Job:
    layout = _layout(session, row.id)
    attempt = _newest_attempt(session, row.id)
    value: str | bool = True if row.match_kind == "any" else row.match_value
    has_report = session.get(ReportRow, attempt.id) is not None
    cards = session.get(JobCardsRow, row.id)
    return Job(
        id=row.id, state=State(attempt.state), match=msgspec.convert({row.match_kind: value}, JobMatch),
        image=row.image, disk=row.disk, mode=row.mode, on_success=row.on_success, attempt=attempt.number,
        created=row.created, claimed=attempt.claimed, started=attempt.started, ended=attempt.ended,
        last_seen=attempt.last_seen, phase=attempt.phase, done=attempt.done, total=attempt.total, unit=attempt.unit,
        message=attempt.message, error_code=attempt.error_code, target=attempt.target_id or 0, has_report=has_report,
        nic=tuple(cards.nic.split()) if cards else (), on_nic_tie=cards.on_nic_tie if cards else "",
        also=layout.also, map=layout.map, grow=layout.grow, arrays=layout.arrays, edits=layout.edits,
        luks_keys=("held" if keys_held else "gone") if layout.keyed else "",
    )  # fmt: skip
