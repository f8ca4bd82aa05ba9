"""The program as people start it: words in, exit code and two streams out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.process import Completed, run

REPOSITORY = Path(__file__).resolve().parents[2]
FROM_SOURCE = Path(sys.executable).parent / "regraft"
WRITE_TOKEN = "write-token-0123456789"


def without_pack_names(text: str) -> str:
    """Two captures cut the same tree into other packs: workers share the work as they happen to be free."""
    return re.sub(r"packs/[0-9a-f]{2}/[0-9a-f]{64}", "packs/…", text)


@dataclass(frozen=True)
class Regraft:
    """One user of the program: REGRAFT_HOME holds this user's keys and pins."""

    program: Path
    home: Path
    before: tuple[str, ...] = ()  # a program that starts it, such as unshare
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *words: str | Path, code: int = 0, **environment: str) -> Completed:
        """Run it to its end; it must end with ``code``."""
        told = {"REGRAFT_HOME": str(self.home), **self.environment, **environment}
        done = run([*self.before, self.program, *words], environment=told, accept=range(256), timeout_s=180)
        assert done.status == code, f"{words}: exit {done.status}, expected {code}\n{done.stdout}\n{done.stderr}"
        if code != 1:
            assert "Traceback" not in done.stderr, done.stderr
        return done

    def json(self, *words: str | Path, code: int = 0) -> Any:
        """What it says with --json, which is all that it says on standard output."""
        return json.loads(self(*words, "--json", code=code).stdout)

    def refused(self, *words: str | Path, code: int, name: str) -> str:
        """It ends with ``code``, says why and what to do next to people, and the same to programs. The message."""
        told = self(*words, code=code).stderr
        assert told.startswith("regraft: ") and "\n  next: " in told, told
        error = self.json(*words, code=code)["error"]
        assert (error["code"], error["exit_code"]) == (name, code)
        assert error["message"] and error["hint"] and error["hint"] in told
        assert without_pack_names(error["message"]) in without_pack_names(told)
        return str(error["message"])


@contextmanager
def background(words: list[str | Path], **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A server beside the test, ended afterwards; its first lines can be read from ``stdout``."""
    told = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **environment}
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=told)
    try:
        yield child
    finally:
        child.terminate()
        child.communicate(timeout=30)


def lines_until(child: subprocess.Popen[str], word: str) -> list[str]:
    """What the child says up to the line that holds ``word``."""
    assert child.stdout is not None
    said: list[str] = []
    for line in child.stdout:
        said.append(line.rstrip())
        if word in line:
            return said
    raise AssertionError(f"it ended without saying ‘{word}’: {said}")


@contextmanager
def mounted(regraft: Regraft, where: Path, *words: str | Path) -> Iterator[subprocess.Popen[str]]:
    """The image ``web-1`` on a directory; ended by SIGTERM, if the test did not end it."""
    where.mkdir(exist_ok=True)
    told: list[str | Path] = [regraft.program, "mount", "web-1", where, *words]
    with background(told, REGRAFT_HOME=str(regraft.home), **regraft.environment) as child:
        lines_until(child, "is mounted on")
        yield child
    assert child.returncode == 0
    assert not os.path.ismount(where)
