"""Restore over HTTP from this machine: regraft, and what an administrator pipes together."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from tests.bench.contestants import REGRAFT, REGRAFT_CONTESTANT, TAR, UNTAR, Contestant, Places, stored_bytes
from tests.bench.filesystems import copy_store, target_tree
from tests.bench.needs import there
from tests.bench.rounds import Ready, Turn, measure
from tests.bench.stage import Stage
from tests.bench.values import CURL_TAR, OURS
from tests.bench.web import serving

CURL = "curl --silent --show-error --fail {url}/tar.zst | zstd -qdc | " + UNTAR


def over_http(stage: Stage) -> None:
    if stage.nginx is None:
        stage.leave_out("http", "nginx not found; Debian has it")
        return
    if not there("curl") or not stage.those("tar"):
        stage.leave_out("http", "curl or tar takes no part; Debian has them")
        return
    data = stage.data.system()
    folder = stage.folder("www")
    depot = copy_store(stage.store(data, REGRAFT_CONTESTANT), folder / "depot")
    shutil.copyfile(stage.store(data, TAR) / "tar.zst", folder / "tar.zst")
    with serving(stage.nginx, folder, stage.folder("nginx")) as url:
        ours = f"{REGRAFT} extract bench --depot {url}/depot --to {{target}} --json && sync -f {{target}}"
        size = (folder / "tar.zst").stat().st_size
        by_curl = CURL.replace("{url}", url)
        turns = [
            turn(stage, OURS, REGRAFT_CONTESTANT, ours, stored_bytes(depot)),
            turn(stage, CURL_TAR, TAR, by_curl, size),
        ]
        measure(stage, "http", data.name, data.bytes, turns)
    shutil.rmtree(folder)


def turn(stage: Stage, name: str, like: Contestant, command: str, stored: int) -> Turn:
    return Turn(name, partial(ready, stage, like, command, stored), like.checks)


@contextmanager
def ready(stage: Stage, contestant: Contestant, command: str, stored: int) -> Iterator[Ready]:
    data = stage.data.system()
    with target_tree(stage.memory, data.image_bytes, data.inodes) as target:
        filled = Places(target=target.mountpoint).fill(command)
        yield Ready(filled, partial(stage.differs, data, contestant, target.mountpoint), lambda: stored)
