"""An agent that meets a bug ends as its medium says, with its words on the console."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.commands import agent as module
from agent.console.recorder import Recorder
from agent.model.agent_config import AgentConfig
from agent.pe import ending


def test_a_bug_ends_as_the_medium_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    def broken(config: AgentConfig, recorder: Recorder) -> str:
        raise KeyError("no such thing")

    monkeypatch.setattr(module, "TASKS", {"restore": broken})
    monkeypatch.setattr(ending, "leave", ended.append)
    config = tmp_path / "agent.toml"
    config.write_text('on_failure = "poweroff"\n')
    said = CliRunner().invoke(module.agent, ["--config", str(config)])
    assert said.exit_code == 0, said.output
    assert ended == ["poweroff"]
    assert "RESULT failed unexpected exit 1" in said.output
    assert "Traceback" in said.output and "no such thing" in said.output
