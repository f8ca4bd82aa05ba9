"""What the agent of the PE makes of a job: which disks it may erase, what the medium adds, what the server hears."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from click.testing import CliRunner

from agent.commands import agent as module
from agent.commands.agent import Assignment, consent
from agent.commands.job import new_job
from agent.console.recorder import Recorder
from agent.console.server_events import ServerEvents
from agent.depot.control import Control
from agent.errors import DiskSelectionError, NotAllowedError, RefusedError, TemporaryError, UnreachableError
from agent.model.agent_config import AgentConfig, beside
from agent.model.difference import Difference
from agent.model.events import Event
from agent.model.grow import Grow
from agent.model.jobs import Job, JobMatch, JobRequest, ProfileKey, State, TargetAnswer
from agent.model.luks_keys import LuksKey
from agent.model.nic_map import ORDER, STOP
from agent.model.profile import Profile
from agent.model.report import Report
from agent.model.spread import Wish, chosen_disks, spread
from agent.model.stack_layout import KEEP, PLAIN
from agent.model.storage import Disk
from agent.model.target_disk import identity
from agent.restore.prepare import Prepared
from tests.commands.test_consent import plan_of
from tests.console.test_report import report
from tests.model.test_spread import two_disk_image

EDITS = '[skip]\nrecipes = ["console.serial-kept"]\n[disks]\nvda = "serial=S2"\n'
ONE, TWO, THREE = (Disk(f"sd{at}", 1 << 30, 512, 512, serial=f"S{number}") for number, at in enumerate("abc", 1))
TARGET = Profile("target", "", disks=(ONE, TWO, THREE))


def job(**more: Any) -> Job:
    told: dict[str, Any] = {
        "disk": "serial=S1",
        "state": State.CLAIMED,
        "mode": "restore",
        "on_success": "",
        "attempt": 1,
    } | more
    return Job(id="1f", match=JobMatch(any=True), image="web1@20261123T204140Z", created="", **told)


def medium(folder: Path, text: str, **more: Any) -> AgentConfig:
    (folder / "edits.toml").write_text(text)
    return beside(AgentConfig(depot="http://depot.test", edits="edits.toml", **more), str(folder))


def assigned(given: Job, config: AgentConfig) -> Assignment:
    control: Any = SimpleNamespace()
    return module.assignment_of(ServerEvents(control, given), config)


# --- which disks it erases --------------------------------------------------------------------------------------------


@pytest.mark.adapts("B0", "T1")
def test_edits_of_the_medium_do_not_say_which_disk_a_job_erases(tmp_path: Path) -> None:
    choices = assigned(job(), medium(tmp_path, EDITS)).choices
    assert (choices.disks, choices.skip.recipes) == ({}, ("console.serial-kept",))
    assert module.medium_choices(medium(tmp_path, EDITS)).disks == {"vda": "serial=S2"}  # what is not a job's


def agreed(given: Job, *erased: Disk) -> None:
    first, *also = map(identity, erased)
    prepared: Any = SimpleNamespace(
        plan=msgspec.structs.replace(plan_of(*also), disk=first), target=TARGET,
        difference=Difference("web1@20260101T000000Z", "target", ()),
    )  # fmt: skip
    consent(cast(Prepared, prepared), Assignment(given.image, given.disk, "restore", True, "reboot", given, "a test"))


@pytest.mark.adapts("B0", "T1")
def test_a_job_erases_the_disks_that_it_names_and_no_other() -> None:
    agreed(job(), ONE)
    agreed(job(also=("name=sdb",)), ONE, TWO)
    agreed(job(also=("serial=S2",)), TWO, ONE)  # which of them boots is the map's to say
    for given, erased in ((job(), (TWO,)), (job(), (ONE, TWO)), (job(also=("serial=S2",)), (ONE, THREE)),
                          (job(also=("serial=S2",)), (ONE,))):  # fmt: skip
        with pytest.raises(RefusedError, match=r"job 1f names serial=S1.*, which is sda \(serial S1\).* erases sd"):
            agreed(given, *erased)


# --- what it leaves to the medium -------------------------------------------------------------------------------------

MEDIUM = AgentConfig(grow="last", map=("vda=serial=S1",), arrays="keep", on_nic_tie="order", also=("serial=S3",))


def test_what_a_job_does_not_say_the_medium_says() -> None:
    left = assigned(job(), MEDIUM)
    assert left.wish == Wish(Grow("last"), (), (("vda", "serial=S1"),), KEEP)
    assert left.nic_wishes.on_tie == ORDER
    said = job(grow="none", map=("vdb=serial=S2",), arrays=PLAIN, also=("serial=S2",), on_nic_tie=STOP)
    assert assigned(said, MEDIUM).wish == Wish(Grow("none"), ("serial=S2",), (("vdb", "serial=S2"),), PLAIN)
    assert assigned(said, MEDIUM).nic_wishes.on_tie == STOP
    assert assigned(job(), AgentConfig()).wish == Wish()


@pytest.mark.adapts("B0", "T1")
def test_a_map_of_the_medium_chooses_among_the_disks_of_the_job() -> None:
    wish = assigned(job(), msgspec.structs.replace(MEDIUM, map=("vdb=serial=S2",))).wish
    with pytest.raises(DiskSelectionError, match="serial=S2"):
        spread(two_disk_image(1 << 30), chosen_disks("serial=S1", wish, TARGET.disks), wish)


def test_a_new_job_says_nothing_that_was_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[JobRequest] = []

    def create(_: Control, request: JobRequest) -> Job:
        made.append(request)
        return job()

    monkeypatch.setattr(Control, "create_job", create)
    words = ["web1", "--for", "any", "--disk", "serial=S1", "--depot", "http://depot.test"]
    for more in ([], ["--grow", "largest", "--arrays", "plain", "--on-nic-tie", "stop"]):
        done = CliRunner().invoke(new_job, [*words, *more])
        assert done.exit_code == 0, done.output
    said = JobRequest(match=JobMatch(any=True), image="web1", disk="serial=S1")
    assert made == [said, msgspec.structs.replace(said, grow="largest", arrays=PLAIN, on_nic_tie=STOP)]


# --- what the server hears --------------------------------------------------------------------------------------------


@dataclass
class Server:
    """Stands where the client stands; it has one job, and does not give its keys."""

    given: Job
    target: int = 1
    events: list[Event] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)

    def submit_target(self, _: bytes) -> TargetAnswer:
        return TargetAnswer(decision="job", target=1, profile=ProfileKey(machine="", time=""), job=self.given)

    def claim(self, _: str) -> Job:
        return self.given

    def job_keys(self, _: str) -> tuple[LuksKey, ...]:
        raise UnreachableError("http://depot.test does not answer")

    def send_events(self, _: str, events: list[Event]) -> None:
        self.events += [event for event in events if event.seq not in [each.seq for each in self.events]]

    def send_report(self, _: str, told: Report) -> None:
        self.reports.append(told)


def carried_out(server: Server, config: AgentConfig, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the machine does after the agent took the server's job."""
    for name, value in (("connect", None), ("look_at_machine", TARGET), ("Control", server)):
        monkeypatch.setattr(module, name, lambda *_, _value=value: _value)
    return module.restore_task(msgspec.structs.replace(config, depot="http://depot.test"), Recorder([]))


