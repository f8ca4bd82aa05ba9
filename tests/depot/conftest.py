"""A depot of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.depot.local import LocalDepot


@pytest.fixture
def depot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalDepot:
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("REGRAFT_TRUST", raising=False)
    return LocalDepot.init(tmp_path / "depot")
