"""md arrays, made anew with the UUID and name that they had; members that this machine does not have are missing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from agent.errors import RefusedError, TargetIOError
from agent.model.plan import PlannedArray
from agent.model.stack import LEVELS
from agent.probe.stack_open import array_uuid, close, free_array_name
from agent.process import run
from agent.restore.filesystems import forget_signatures

TIMEOUT_S = 300.0
KIB = 1 << 10
_UUID = re.compile(r"[0-9a-f]{8}(:[0-9a-f]{8}){3}")
_NAME = re.compile(r"[A-Za-z0-9_.:+-]{0,64}")
_METADATA = ("0.90", "1.0", "1.1", "1.2")


def make_array(array: PlannedArray, nodes: Sequence[Path], closing: ExitStack) -> Path:
    """Make the array of ``nodes`` and start it; its node."""
    refuse_bad_words(array)
    for node in nodes:
        forget_signatures(node)
    name = free_array_name(array.node)
    made = Path("/dev") / name
    closing.callback(_stop, made)
    run(create_words(made, array, nodes), timeout_s=TIMEOUT_S)
    _refuse_other(array, nodes)
    return made


def open_array(array: PlannedArray, nodes: Sequence[Path], closing: ExitStack) -> Path:
    made = Path("/dev") / free_array_name(array.node)
    closing.callback(_stop, made)
    run(["mdadm", "--assemble", "--run", made, *nodes], timeout_s=TIMEOUT_S)
    return made


def _stop(node: Path) -> None:
    if (Path("/sys/class/block") / node.name).exists():
        close(["mdadm", "--stop", str(node)])


def create_words(made: Path, array: PlannedArray, nodes: Sequence[Path]) -> list[str]:
    """The words for mdadm. ``--run``: it asks where a partition looks used, or is small."""
    words = ["mdadm", "--create", str(made), "--run", "--force", "--level", array.level.removeprefix("raid")]
    words += ["--raid-devices", str(array.devices), "--metadata", array.metadata, "--uuid", array.uuid]
    words += name_words(array.name) if array.name and array.metadata != "0.90" else []
    words += ["--chunk", str(array.chunk_bytes // KIB)] if array.chunk_bytes else []
    words += ["--layout", layout_word(array.layout)] if array.layout else []
    offset = array.offset_bytes // KIB
    words += ["--data-offset", str(offset)] if offset and array.metadata in ("1.1", "1.2") else []
    words += ["--bitmap", "internal" if array.bitmap else "none"] if array.level != "raid0" else []
    return [*words, *map(str, nodes), *["missing"] * (array.devices - len(nodes))]


def name_words(name: str) -> list[str]:
    """``host:0`` of the superblock, told apart: mdadm joins them again, and from 4.3 on takes no colon in a name."""
    host, _, short = name.rpartition(":")
    return ["--name", short, "--homehost", host] if host else ["--name", name]


def layout_word(layout: str) -> str:
    """``near=2``, as mdadm tells it, in the form that it takes: ``n2``."""
    kind, _, copies = layout.partition("=")
    return kind[:1] + copies


def matches(array: PlannedArray, nodes: Sequence[Path]) -> bool:
    """Whether the array is there already, from a run that was cut."""
    return all(array_uuid(node.name) == array.uuid for node in nodes)


def _refuse_other(array: PlannedArray, nodes: Sequence[Path]) -> None:
    if not matches(array, nodes):
        raise TargetIOError(
            f"{', '.join(map(str, nodes))} reads back as a member of {[array_uuid(node.name) for node in nodes]}, "
            f"expected {array.uuid}",
            "the disk may be failing; read the kernel log",
        )


def refuse_bad_words(array: PlannedArray) -> None:
    layout = re.fullmatch(r"|(near|far|offset)=\d", array.layout)
    good = _UUID.fullmatch(array.uuid) and _NAME.fullmatch(array.name) and not array.name.startswith("-") and layout
    if not good or array.level not in LEVELS or array.metadata not in _METADATA or not 1 <= array.devices <= 64:
        raise RefusedError(
            f"array {array.uuid or '-'} ({array.level}, ‘{array.name}’, {array.metadata}, {array.devices} devices) is "
            "not what mdadm knows",
            "the image's stack is not usable",
        )