def restores(monkeypatch: pytest.MonkeyPatch, outcome: Report | Exception) -> None:
    def restore(*_: object) -> Report:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(module, "restore_assigned", restore)


def test_a_job_that_cannot_even_be_begun_ends_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for config, given, said, code in (
        (medium(tmp_path, "[skp]\n"), job(), "skp", "usage"),
        (AgentConfig(), job(luks_keys="held"), "does not answer", "unreachable"),
    ):
        server = Server(given)
        assert carried_out(server, config, monkeypatch) == "hold"
        assert [(each.kind, each.code) for each in server.events[-2:]] == [("error", code), ("result", "failed")]
        assert said in server.events[-1].text
        assert f"RESULT failed {code}" in capsys.readouterr().out


def test_a_bug_ends_the_job_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    restores(monkeypatch, KeyError("no such thing"))
    server = Server(job())
    assert carried_out(server, AgentConfig(on_failure="poweroff"), monkeypatch) == "poweroff"
    assert [(each.kind, each.code) for each in server.events] == [("error", "unexpected"), ("result", "failed")]
    assert "no such thing" in server.events[-1].text
    said = capsys.readouterr().out
    assert "Traceback" in said and "RESULT failed unexpected exit 1" in said


def test_a_restore_is_told_whatever_becomes_of_the_machines_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = report(changed_paths=("/srv/\udcff",))
    restores(monkeypatch, odd)
    (tmp_path / "full").write_text("")
    for place, noted in ((tmp_path / "run/report.json", ""), (tmp_path / "full/report.json", "File exists")):
        monkeypatch.setattr(module, "REPORT", place)
        server = Server(job())
        assert carried_out(server, AgentConfig(), monkeypatch) == "reboot"
        assert server.reports == [odd]
        said = capsys.readouterr().out
        assert noted in said and "RESULT restored-and-verified exit 0" in said
    assert "\\\\xff" in (tmp_path / "run/report.json").read_text("utf-8")


