"""The depot's server beside the virtual machines, and the lab as one of its clients."""

from __future__ import annotations

import json
import re
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.lab.machine import HOST
from tests.lab.programs import PATIENCE, LabError, end_group, free_port, start

REPOSITORY = Path(__file__).resolve().parents[2]
FROM_SOURCE = (sys.executable, "-m", "agent")


@dataclass(frozen=True, slots=True)
class Served:
    """A depot that is being served on 127.0.0.1; machines of the lab reach it as 10.77.0.2."""

    depot: Path
    port: int
    write_token: str
    agent_token: str  # for media; the write token where the server made no other

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url_for_machines(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def trust(self) -> str:
        key: str = json.loads((self.depot / "depot.json").read_text())["public_key"]
        return key

    def call(self, method: str, path: str, body: object = None) -> Any:
        answer = requests.request(
            method,
            f"{self.url}/api/v1/{path}",
            json=body,
            headers={"Authorization": f"Bearer {self.write_token}"},
            timeout=60,
        )
        if not answer.ok:
            raise LabError(f"{method} {path}: status {answer.status_code}: {answer.text[:1000]}")
        return answer.json()


@contextmanager
def serving(depot: Path, logs: Path, program: tuple[str, ...] = FROM_SOURCE) -> Iterator[Served]:
    """``regraft serve`` until the block ends."""
    port, token = free_port(), secrets.token_urlsafe(24)
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / "server.log"
    words = [*program, "serve", str(depot), "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        environment = {"REGRAFT_TOKEN": token, "PYTHONUNBUFFERED": "1"}
        child = start(words, output=output, environment=environment, cwd=REPOSITORY)
        try:
            url = f"http://127.0.0.1:{port}/api/v1/version"
            deadline = time.monotonic() + 60 * PATIENCE
            while not answers(url):
                if child.poll() is not None or time.monotonic() > deadline:
                    raise LabError(f"regraft serve {depot} did not come up:\n{log.read_text(errors='replace')[-3000:]}")
                time.sleep(0.2)
            said = re.search(r"agent token: (\S+)", log.read_text())
            yield Served(depot, port, token, said[1] if said else token)
        finally:
            end_group(child, patience_s=15)


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False
