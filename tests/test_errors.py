"""The tree of errors: what programs and people rely on."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent import errors
from agent.errors import RegraftError, UnexpectedError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RegraftError)]
NAMED = [kind for kind in KINDS if kind not in (RegraftError, UnexpectedError)]
COMMANDS = Path(__file__).resolve().parents[1] / "docs/commands.md"


def test_every_exit_code_stands_for_one_error_and_is_documented() -> None:
    assert len({kind.exit_code for kind in NAMED}) == len({kind.code for kind in NAMED}) == len(NAMED) >= 17
    rows = COMMANDS.read_text()
    for kind in NAMED:
        assert f"| {kind.exit_code} | {kind.code} |" in rows


@pytest.mark.parametrize("kind", NAMED)
def test_an_error_always_names_a_next_act(kind: type[RegraftError]) -> None:
    assert kind("something is wrong").hint == kind.usual_act != ""
    assert kind("something is wrong", "do this").hint == "do this"
