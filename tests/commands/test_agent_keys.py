"""Where the agent of the PE takes the keys of LUKS devices from: the job, the medium, a person; else it stops."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from agent.commands import agent as module
from agent.commands.agent_keys import agent_keys
from agent.console.server_events import ServerEvents
from agent.errors import RefusedError, UsageError
from agent.model.agent_config import AgentConfig, beside
from agent.model.choices import NONE
from agent.model.jobs import Job, JobMatch, State
from agent.model.luks_keys import LuksKey
from agent.pe import typed as typing_module

ONE, TWO = "0c1f6a52-52d5-44c1-8d5e-4d4a6cb0a2a1", "0c1f6a52-52d5-44c1-8d5e-4d4a6cb0a2a2"
WHERE = "/dev/sda3"


@pytest.fixture
def medium(tmp_path: Path) -> AgentConfig:
    (tmp_path / "pass").write_text("from the medium\r\n")
    (tmp_path / "two.key").write_bytes(b"\x00key of two\n")
    (tmp_path / "edits.toml").write_text('[skip]\nrecipes = ["console.serial-kept"]\n')
    config = AgentConfig(
        luks_passphrase_file=("pass",), luks_key_file=(f"{TWO}=two.key",), edits="edits.toml", arrays="keep"
    )
    return beside(config, str(tmp_path))


def test_the_job_goes_before_the_medium_and_a_device_before_all(medium: AgentConfig) -> None:
    key_of = agent_keys(medium, attended=False)
    assert (key_of(ONE, WHERE), key_of(TWO, WHERE)) == (b"from the medium", b"\x00key of two\n")
    key_of = agent_keys(medium, (LuksKey(uuid=ONE, passphrase="of the job"),), attended=False)
    assert (key_of(ONE, WHERE), key_of(TWO, WHERE)) == (b"of the job", b"\x00key of two\n")
    key_of = agent_keys(medium, (LuksKey(passphrase="of the job"),), attended=False)
    assert key_of(TWO, WHERE) == b"of the job"


@pytest.mark.adapts("B4", "T1")
def test_unattended_and_without_one_stops_and_says_what_to_add(medium: AgentConfig) -> None:
    config = msgspec.structs.replace(medium, luks_passphrase_file=())
    with pytest.raises(RefusedError, match=f"{WHERE} is encrypted .LUKS {ONE}") as refused:
        agent_keys(config, attended=False)(ONE, WHERE)
    assert all(word in refused.value.hint for word in ("--luks-passphrase", "luks_passphrase_file", "luks_key_file"))
    assert refused.value.exit_code == 12


@pytest.mark.parametrize("name", ["luks_passphrase_file", "luks_key_file"])
def test_a_file_that_the_medium_lacks_is_named(name: str, tmp_path: Path) -> None:
    config = beside(msgspec.convert({name: ("absent",)}, AgentConfig), str(tmp_path))
    with pytest.raises(UsageError, match=f"{tmp_path}/absent cannot be read"):
        agent_keys(config, attended=True)


def test_edits_that_the_medium_lacks_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.toml, which cannot be read"):
        module.medium_choices(beside(AgentConfig(edits="absent.toml"), str(tmp_path)))


def job(**more: Any) -> Job:
    return Job(id="1f", state=State.QUEUED, match=JobMatch(mac="52:54:00:00:00:01"), image="web1@20261123T204140Z",
               disk="only-eligible", mode="restore", on_success="", attempt=1, created="", **more)  # fmt: skip


def assigned(given: Job, config: AgentConfig) -> module.Assignment:
    keys = (LuksKey(passphrase="of the job"),)
    control: Any = SimpleNamespace(job_keys=lambda _: keys)
    return module.assignment_of(ServerEvents(control, given), config)


def test_a_job_says_what_it_says_and_the_medium_the_rest(medium: AgentConfig) -> None:
    plain = assigned(job(), medium)
    assert (plain.keys, plain.wish.arrays, plain.unattended) == ((), "keep", True)
    assert plain.choices.skip.recipes == ("console.serial-kept",)
    full = assigned(job(luks_keys="held", arrays="plain", edits="[nics]\nens3 = 'none'\n"), medium)
    assert (full.keys[0].secret, full.wish.arrays) == (b"of the job", "plain")
    assert (full.choices.nics, full.choices.skip.recipes) == ({"ens3": "none"}, ())
    assert assigned(job(), AgentConfig()).choices == NONE


# --- typed at a console of the PE -----------------------------------------------------------------------------------


@pytest.fixture
def typist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Lines that a person types, each when the consoles hide it and the agent waits for it."""
    lines: list[str] = []
    path, hiding = tmp_path / "input", tmp_path / "run/hide-typing"
    os.mkfifo(path)
    monkeypatch.setattr(typing_module, "HIDING", hiding)

    def wait(_: float) -> None:
        assert hiding.exists()
        console.write(lines.pop(0) + "\n")
        console.flush()

    monkeypatch.setattr("agent.pe.typed.time.sleep", wait)
    with os.fdopen(os.open(path, os.O_RDWR), "r") as source, path.open("w") as console:
        monkeypatch.setattr("sys.stdin", source)
        yield lines
    assert not lines and not hiding.exists()


def test_it_is_typed_hidden_and_twice_where_it_is_new(typist: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    typist += [" with blanks "]
    key_of = agent_keys(AgentConfig(), attended=True)
    assert key_of(ONE, WHERE) == b" with blanks " == key_of(ONE, WHERE)  # asked for once
    typist += ["right", "wrong", "right", "right"]
    assert agent_keys(AgentConfig(), attended=True, new=True)(ONE, WHERE) == b"right"
    said = capsys.readouterr().out
    assert f"Passphrase for {WHERE} (LUKS {ONE}): " in said and "New passphrase" in said and "not the same" in said
    assert "right" not in said and "with blanks" not in said


def test_where_nobody_can_type_it_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/null").open() as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        with pytest.raises(RefusedError, match="no passphrase was given"):
            agent_keys(AgentConfig(), attended=True)(ONE, WHERE)
