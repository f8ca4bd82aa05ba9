"""The lab's door to other programs: time limits on all of them, and none outlives the lab."""

from __future__ import annotations

import atexit
import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

MOUNTS = Path("/proc/self/mountinfo")


# What every wait for an emulated machine is multiplied with: a busy host proves the same, later.
PATIENCE = float(os.environ.get("REGRAFT_LAB_PATIENCE", "1"))


class LabError(Exception):
    """Something in the lab did not come to pass: what was awaited, for how long, and what was seen instead."""


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    timeout_s: float = 300.0,
    stdin: bytes | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    accept: Sequence[int] | None = (0,),
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; ``accept=None`` takes every status."""
    words = [os.fspath(word) for word in argv]
    child = subprocess.Popen(
        words,
        stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
        cwd=cwd,
        start_new_session=True,
    )
    try:
        out, err = child.communicate(stdin, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise LabError(f"‘{shlex.join(words)}’ did not end within {timeout_s:.0f} s") from None
    finally:
        end_group(child)
    stdout, stderr = out.decode(errors="replace"), err.decode(errors="replace")
    if accept is not None and child.returncode not in accept:
        raise LabError(f"‘{shlex.join(words)}’ ended with status {child.returncode}:\n{stderr[-3000:]}{stdout[-3000:]}")
    return subprocess.CompletedProcess(words, child.returncode, stdout, stderr)


def remove_built(place: Path) -> None:
    """Remove what an earlier build left. One that was killed may have left mounts, some of them the host's own /dev:
    they are taken away first, and nothing on another file system is ever removed."""
    below = f"{place.resolve()}/"
    points = [line.split()[4].encode().decode("unicode_escape") for line in MOUNTS.read_text().splitlines()]
    for point in reversed([point for point in points if point.startswith(below)]):
        run(["umount", point])  # the last one mounted first; one that is busy ends this, with everything in its place
    if place.exists():
        run(["rm", "-rf", "--one-file-system", "--", place], timeout_s=600)


def start(
    argv: Sequence[str | os.PathLike[str]],
    *,
    output: IO[bytes],
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program that runs beside the lab, in its own process group; it dies with the lab in every case.

    atexit does not run when the lab itself is killed, so the kernel is asked to end the child then.
    """
    words = ["setpriv", "--pdeathsig", "KILL", "--", *(os.fspath(word) for word in argv)]
    child = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
        cwd=cwd,
        start_new_session=True,
    )
    # Between sessions the kernel shares processors by the niceness of the session, not of its processes: sched(7).
    with suppress(OSError):
        Path(f"/proc/{child.pid}/autogroup").write_text(str(os.getpriority(os.PRIO_PROCESS, 0)))
    atexit.register(end_group, child)
    return child


def end_group(child: subprocess.Popen[bytes], patience_s: float = 5.0) -> None:
    """End a child and all its children: asked first, then forced."""
    if child.poll() is None:
        for number, patience in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 30.0)):
            with suppress(ProcessLookupError):
                os.killpg(child.pid, number)
            with suppress(subprocess.TimeoutExpired):
                child.wait(patience)
                break


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
