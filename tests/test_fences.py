"""The fences themselves: each kind of trespass is seen."""

from __future__ import annotations

import multiprocessing
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.process import run
from tests.conftest import FENCE


def spawn_worker() -> None:
    multiprocessing.get_context("spawn").Process(target=print).start()


@pytest.mark.parametrize(
    ("trespass", "said"),
    [
        (lambda: run(["true"]), "starts a process"),
        (lambda: os.system("true"), "starts a process"),
        (os.fork, "starts a process"),
        (spawn_worker, "starts a process"),
        (lambda: socket.create_connection(("127.0.0.1", 9)), "uses the network"),
        (lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM), "opens a socket"),
        (lambda: Path("/dev/loop0").read_bytes(), "opens /dev/loop0"),
        (lambda: os.open("/dev/../dev/sda", os.O_RDONLY), "opens /dev/sda"),
    ],
)
def test_a_trespass_is_named_and_not_carried_out(trespass: Callable[[], object], said: str) -> None:
    with pytest.raises(pytest.fail.Exception, match=said):
        trespass()
    assert len(FENCE.trespasses) == 1
    FENCE.trespasses.clear()


def test_a_trespass_in_a_thread_is_kept_for_the_end() -> None:
    def connect() -> None:
        with pytest.raises(pytest.fail.Exception):
            socket.create_connection(("127.0.0.1", 9))

    thread = threading.Thread(target=connect)
    thread.start()
    thread.join()
    assert FENCE.trespasses
    FENCE.trespasses.clear()


def test_event_loops_and_harmless_devices_are_free() -> None:
    one, other = socket.socketpair()
    one.close()
    other.close()
    with Path("/dev/zero").open("rb") as zero:
        assert zero.read(1) == b"\0"
    assert not FENCE.trespasses
