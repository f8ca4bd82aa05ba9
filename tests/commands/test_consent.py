"""Consent to several disks: every one is named, and what is unsure stops where nobody is asked."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any, cast

import click
import msgspec
import pytest
from click.testing import CliRunner

from agent.commands.agent import Assignment, consent, wish_of
from agent.commands.options import Access
from agent.commands.restore import refuse_wrong_consent, restore
from agent.console.report_text import plan_text
from agent.errors import RefusedError, UsageError
from agent.model.agent_config import AgentConfig, read_config
from agent.model.difference import Difference
from agent.model.grow import Grow
from agent.model.image import ImageRef
from agent.model.plan import DiskIdentity, Plan, decode, encode
from agent.model.spread import Wish
from agent.model.stack_layout import KEEP
from agent.restore.prepare import Prepared, RestoreRequest


def disk(name: str, serial: str) -> DiskIdentity:
    return DiskIdentity(name=name, model="DISK", serial=serial, wwn="", size_bytes=1 << 30, logical_sector_bytes=512)


def plan_of(*also: DiskIdentity, unsure: tuple[str, ...] = ()) -> Plan:
    return Plan(
        format=1, mode="restore", image="web1@20260101T000000Z", manifest_sha256="", source_profile_sha256="",
        target_profile_sha256="", difference_sha256="", disk=disk("sda", "S1"), untouched=(), components=(), steps=(),
        also=also, unsure=unsure, grow="last",
    )  # fmt: skip


def assignment(*, unattended: bool) -> Assignment:
    return Assignment("web1", "serial=S1", "restore", unattended, "reboot", None, "a test")


def prepared(plan: Plan) -> Prepared:
    return cast(Prepared, SimpleNamespace(plan=plan, difference=Difference("web1@20260101T000000Z", "target", ())))


TWO = plan_of(disk("sdb", "S2"))


@pytest.mark.adapts("B0", "T1")
def test_a_plan_shows_every_disk_that_is_erased() -> None:
    text = plan_text(TWO)
    erased = text[text.index("ERASES") : text.index("KEEPS")]
    assert "serial S1" in erased and "serial S2" in erased and "GROWS    last" in text


@pytest.mark.adapts("B0", "T1")
def test_every_disk_is_consented_to() -> None:
    refuse_wrong_consent(TWO, ("S2", "S1"))
    for words in (("S1",), ("S1", "S1"), ("S1", "S2", "S3"), ("S2",)):
        with pytest.raises(RefusedError, match="the disks that the plan erases are DISK with serial ‘S1’; DISK"):
            refuse_wrong_consent(TWO, words)


@pytest.mark.adapts("B0", "T1")
def test_a_person_types_every_serial(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def typed(text: str, **_: Any) -> str:
        asked.append(text)
        return "S1"

    monkeypatch.setattr(click, "prompt", typed)
    with pytest.raises(RefusedError, match="‘S1’ was typed, expected ‘S2’"):
        consent(prepared(TWO), assignment(unattended=False))
    assert len(asked) == 2


@pytest.mark.adapts("B0", "T1")
def test_a_tie_stops_an_unattended_run(monkeypatch: pytest.MonkeyPatch) -> None:
    unsure = plan_of(unsure=("disk vdb goes to sdb, and sdc would do as well",))
    with pytest.raises(RefusedError, match="nobody is here to decide: disk vdb goes to sdb, and sdc"):
        consent(prepared(unsure), assignment(unattended=True))
    consent(prepared(plan_of()), assignment(unattended=True))
    monkeypatch.setattr(click, "prompt", lambda text, **_: "S1")
    consent(prepared(unsure), assignment(unattended=False))


def test_what_the_medium_says_of_the_layout() -> None:
    config = read_config('grow = "last"\n', "regraft.also=serial=S2 regraft.map=/srv=serial=S2,vdb=serial=S1")
    wish = wish_of(config)
    assert (wish.grow, wish.also) == (Grow("last"), ("serial=S2",))
    assert wish.maps == (("/srv", "serial=S2"), ("vdb", "serial=S1"))
    assert wish_of(AgentConfig()).grow == Grow("largest")


def test_a_plan_of_an_older_version_is_read() -> None:
    told = msgspec.json.decode(encode(plan_of()))
    for key in ("also", "grow", "unsure"):
        del told[key]
    old = decode(msgspec.json.encode(told))
    assert old.disks == (old.disk,) and old.grow == ""


def test_a_rehearsal_asks_for_no_consent_and_gets_what_was_wished(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[RestoreRequest] = []

    def reached(_access: Access, request: RestoreRequest) -> Prepared:
        requests.append(request)
        raise RefusedError("as far as the plan")

    module = sys.modules["agent.commands.restore"]
    monkeypatch.setattr(module, "probe_machine", lambda _: None)
    monkeypatch.setattr(module, "prepared_for", reached)
    words = ["web1", "--disk", "name=sda", "--depot", "/d", "--arrays", "keep", "--rehearse"]
    assert "as far as the plan" in str(CliRunner().invoke(restore, words).exception)
    (request,) = requests
    assert (request.image, request.selector, request.wish) == (ImageRef("web1"), "name=sda", Wish(arrays=KEEP))
    refused = CliRunner().invoke(restore, [*words, "--erase", "S1"]).exception
    assert isinstance(refused, UsageError) and "--rehearse touches no disk" in str(refused)
