"""The fences: what a test may touch is said by its marker, and held here.

A test without a marker is a unit test. It opens no socket, starts no process and opens nothing in /dev; the
interpreter's own audit events tell when one does, wherever in the code it happens, and the test fails by name.
"""

from __future__ import annotations

import multiprocessing.util
import os
import socket
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
import urllib3.util.connection  # noqa: F401 - opens a socket when first imported, to see whether there is IPv6

from tests.thaw import sweep, thaw

# Cheap before dear: a broken unit fails in seconds, not behind half an hour of virtual machines.
TIERS = ("tools", "root", "frozen", "machine")
# Where several processes share the work (``make test``), each takes whole groups: what has a fixture of minutes in
# common stays together, and partitions of loop devices are made by one process alone.
MACHINES = {"tests/lab/test_demo.py": "demo", "tests/lab/test_matrix.py": "matrix"}
OTHER_MACHINES, HOST = "machines", "host"
# An emulated processor takes all it gets. The demo's machines follow each other, and all else ends before them: they go
# first, then the host's own tests, then other machines.
NICENESS = {"demo": -5, OTHER_MACHINES: 5}

PROCESS_EVENTS = frozenset(
    {
        "subprocess.Popen", "os.system", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.spawn", "pty.spawn",
        "regraft.spawn",
    }
)  # fmt: skip
SOCKET_EVENTS = frozenset(
    {
        "socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg",
        "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo",
    }
)  # fmt: skip
HARMLESS_DEVICES = frozenset({"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"})


class Fence:
    """Closed while a unit test runs. Code under test cannot swallow what it raises: it is no Exception."""

    def __init__(self) -> None:
        self.closed = False
        self.trespasses: list[str] = []

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.closed and (trespass := trespass_of(event, arguments)):
            self.trespasses.append(trespass)
            pytest.fail(instructive(trespass), pytrace=True)


def trespass_of(event: str, arguments: tuple[Any, ...]) -> str:
    """What an audit event says a unit test must not do, or nothing."""
    if event in PROCESS_EVENTS:
        return f"starts a process ({event}: {arguments[0] if arguments else ''})"
    if event in SOCKET_EVENTS:
        return f"uses the network ({event}: {arguments[1:]})"
    # A pair of connected local sockets wakes every event loop and reaches nobody.
    if event == "socket.__new__" and arguments[1] not in (-1, socket.AF_UNIX):
        return f"opens a socket (family {arguments[1]})"
    if event == "open" and isinstance(arguments[0], str | bytes):
        path = os.path.normpath(os.fsdecode(arguments[0]))
        if path.startswith("/dev/") and path not in HARMLESS_DEVICES:
            return f"opens {path}"
    return ""


def instructive(trespass: str) -> str:
    return (
        f"this unit test {trespass}. Give the code what it needs as a value, or mark the test: "
        "‘root’ if it needs programs or devices, ‘frozen’ or ‘machine’ if it runs the binary or a virtual machine."
    )


FENCE = Fence()
sys.addaudithook(FENCE.audit)

# Workers that multiprocessing spawns raise no audit event of their own.
_spawn = multiprocessing.util.spawnv_passfds


def _audited_spawn(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
    sys.audit("regraft.spawn", path)
    return _spawn(path, args, passfds)


multiprocessing.util.spawnv_passfds = _audited_spawn


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "tools: starts programs such as linters; needs neither root nor devices")


@pytest.fixture(scope="session", autouse=True)
def _removable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """pytest removes the folders of tests that passed, and of runs long ago; what it cannot remove fills the disk."""
    sweep(tmp_path_factory.getbasetemp())
    yield
    thaw(tmp_path_factory.getbasetemp())


def tier(item: pytest.Item) -> int:
    """0 for unit tests, else the dearest marker's place."""
    return max((place for place, name in enumerate(TIERS, 1) if item.get_closest_marker(name)), default=0)


def group(item: pytest.Item) -> str:
    """Of the tests that one process runs."""
    if not item.get_closest_marker("machine"):
        return HOST
    return MACHINES.get(item.nodeid.partition("::")[0], OTHER_MACHINES)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=tier)
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Without its groups two processes would each have the same machines built, and each other's partitions."""
    shared = getattr(session.config.option, "loadgroup", False)
    if shared and not all(item.nodeid.endswith(f"@{group(item)}") for item in session.items):
        raise pytest.UsageError("pytest-xdist does not group tests with this pytest; install what constraints.txt says")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if tier(item) > TIERS.index("tools") + 1 and os.geteuid() != 0:
        # On a developer's own account these cannot run; continuous integration is root and runs all.
        pytest.skip("needs root")
    if "PYTEST_XDIST_WORKER" in os.environ and group(item) in NICENESS:
        with suppress(PermissionError):  # of a container that may not raise it
            os.setpriority(os.PRIO_PROCESS, 0, NICENESS[group(item)])
    FENCE.trespasses.clear()
    FENCE.closed = tier(item) == 0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    result = yield
    # One in a thread is not seen by the test itself.
    if FENCE.trespasses:
        pytest.fail(instructive(FENCE.trespasses[0]), pytrace=False)
    return result


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    FENCE.closed = False
