"""Firmware or a driver that comes as files: a directory or a tar archive, made into a component.

    …/lib/firmware/NAME           stays where it says
    …/lib/modules/RELEASE/…ko     stays where it says
    NAME.ko anywhere else         lib/modules/<release that it was built for>/updates/NAME.ko
    anything, said to be firmware lib/firmware/…
    dkms.conf and sources         are not installed: a driver must be built for its kernel first

The payload is one tar archive of the files at their places, the same bytes for the same files.
"""

from __future__ import annotations

import os
import re
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO

import zstandard

from agent.depot.package_contents import BUILTIN, FIRMWARE, MODULE, MODULE_LIMIT_BYTES, Contents, check_link, check_path
from agent.depot.unpacking import UNPACKING_ERRORS, decompressed
from agent.errors import DamagedError, UsageError
from agent.model.image import Component
from agent.model.modinfo import modinfo, plain

ARCHIVES = re.compile(r"(.+?)\.(?:tar\.(gz|xz|zst|bz2)|(tgz|txz)|(tar))")
_PLACED = re.compile(r"(?:.*/)?(?:usr/)?(lib/(?:firmware|modules)/.+)")
_KO = re.compile(r".*\.ko(\.xz|\.zst|\.gz)?")
_NAMED = re.compile(r"(.+?)[-_]v?(\d[A-Za-z0-9.+~-]*)")
_MACHINES = {62: "x86_64", 183: "aarch64", 3: "i686"}  # ELF e_machine
AUTOMATIC, FIRMWARE_KIND, DRIVER_KIND = "auto", "firmware", "driver"


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    link: str  # target of a symbolic link, "" for a file
    read: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Loose:
    """A component made of files, and those of them that it leaves out."""

    component: Component
    left_out: tuple[str, ...]


