"""Captures and restores one partition by its used blocks, with the engine that whole disks are restored with.

python -m tests.bench.blocks_program capture|restore DEPOT NODE
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

from agent.depot.catalogue import find_image
from agent.depot.location import open_depot, open_writable
from agent.depot.signing import trusted_keys
from agent.image.capture import CaptureSource, SourceVolume, capture_image
from agent.model.events import Event
from agent.model.image import ImageRef
from agent.model.profile import Profile
from agent.model.storage import FileSystem

ENGINE = "agent.image.write_blocks"
MACHINE, VOLUME, KIND = "windows", "windows", "ntfs"


def is_offered() -> bool:
    return importlib.util.find_spec(ENGINE) is not None


def quiet(event: Event) -> None:
    """Nobody watches."""


def capture(location: str, node: Path) -> None:
    volume = SourceVolume(VOLUME, FileSystem(KIND), node, kind="blocks")  # type: ignore[call-arg, unused-ignore]
    source = CaptureSource(MACHINE, MACHINE, Profile(MACHINE, "2026-01-01T00:00:00Z"), (), (volume,))
    capture_image(source, open_writable(location, ""), quiet)


def restore(location: str, node: Path) -> None:
    depot = open_depot(location, "")
    loaded = find_image(depot, trusted_keys(depot, ()), ImageRef(MACHINE))
    importlib.import_module(ENGINE).write_blocks(depot, loaded, VOLUME, node, quiet)


if __name__ == "__main__":
    act, depot_location, device = sys.argv[1:]
    {"capture": capture, "restore": restore}[act](depot_location, Path(device))
