"""A console of the PE on a terminal: what is typed goes to the agent, and is not shown while a passphrase is typed."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pe_build.config import OVERLAY

PATIENCE_S = 20.0


def shows_typing(terminal: int) -> bool:
    return bool(termios.tcgetattr(terminal)[3] & termios.ECHO)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:.0f} s"
        time.sleep(0.05)


def console(folder: Path) -> tuple[subprocess.Popen[bytes], int, int]:
    """The live system's script with its files in ``folder``, and both ends of its terminal."""
    script = (OVERLAY / "usr/lib/regraft/console").read_text()
    script = script.replace("/run/regraft", str(folder)).replace("/usr/lib/regraft/environment", "/dev/null")
    (folder / "console").write_text(script)
    (folder / "agent.log").write_text("the agent's words\n")
    os.mkfifo(folder / "input")
    ours, theirs = pty.openpty()
    shell = subprocess.Popen(["busybox", "sh", folder / "console"], stdin=theirs, stdout=theirs, stderr=theirs,
                             start_new_session=True)  # fmt: skip
    return shell, ours, theirs


@pytest.mark.tools
def test_a_line_that_nobody_reads_does_not_keep_the_shell_away(tmp_path: Path) -> None:
    """Typed just as the agent ended: nobody has its input open any more."""
    shell, ours, theirs = console(tmp_path)
    shown = bytearray()

    def offered() -> bool:
        if select.select([ours], [], [], 0)[0]:
            shown.extend(os.read(ours, 65536))
        return b"Press Enter for a shell" in shown

    try:
        os.write(ours, b"\n")
        time.sleep(1.5)  # it is read, and handed on to nobody
        (tmp_path / "ended").write_text("0\n")
        until(offered)
    finally:
        os.killpg(shell.pid, 9)
        shell.wait(PATIENCE_S)
        os.close(ours)
        os.close(theirs)


@pytest.mark.tools
def test_a_passphrase_is_not_shown_and_arrives_as_it_was_typed(tmp_path: Path) -> None:
    shell, ours, theirs = console(tmp_path)
    with os.fdopen(os.open(tmp_path / "input", os.O_RDWR), "rb", buffering=0) as agent:
        try:
            assert shows_typing(theirs)
            (tmp_path / "hide-typing").touch()
            until(lambda: not shows_typing(theirs))
            os.write(ours, b"  secret \\n words \n")
            assert agent.readline() == b"  secret \\n words \n"
            (tmp_path / "hide-typing").unlink()
            until(lambda: shows_typing(theirs))
            os.write(ours, b"SERIAL7\n")
            assert agent.readline() == b"SERIAL7\n"
            time.sleep(0.2)
            shown = os.read(ours, 65536)
            assert b"the agent's words" in shown and b"SERIAL7" in shown and b"secret" not in shown
        finally:
            os.killpg(shell.pid, 9)
            shell.wait(PATIENCE_S)
            os.close(ours)
            os.close(theirs)
