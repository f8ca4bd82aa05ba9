"""The linters are tests: what they refuse does not land."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agent.process import run

ROOT = Path(__file__).parent.parent
MYPY = ["mypy", "--no-error-summary"]

pytestmark = pytest.mark.tools


@pytest.mark.parametrize(
    "words",
    [
        ["ruff", "check", "--no-cache", "--no-fix", "-q"],
        ["ruff", "format", "--no-cache", "--check", "-q"],
        MYPY,
        [*MYPY, "-p", "tests"],
    ],
    ids=["ruff check", "ruff format", "mypy", "mypy tests"],
)
def test_it_has_nothing_to_say(words: list[str]) -> None:
    done = run([sys.executable, "-m", *words], cwd=ROOT, accept=range(256))
    assert done.status == 0, f"{done.stdout}{done.stderr}"
