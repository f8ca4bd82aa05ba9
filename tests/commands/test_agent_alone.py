"""Before the restart: what the agent does when another machine answers at its addresses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from agent.commands import agent
from agent.commands.agent import Assignment, is_alone
from agent.console.recorder import Recorder
from agent.errors import UnreachableError
from agent.model.agent_config import AgentConfig
from agent.model.profile import Address, Network, Nic, Profile
from agent.pe.duplicate_address import Duplicate

SOURCE = Profile("web1", "", network=Network(nics=(Nic("a", "ens3", addresses=(Address("10.0.0.5/24"),)),)))
TARGET = Profile("target", "", network=Network(nics=(Nic("b", "enp2s0", link="up"),)))
ANSWER = Duplicate("10.0.0.5", "52:54:00:cc:00:01", "enp2s0")
DEPOT: Any = SimpleNamespace(location="/depot")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the network was asked about; it answers that the source still runs."""
    cards: list[Any] = []

    def find(watched: Any, own: Any) -> tuple[list[Duplicate], list[str]]:
        cards.extend(watched)
        return [ANSWER], ["enp9s0 could not ask"]

    monkeypatch.setattr(agent, "find_duplicates", find)
    monkeypatch.setattr(agent, "find_image", lambda *_: SimpleNamespace(profile=SOURCE))
    monkeypatch.setattr(agent, "Access", lambda *_: SimpleNamespace(keys=lambda _: None))
    return cards


def alone(policy: str, mode: str = "restore") -> tuple[bool, list[str]]:
    recorder = Recorder([])
    assignment = Assignment("web1@20260101T000000Z", "only-eligible", mode, True, "reboot", None, "")
    config = AgentConfig(depot="/depot", duplicate_address=policy)
    return is_alone(config, assignment, DEPOT, TARGET, recorder), recorder.warnings


@pytest.mark.adapts("N9", "T1")
@pytest.mark.parametrize(("policy", "restarts"), [("warn", True), ("stop", False)])
def test_a_source_that_answers_is_told_of_and_stops_where_the_medium_says_so(
    policy: str, restarts: bool, asked: list[Any]
) -> None:
    found, warnings = alone(policy)
    assert found is restarts
    assert [(one.card, one.addresses) for one in asked] == [("enp2s0", ("10.0.0.5",))]
    assert any("52:54:00:cc:00:01" in text for text in warnings) and "enp9s0 could not ask" in warnings


@pytest.mark.parametrize(("policy", "mode"), [("ignore", "restore"), ("stop", "clone")])
def test_nobody_is_asked_where_that_is_not_wanted_or_says_nothing(policy: str, mode: str, asked: list[Any]) -> None:
    assert alone(policy, mode) == (True, []) and not asked


@pytest.mark.parametrize(("policy", "restarts"), [("warn", True), ("stop", False)])
def test_an_image_that_cannot_be_read_any_more_leaves_it_unknown(
    policy: str, restarts: bool, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise UnreachableError("the depot is gone")

    monkeypatch.setattr(agent, "find_image", gone)
    found, warnings = alone(policy)
    assert found is restarts and "not known" in warnings[0] and not asked