# --- waiting for one --------------------------------------------------------------------------------------------------

AWAY = UnreachableError("http://depot.test does not answer after 5 attempts")
BUSY = TemporaryError("the server is starting")
TAKEN = RefusedError("job 1f is claimed, expected queued")
NOTHING = TargetAnswer(decision="candidates", target=1, profile=ProfileKey(machine="", time=""))
OFFER = TargetAnswer(decision="job", target=1, profile=ProfileKey(machine="", time=""), job=job())
MATCH = TargetAnswer(decision="match", target=1, profile=ProfileKey(machine="", time=""), image="web1@1")


class Script:
    """A server that answers what it is asked as it is written, and a clock that goes by pauses alone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, asked: list[Any], claimed: list[Any] | None = None) -> None:
        self.now, self.asked, self.claimed = 0.0, asked, claimed or []
        self.recorder = Recorder([lambda event: self.said.append(event.text)])
        self.said: list[str] = []
        monkeypatch.setattr("agent.commands.agent.time.sleep", self.sleep)
        monkeypatch.setattr("agent.commands.agent.time.monotonic", lambda: self.now)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def submit_target(self, _: bytes) -> TargetAnswer:
        return cast(TargetAnswer, told(self.asked))

    def claim(self, _: str) -> Job:
        return cast(Job, told(self.claimed))

    def found(self) -> Assignment | ServerEvents:
        config = AgentConfig(depot="http://depot.test")
        return module.find_assignment(config, TARGET, cast(Control, self), self.recorder)


def told(script: list[Any]) -> object:
    """The next answer; the last one for ever."""
    found = script.pop(0) if len(script) > 1 else script[0]
    if isinstance(found, Exception):
        raise found
    return found


def test_a_machine_that_waits_goes_on_when_the_server_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Script(monkeypatch, [NOTHING, *[AWAY, BUSY] * 50, NOTHING, OFFER], [job()])
    found = server.found()
    assert isinstance(found, ServerEvents) and found.job == job()
    assert server.said.count(f"{AWAY.message}; trying again") == 50 and server.now == 102 * module.ASK_AGAIN_S


def test_one_that_was_not_told_to_wait_gives_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(Script(monkeypatch, [AWAY, OFFER], [job()]).found(), ServerEvents)
    server = Script(monkeypatch, [AWAY])
    with pytest.raises(UnreachableError):
        server.found()
    assert module.DEPOT_PATIENCE_S < server.now < module.DEPOT_PATIENCE_S + 30


def test_the_slower_of_two_machines_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    other = job(attempt=2)
    server = Script(monkeypatch, [OFFER, OFFER], [TAKEN, other])
    found = server.found()
    assert isinstance(found, ServerEvents) and found.job == other
    assert "job 1f went to another machine or was cancelled" in server.said[0] and server.now == module.ASK_AGAIN_S
    assert isinstance(Script(monkeypatch, [OFFER, NOTHING, MATCH], [TAKEN]).found(), Assignment)


def test_a_claim_whose_answer_got_lost_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Script(monkeypatch, [OFFER], [*[AWAY] * 40, job()])
    found = server.found()
    assert isinstance(found, ServerEvents) and server.now == 40 * module.ASK_AGAIN_S


def test_what_else_the_server_refuses_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotAllowedError):
        Script(monkeypatch, [NOTHING, NotAllowedError("the token is disabled")]).found()
    with pytest.raises(RefusedError):  # of the profile, which will not become smaller
        Script(monkeypatch, [RefusedError("the body has more than 4 MiB")]).found()
