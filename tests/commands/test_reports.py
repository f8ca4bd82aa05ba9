"""Reports of systems whose files have any names: JSON is UTF-8, and names need not be."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from agent.commands import rehearse
from agent.commands.restore import restore
from agent.commands.restoring import report_json
from agent.console.report_text import report_text
from agent.model.difference import Difference
from agent.model.report import Report
from tests.commands.test_consent import plan_of
from tests.console.test_report import report

ODD = report(changed_paths=("/srv/\udcff", "/etc/fstab"))
SHOWN = ["/srv/\\xff", "/etc/fstab"]


def test_a_report_with_a_name_that_is_not_utf_8_is_json() -> None:
    told = report_json(ODD)
    assert json.loads(told)["changed_paths"] == SHOWN
    assert msgspec.json.decode(told, type=Report).checks == ODD.checks
    assert report_json(report()) == msgspec.json.format(msgspec.json.encode(report()), indent=1)
    assert SHOWN[0] in report_text(ODD)


def test_a_restore_tells_of_it_in_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: Any = SimpleNamespace(plan=plan_of(), difference=Difference("web1@20260101T000000Z", "target", ()))
    module = sys.modules["agent.commands.restore"]
    for name, value in (("probe_machine", None), ("prepared_for", prepared), ("carry_out", ODD)):
        monkeypatch.setattr(module, name, lambda *_, _value=value, **__: _value)
    words = ["web1", "--disk", "name=sda", "--depot", "/d", "--erase", "S1", "--report", str(tmp_path / "report")]
    done = CliRunner().invoke(restore, [*words, "--json"])
    assert done.exit_code == 0, done.output
    for text in (done.output, (tmp_path / "report").read_text("utf-8")):
        assert json.loads(text)["changed_paths"] == SHOWN


def test_a_rehearsal_tells_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    rehearse.show(ODD, as_json=True)
    assert json.loads(capsys.readouterr().out)["changed_paths"] == SHOWN
