"""Give a medium another configuration: the config segment in the ISO is rewritten where it lies, nothing moves."""

from __future__ import annotations

import mmap
import shutil
from pathlib import Path, PurePosixPath

from agent.errors import DamagedError, UsageError
from agent.model.agent_config import named_files, read_config
from pe_build.segments import CONFIG_SIZE_BYTES, config_magic, config_segment, read_config_segment

ISO_SECTOR_BYTES = 2048
TAKEN = ("agent.toml", ".config-segment-v1")


def customize(iso: Path, config: Path, output: Path) -> None:
    """Copy ``iso`` to ``output`` with ``config`` as its /etc/regraft/agent.toml, and what it names beside it."""
    segment = segment_of(config)
    place = find_config(iso)
    output.parent.mkdir(parents=True, exist_ok=True)
    if not (output.exists() and output.samefile(iso)):
        shutil.copyfile(iso, output)
    with output.open("r+b") as medium:
        medium.seek(place)
        medium.write(segment)


def segment_of(config: Path) -> bytes:
    """The segment of a configuration and of the files that it names."""
    return config_segment(config.read_bytes(), named_beside(config))


def named_beside(config: Path) -> dict[str, bytes]:
    """The files that a configuration names, relative to itself: edits and keys. Raises UsageError for one that is not
    there or lies elsewhere, and for a configuration that the agent would not understand."""
    try:
        text = config.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"‘{config}’ is not TOML: {error}", "correct the file; nothing was written") from None
    found = {}
    for name in named_files(read_config(text, "", f"‘{config}’")):
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts or str(place) in TAKEN:
            raise UsageError(
                f"‘{config}’ names the file ‘{name}’, expected one beside it or below its folder",
                "put the file there; it travels on the medium; nothing was written",
            )
        try:
            found[str(place)] = (config.parent / place).read_bytes()
        except OSError as error:
            raise UsageError(
                f"‘{config}’ names the file ‘{name}’, which cannot be read: {error.strerror}",
                "its place is relative to the configuration; nothing was written",
            ) from None
    return found


def current_config(iso: Path) -> bytes:
    """The agent.toml that a medium carries."""
    place = find_config(iso)
    with iso.open("rb") as medium:
        medium.seek(place)
        return read_config_segment(medium.read(CONFIG_SIZE_BYTES))


def find_config(iso: Path) -> int:
    """Where the one config segment begins, in bytes. Raises DamagedError when there is none, or more than one."""
    magic = config_magic()
    with iso.open("rb") as medium, mmap.mmap(medium.fileno(), 0, access=mmap.ACCESS_READ) as content:
        places = []
        place = content.find(magic)
        while place >= 0:
            if place % ISO_SECTOR_BYTES == 0:
                places.append(place)
            place = content.find(magic, place + 1)
        size = len(content)
    if len(places) != 1:
        raise DamagedError(
            f"‘{iso}’ holds {len(places)} config segments, expected 1", "use an ISO made by ‘python -m pe_build iso’"
        )
    if places[0] + CONFIG_SIZE_BYTES > size:
        raise DamagedError(f"‘{iso}’ ends inside its config segment: {size} bytes", "fetch or build the ISO again")
    return places[0]
