"""The life of a job: given out once, ended once, evidence kept."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from agent.errors import DamagedError, NoImageError, NotAllowedError, RefusedError
from agent.model.events import Event
from agent.model.jobs import Claim, JobMatch, JobRequest, State
from agent.model.report import Report
from agent.server.database import AttemptRow, Database, TargetRow
from agent.server.held_keys import HeldKeys
from agent.server.jobs import Facts, Jobs, same_machine
from tests.console.test_report import report as make_report

SECRET, OTHER = "s" * 43, "o" * 43
FACTS = Facts("uuid-1", "serial-1", ("52:54:00:00:00:01", "52:54:00:00:00:02"))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/state.sqlite")
    yield database
    database.close()


@pytest.fixture
def jobs(database: Database, tmp_path: Path) -> Jobs:
    return Jobs(database, HeldKeys(tmp_path / "keys"))


@pytest.fixture
def target(database: Database) -> int:
    return add_target(database, FACTS, "1")


def add_target(database: Database, facts: Facts, sha256: str) -> int:
    with database.transaction() as session:
        row = TargetRow(
            sha256=sha256, machine="target", time="", first_seen="", last_seen="", vendor="", product="", xml=b"",
            system_uuid=facts.system_uuid, system_serial=facts.system_serial, macs=" ".join(facts.macs),
        )  # fmt: skip
        session.add(row)
        session.flush()
        return row.id


def request(**match: str | bool) -> JobRequest:
    return JobRequest(match=msgspec.convert(match, JobMatch), image="web1@20261123T204140Z")


def event(seq: int, kind: str = "message", **fields: object) -> Event:
    return Event(seq=seq, time="", kind=kind, **fields)  # type: ignore[arg-type]


def put_report(jobs: Jobs, job_id: str, report: Report, secret: str = SECRET) -> State:
    return jobs.put_report(job_id, secret, report, msgspec.json.encode(report)).state


def test_what_a_job_says_of_the_layout_comes_back(jobs: Jobs, target: int) -> None:
    wanted = msgspec.structs.replace(
        request(system_uuid="UUID-1"), also=("serial=S2",), map=("/srv=serial=S2",), grow="proportional"
    )
    job, _ = jobs.create(wanted)
    claimed = jobs.claim(job.id, Claim(target=target, secret=SECRET))
    assert (claimed.also, claimed.map, claimed.grow) == (wanted.also, wanted.map, wanted.grow)


def test_a_job_from_queue_to_done(jobs: Jobs, target: int) -> None:
    job, new = jobs.create(request(system_uuid="UUID-1"))
    assert (job.state, new, job.attempt, job.claimed, job.ended) == (State.QUEUED, True, 1, "", "")
    job = jobs.claim(job.id, Claim(target=target, secret=SECRET))
    assert (job.state, job.target, job.started) == (State.CLAIMED, target, "")
    assert jobs.add_events(job.id, SECRET, [event(1, "phase-start", phase="write", text="Writing")]) == 1
    jobs.add_events(job.id, SECRET, [event(2, "progress", phase="write", done=5, total=10, unit="bytes")])
    job = jobs.get(job.id)
    assert (job.state, job.phase, job.done, job.total, job.message) == (State.RUNNING, "write", 5, 10, "Writing")
    assert put_report(jobs, job.id, make_report()) is State.DONE
    job = jobs.get(job.id)
    assert job.ended
    assert job.has_report
    assert msgspec.json.decode(jobs.report(job.id), type=Report) == make_report()


@pytest.mark.parametrize(
    ("match", "fits"),
    [({"system_uuid": "UUID-1"}, True), ({"system_uuid": "uuid-2"}, False), ({"system_serial": "serial-1"}, True),
     ({"system_serial": " SERIAL-1"}, True), ({"system_serial": "serial"}, False), ({"mac": "52-54-00-00-00-02"}, True),
     ({"mac": "52:54:00:00:00:03"}, False), ({"any": True}, True)],
)  # fmt: skip
def test_a_job_is_found_by_the_property_it_names(jobs: Jobs, match: dict[str, str | bool], fits: bool) -> None:
    job, _ = jobs.create(request(**match))
    found = jobs.queued_for(FACTS)
    assert (found.id if found else None) == (job.id if fits else None)


def test_a_machine_that_says_nothing_of_itself_fits_no_named_job(jobs: Jobs) -> None:
    jobs.create(request(system_serial="x"))
    assert jobs.queued_for(Facts("", "", ())) is None


def test_a_job_that_names_the_machine_goes_before_an_older_one_for_any(jobs: Jobs) -> None:
    jobs.create(request(any=True))
    named, _ = jobs.create(request(mac="52:54:00:00:00:01"))
    found = jobs.queued_for(FACTS)
    assert found is not None
    assert found.id == named.id


@pytest.mark.parametrize("match", [{}, {"mac": "a", "any": True}, {"system_uuid": " "}])
def test_a_match_names_exactly_one_property(jobs: Jobs, match: dict[str, str | bool]) -> None:
    with pytest.raises(DamagedError, match="expected exactly one"):
        jobs.create(request(**match))


def test_a_repeated_request_makes_one_job(jobs: Jobs) -> None:
    first, new = jobs.create(request(any=True), "key")
    second, again = jobs.create(request(any=True), "key")
    assert (first.id, new, again) == (second.id, True, False)
    assert len(jobs.newest()) == 1


def test_a_claim_may_be_repeated_but_not_taken_by_another(jobs: Jobs, target: int) -> None:
    job, _ = jobs.create(request(any=True))
    claim = Claim(target=target, secret=SECRET)
    assert jobs.claim(job.id, claim) == jobs.claim(job.id, claim)
    with pytest.raises(RefusedError, match="is claimed, expected queued"):
        jobs.claim(job.id, Claim(target=target, secret=OTHER))


def test_a_claim_is_not_repeated_of_a_job_that_has_ended(jobs: Jobs, target: int) -> None:
    job, _ = jobs.create(request(any=True))
    claim = Claim(target=target, secret=SECRET)
    jobs.claim(job.id, claim)
    jobs.cancel(job.id)
    with pytest.raises(RefusedError, match="is failed, expected queued"):
        jobs.claim(job.id, claim)
    jobs.queue_again(job.id)
    assert jobs.claim(job.id, claim).state is State.CLAIMED


def test_of_many_claims_at_once_exactly_one_wins(jobs: Jobs, target: int) -> None:
    job, _ = jobs.create(request(any=True))

    def claim(number: int) -> bool:
        try:
            jobs.claim(job.id, Claim(target=target, secret=f"{number:040}"))
        except RefusedError:
            return False
        return True

    with ThreadPoolExecutor(12) as pool:
        assert sum(pool.map(claim, range(24))) == 1


def test_a_job_for_another_machine_cannot_be_claimed(jobs: Jobs, database: Database, target: int) -> None:
    job, _ = jobs.create(request(system_uuid="uuid-1"))
    other = add_target(database, Facts("uuid-2", "", ()), "2")
    with pytest.raises(NotAllowedError, match="is not for target"):
        jobs.claim(job.id, Claim(target=other, secret=SECRET))
    with pytest.raises(NoImageError):
        jobs.claim(job.id, Claim(target=999, secret=SECRET))
    assert jobs.get(job.id).state is State.QUEUED


@pytest.mark.parametrize("secret", ["", OTHER])
def test_only_who_claimed_a_job_tells_of_it(jobs: Jobs, target: int, secret: str) -> None:
    job, _ = jobs.create(request(any=True))
    with pytest.raises(NotAllowedError):
        jobs.add_events(job.id, secret, [event(1)])
    jobs.claim(job.id, Claim(target=target, secret=SECRET))
    with pytest.raises(NotAllowedError):
        jobs.add_events(job.id, secret, [event(1)])
    with pytest.raises(NotAllowedError):
        put_report(jobs, job.id, make_report(), secret)


def test_events_sent_twice_are_kept_once_and_in_order(jobs: Jobs, target: int) -> None:
    job, _ = jobs.create(request(any=True))
    jobs.claim(job.id, Claim(target=target, secret=SECRET))
    assert jobs.add_events(job.id, SECRET, [event(2), event(1)]) == 2
    assert jobs.add_events(job.id, SECRET, [event(1, text="forged"), event(3)]) == 1
    assert [(each.seq, each.text) for each in jobs.events(job.id)] == [(1, ""), (2, ""), (3, "")]
    assert [each.seq for each in jobs.events(job.id, after=2)] == [3]


def test_failed_is_sticky(jobs: Jobs, target: int) -> None:
    job, _ = jobs.create(request(any=True))
    jobs.claim(job.id, Claim(target=target, secret=SECRET))
    jobs.add_events(job.id, SECRET, [event(1, "error", text="disk gone", code="target-io"),
                                     event(2, "result", text="failed: disk gone", code="failed")])  # fmt: skip
    failed = jobs.get(job.id)
    assert (failed.state, failed.error_code, failed.message) == (State.FAILED, "target-io", "failed: disk gone")
    assert failed.ended
    assert jobs.queued_for(FACTS) is None
    jobs.add_events(job.id, SECRET, [event(3, "phase-start", phase="write")])
    assert put_report(jobs, job.id, make_report()) is State.FAILED
    with pytest.raises(RefusedError):
        jobs.claim(job.id, Claim(target=target, secret=OTHER))


def test_a_report_of_a_failure_fails_the_job_with_its_cause(jobs: Jobs, target: int) -> None:
    job, _ = jobs.create(request(any=True))
    jobs.claim(job.id, Claim(target=target, secret=SECRET))
    assert put_report(jobs, job.id, make_report(result="failed", error="no space", error_code="does-not-fit")) is (
        State.FAILED
    )
    assert jobs.get(job.id).message == "no space"


def test_a_report_is_stored_once(jobs: Jobs, target: int) -> None:
    job, _ = jobs.create(request(any=True))
    jobs.claim(job.id, Claim(target=target, secret=SECRET))
    with pytest.raises(NoImageError, match="no report yet"):
        jobs.report(job.id)
    put_report(jobs, job.id, make_report())
    assert put_report(jobs, job.id, make_report()) is State.DONE
    with pytest.raises(RefusedError, match="another report"):
        put_report(jobs, job.id, make_report(mode="clone"))


def test_queueing_again_is_a_new_attempt_and_the_old_evidence_stays(jobs: Jobs, target: int) -> None:
    job, _ = jobs.create(request(any=True))
    with pytest.raises(RefusedError, match="is queued already"):
        jobs.queue_again(job.id)
    jobs.claim(job.id, Claim(target=target, secret=SECRET))
    put_report(jobs, job.id, make_report(result="failed", error="first"))
    again = jobs.queue_again(job.id, "key")
    assert (again.state, again.attempt, again.has_report, again.target) == (State.QUEUED, 2, False, 0)
    assert jobs.queue_again(job.id, "key").attempt == 2
    assert [each[:2] for each in jobs.attempts(job.id)] == [(1, "failed"), (2, "queued")]
    assert b"first" in jobs.report(job.id)
    jobs.claim(job.id, Claim(target=target, secret=OTHER))
    assert jobs.get(job.id).state is State.CLAIMED


def test_an_attempt_that_was_cut_ends_when_the_job_is_queued_again(jobs: Jobs, target: int) -> None:
    job, _ = jobs.create(request(any=True))
    jobs.claim(job.id, Claim(target=target, secret=SECRET))
    jobs.add_events(job.id, SECRET, [event(1)])
    jobs.queue_again(job.id)
    assert [each[:2] for each in jobs.attempts(job.id)] == [(1, "failed"), (2, "queued")]
    jobs.add_events(job.id, SECRET, [event(2, "phase-start", phase="write")])  # the lost agent speaks after all
    assert jobs.get(job.id).state is State.QUEUED


def test_ended_is_set_exactly_when_the_state_is_terminal(jobs: Jobs, database: Database, target: int) -> None:
    for ending in (None, "failed", "done"):
        job, _ = jobs.create(request(any=True))
        jobs.claim(job.id, Claim(target=target, secret=SECRET))
        if ending:
            put_report(jobs, job.id, make_report(result="failed" if ending == "failed" else "restored-and-verified"))
    with database.transaction() as session:
        for attempt in session.query(AttemptRow):
            assert bool(attempt.ended) == (attempt.state in ("done", "failed"))


def test_jobs_survive_a_restart(jobs: Jobs, database: Database, tmp_path: Path) -> None:
    job, _ = jobs.create(request(any=True))
    database.close()
    again = Database(f"sqlite:///{tmp_path}/state.sqlite")
    assert Jobs(again, HeldKeys(tmp_path / "keys")).get(job.id) == job
    again.close()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [(Facts("u", "s", ("a",)), Facts("u", "t", ()), True), (Facts("u", "s", ("a",)), Facts("v", "s", ("a",)), False),
     (Facts("", "s", ()), Facts("u", "s", ()), True), (Facts("", "", ("a", "b")), Facts("", "", ("b",)), True),
     (Facts("", "", ()), Facts("", "", ()), False)],
)  # fmt: skip
def test_the_machine_that_took_a_job_is_known_again(one: Facts, other: Facts, same: bool) -> None:
    assert same_machine(one, other) is same


def test_what_a_job_says_of_cards_reaches_the_agent(jobs: Jobs, target: int) -> None:
    wanted = msgspec.structs.replace(request(any=True), nic=("ens3=52:54:00:00:00:02", "ens4=none"), on_nic_tie="order")
    job, _ = jobs.create(wanted)
    claimed = jobs.claim(job.id, Claim(target=target, secret=SECRET))
    assert (claimed.nic, claimed.on_nic_tie) == (wanted.nic, "order")
    plain, _ = jobs.create(request(any=True))
    assert (plain.nic, plain.on_nic_tie) == ((), "")
