"""The only module that starts processes.

Argument lists only, never a shell; a fixed environment; the failing command is shown once, shell-quoted,
with what it printed.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.errors import RegraftError, TemporaryError

DEFAULT_TIMEOUT_S = 300.0


class ProcessError(RegraftError):
    """A program ended with another status than 0."""

    exit_code, code = 1, "process"

    def __init__(self, argv: Sequence[str], status: int, stdout: str, stderr: str) -> None:
        said = "\n".join(part for part in (stderr.strip()[-2000:], stdout.strip()[-2000:]) if part)
        super().__init__(f"‘{shlex.join(argv)}’ ended with status {status}, expected 0:\n{said}")
        self.argv = tuple(argv)
        self.status = status
        self.stdout = stdout
        self.stderr = stderr


@dataclass(frozen=True, slots=True)
class Completed:
    """What a program that ended left behind."""

    status: int
    stdout: str
    stderr: str


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment every child gets: fixed locale and path, nothing of the agent's own secrets.

    PyInstaller points LD_LIBRARY_PATH at its own libraries; system programs must not load those
    (PyInstaller's manual, "LD_LIBRARY_PATH / LIBPATH considerations"), so it never travels.
    """
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "HOME": "/root",
        "TERM": os.environ.get("TERM", "dumb"),
    }
    environment.update(extra or {})
    return environment


def run(  # noqa: PLR0913 - one door for every child; each parameter is a property of the child
    argv: Sequence[str | os.PathLike[str]],
    *,
    stdin: bytes | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    accept: Sequence[int] = (0,),
    descriptors: Sequence[int] = (),
) -> Completed:
    """Run a program to its end and return what it printed. It gets the open ``descriptors``, under their numbers.

    Raises ProcessError for a status outside ``accept``, TemporaryError when ``timeout_s`` seconds passed
    (the whole process group is ended), and ProcessError with status 127 when the program does not exist.
    """
    words = [os.fspath(word) for word in argv]
    try:
        child = subprocess.Popen(
            words,
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(environment),
            cwd=cwd,
            start_new_session=True,
            pass_fds=descriptors,
        )
    except FileNotFoundError as error:
        raise ProcessError(words, 127, "", str(error)) from error
    try:
        out, err = child.communicate(stdin, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, 9)
        child.communicate()
        raise TemporaryError(f"‘{shlex.join(words)}’ did not end within {timeout_s:.0f} s", "it was ended") from None
    except BaseException:
        os.killpg(child.pid, 9)
        child.communicate()
        raise
    stdout, stderr = out.decode(errors="replace"), err.decode(errors="replace")
    if child.returncode not in accept:
        raise ProcessError(words, child.returncode, stdout, stderr)
    return Completed(child.returncode, stdout, stderr)


def feed(argv: Sequence[str | os.PathLike[str]], pieces: Iterable[bytes]) -> Completed:
    """Run a program that reads any amount of data from its standard input; raises ProcessError as `run` does.

    There is no time limit: the data sets the pace. What the program prints goes to files meanwhile, so that it never
    waits for a reader while we wait for it.
    """
    words = [os.fspath(word) for word in argv]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            child = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=out, stderr=err, env=child_environment(), start_new_session=True
            )
        except FileNotFoundError as error:
            raise ProcessError(words, 127, "", str(error)) from error
        assert child.stdin is not None
        try:
            try:
                for piece in pieces:
                    child.stdin.write(piece)
                child.stdin.close()
            except BrokenPipeError:
                pass  # it ended early; its status and words say why
            child.wait()
        except BaseException:
            os.killpg(child.pid, 9)
            child.wait()
            raise
        out.seek(0)
        err.seek(0)
        stdout, stderr = out.read().decode(errors="replace"), err.read().decode(errors="replace")
    if child.returncode != 0:
        raise ProcessError(words, child.returncode, stdout, stderr)
    return Completed(child.returncode, stdout, stderr)


def attach(
    argv: Sequence[str | os.PathLike[str]],
    cwd: Path | None = None,
    stdout: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run a program for the person at the terminal: it has our streams, and their environment less our secrets.

    ``stdout`` is a descriptor to print to instead of ours; ``environment`` replaces the person's. The exit status;
    128 and the signal's number where one ended it. Raises ProcessError with status 127 when there is no such program.
    """
    words = [os.fspath(word) for word in argv]
    own = {name: value for name, value in os.environ.items() if not name.startswith(("REGRAFT_", "LD_LIBRARY_PATH"))}
    before = signal.signal(signal.SIGINT, lambda *_: None)  # the program's to handle; it gets the usual handler back
    try:
        child = subprocess.Popen(words, cwd=cwd, stdout=stdout, env=own if environment is None else dict(environment))
        status = child.wait()
    except FileNotFoundError as error:
        raise ProcessError(words, 127, "", str(error)) from error
    finally:
        signal.signal(signal.SIGINT, before)
    return 128 - status if status < 0 else status
