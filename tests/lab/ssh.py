"""A machine of the lab over ssh, through the port that was forwarded to it."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.lab.programs import PATIENCE, LabError, run

OPTIONS = (
    "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
    "-o", "BatchMode=yes", "-o", "ConnectTimeout=30", "-o", "ServerAliveInterval=60", "-o", "IdentitiesOnly=yes",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ssh:
    port: int
    key: Path
    user: str = "root"

    def words(self, command: str) -> list[str]:
        return ["ssh", *OPTIONS, "-i", str(self.key), "-p", str(self.port), f"{self.user}@127.0.0.1", command]

    def run(
        self, command: str, *, timeout_s: float = 120, accept: tuple[int, ...] | None = (0,), stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[str]:
        return run(self.words(command), timeout_s=timeout_s * PATIENCE, accept=accept, stdin=stdin)

    def wait(self, timeout_s: float) -> None:
        """Until somebody may log in."""
        timeout_s *= PATIENCE
        deadline = time.monotonic() + timeout_s
        while True:
            tried = self.run("true", accept=None, timeout_s=150)
            if tried.returncode == 0:
                return
            if time.monotonic() > deadline:
                raise LabError(f"ssh did not answer within {timeout_s:.0f} s: {tried.stderr.strip()}")
            time.sleep(1)

    def copy_directory(self, local: Path, remote: str, timeout_s: float = 300) -> None:
        """A directory and everything below, over one connection."""
        packed = subprocess.Popen(["tar", "-C", local, "-cf", "-", "."], stdout=subprocess.PIPE)
        with packed:
            result = subprocess.run(
                self.words(f"mkdir -p {remote} && tar -C {remote} --no-same-owner -xf -"),
                stdin=packed.stdout,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        if result.returncode or packed.returncode:
            raise LabError(
                f"copying {local} to the machine’s {remote} failed: {result.stderr.decode(errors='replace')}"
            )
