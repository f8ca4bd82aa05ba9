"""What the agent of the PE makes of a job: which disks it may erase, what the medium adds, what the server hears."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from agent.commands import agent as module
from agent.commands.agent import Assignment, consent
from agent.errors import RefusedError
from agent.model.agent_config import AgentConfig, beside
from agent.model.difference import Difference
from agent.model.jobs import Job, JobMatch, ProfileKey, State, TargetAnswer
from agent.model.profile import Profile
from agent.model.storage import Disk
from agent.model.target_disk import identity
from agent.restore.prepare import Prepared
from tests.commands.test_consent import plan_of

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
    control: Any = SimpleNamespace(claim=lambda _: given)
    answer = TargetAnswer(decision="job", target=1, profile=ProfileKey(machine="", time=""), job=given)
    found = module.assigned(answer, config, control)
    assert found is not None
    return found


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