def read_loose(path: Path, kind: str, payload: Path) -> Loose:
    """Make ``payload`` (a .tar.zst) of a directory or archive, and say what it provides.

    Raises DamagedError for what must not be installed, UsageError for what is neither firmware nor a driver.

    ``kind``: auto, firmware (everything belongs below lib/firmware) or driver.
    """
    name, version = _identity(path)
    contents, left_out = Contents(f"‘{path}’"), list[str]()
    architectures: set[str] = set()
    top = _common_folder(path) if kind == FIRMWARE_KIND else ""
    with (
        payload.open("wb") as out,
        zstandard.ZstdCompressor(10).stream_writer(out) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for entry in _entries(path):
            data = b"" if entry.link else entry.read()
            place = _place(entry, data, kind, top)
            if not place:
                left_out.append(entry.name)
                continue
            _note(contents, architectures, place, data)
            _add(archive, place, entry.link, data)
    if not contents.modules and not contents.firmware:
        raise UsageError(f"‘{path}’ has neither modules (.ko) nor firmware", _hint(left_out))
    if len(architectures) > 1:
        raise DamagedError(f"‘{path}’ has modules for {' and '.join(sorted(architectures))}", "add them one by one")
    plain_component = Component(
        id=name, version=version, kind="other", architecture=next(iter(architectures), "all"), for_os="",
        package_format="directory", payload=(),
    )  # fmt: skip
    return Loose(contents.fill(plain_component), tuple(left_out))


def _identity(path: Path) -> tuple[str, str]:
    """``rtl8125-9.013.tar.gz`` and a folder ``rtl8125-9.013``: name and version."""
    archive = ARCHIVES.fullmatch(path.name)
    stem = archive[1] if archive else path.resolve().name
    named = _NAMED.fullmatch(stem)
    return (named[1], named[2]) if named else (stem, "1")


def _hint(left_out: list[str]) -> str:
    names = {entry.rpartition("/")[2] for entry in left_out}
    if names & {"dkms.conf", "Kbuild"} or any(name.endswith(".c") for name in names):
        return (
            "it is the source of a driver: build it for the kernel (with DKMS: ‘dkms build’, then "
            "‘dkms mktarball --binaries-only’ or ‘dkms mkdeb’) and add what that gives"
        )
    return "name the files’ places (lib/firmware/…), or say --as firmware"


def _entries(path: Path) -> Iterator[_Entry]:
    return _of_folder(path) if path.is_dir() else _of_archive(path)


def _of_folder(top: Path) -> Iterator[_Entry]:
    for folder, folders, files in os.walk(top):
        folders.sort()
        here = Path(folder)
        for name in sorted([*files, *(one for one in folders if (here / one).is_symlink())]):
            path = here / name
            mode = path.lstat().st_mode
            shown = check_path(str(path.relative_to(top)), f"‘{top}’", own=True)
            if stat.S_ISLNK(mode):
                target = os.readlink(path)  # noqa: PTH115 - the text itself
                check_link(shown, target, f"‘{top}’", own=True)
                yield _Entry(shown, target, bytes)
            elif stat.S_ISREG(mode):
                yield _Entry(shown, "", path.read_bytes)
            else:
                raise DamagedError(f"‘{top}’: ‘{shown}’ is a device node, a pipe or a socket", "leave it out")


def _of_archive(path: Path) -> Iterator[_Entry]:
    found = ARCHIVES.fullmatch(path.name)
    assert found is not None
    place = f"‘{path}’"
    try:
        with path.open("rb") as file:
            stream: IO[bytes] = decompressed(file, found[2] or found[3] or found[4], place)
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    name = check_path(member.name, place, own=True)
                    if member.isdir():
                        continue
                    if member.issym():
                        check_link(name, member.linkname, place, own=True)
                        yield _Entry(name, member.linkname, bytes)
                    elif member.isfile():
                        yield _Entry(name, "", partial(_content, archive, member, place))
                    else:
                        raise DamagedError(f"{place}: ‘{name}’ is a device node, a pipe or a hard link", "leave it out")
    except UNPACKING_ERRORS as error:
        raise DamagedError(f"{place} is damaged: {error}", "fetch it again") from error


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, place: str) -> bytes:
    if member.size > MODULE_LIMIT_BYTES:
        raise DamagedError(f"{place}: {member.name} has {member.size:,} bytes, at most {MODULE_LIMIT_BYTES:,} are read")
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def _common_folder(path: Path) -> str:
    """The one folder that everything lies in, as archives have it; "" when there is none."""
    tops = {entry.name.partition("/")[0] if "/" in entry.name else "" for entry in _entries(path)}
    return next(iter(tops)) + "/" if len(tops) == 1 and "" not in tops else ""


def _place(entry: _Entry, data: bytes, kind: str, top: str) -> str:
    """Where it belongs in a system, without the leading slash; "" leaves it out."""
    placed = _PLACED.fullmatch(entry.name)
    if placed and (FIRMWARE.fullmatch(placed[1]) or MODULE.fullmatch(placed[1])):
        return placed[1]
    if _KO.fullmatch(entry.name) and not entry.link:
        return f"lib/modules/{_built_for(data, entry.name)}/updates/{entry.name.rpartition('/')[2]}"
    if kind == FIRMWARE_KIND:
        return f"lib/firmware/{entry.name.removeprefix(top)}"
    return ""


def _built_for(data: bytes, name: str) -> str:
    magic = next((value for key, value in modinfo(data, name) if key == "vermagic"), "")
    if not magic:
        raise DamagedError(f"module {name} does not say which kernel it was built for", "put it below lib/modules/…")
    return magic.split()[0]


def _note(contents: Contents, architectures: set[str], place: str, data: bytes) -> None:
    contents.add_name(place)
    if not data or not contents.wants(place) or BUILTIN.fullmatch(place):
        return
    contents.add_file(place, data)
    elf = plain(data, place)
    number = int.from_bytes(elf[18:20], "little" if elf[5:6] == b"\x01" else "big")
    architectures.add(_MACHINES.get(number, f"ELF machine {number}"))


def _add(archive: tarfile.TarFile, place: str, link: str, data: bytes) -> None:
    member = tarfile.TarInfo(place)
    member.mode = 0o644
    if link:
        member.type, member.linkname = tarfile.SYMTYPE, link
    member.size = len(data)
    archive.addfile(member, BytesIO(data))
