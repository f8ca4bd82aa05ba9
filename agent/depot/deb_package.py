"""A .deb, read as it is: an ar archive of two tar archives, in one pass and without unpacking it to disk.

The same on any machine that has a depot, whether Debian or not.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from agent.depot.package_contents import MODULE_LIMIT_BYTES, Contents, check_link, check_path
from agent.depot.unpacking import UNPACKING_ERRORS, decompressed
from agent.errors import DamagedError
from agent.model.image import Component

_AR_MAGIC = b"!<arch>\n"
_CONTROL_LIMIT_BYTES = 16 << 20
_FILE_NAME = re.compile(r"([^_]+)_[^_]+_[^_]+\.deb")
# What apt's solver looks at; of the rest it makes nothing.
_SOLVER_FIELDS = (
    "Package", "Version", "Architecture", "Multi-Arch", "Pre-Depends", "Depends", "Provides", "Conflicts", "Breaks",
    "Replaces",
)  # fmt: skip


def read_deb(path: Path) -> Component:
    """What a .deb provides; its payload is not named yet. Raises DamagedError."""
    with path.open("rb") as file:
        members = _members(file, path)
        control = _control(_open_member(file, members, "control", path), path)
        contents = _contents(_open_member(file, members, "data", path), path)
    name = control.get("Package", "")
    claimed = _FILE_NAME.fullmatch(path.name)
    if claimed and claimed[1] != name:
        raise DamagedError(
            f"‘{path}’ says in its control file that it is ‘{name}’", "fetch the package again, under its own name"
        )
    plain = Component(
        id=name,
        version=control.get("Version", ""),
        kind="other",
        architecture=control.get("Architecture", "all"),
        for_os=_vendor(control),
        package_format="deb",
        payload=(),
        depends=_relations(control),
        control="".join(f"{field}: {control[field]}\n" for field in _SOLVER_FIELDS if control.get(field)),
    )
    return contents.fill(plain)


def _members(file: IO[bytes], path: Path) -> dict[str, tuple[int, int]]:
    """ar members: name → (offset, size)."""
    if file.read(8) != _AR_MAGIC:
        raise DamagedError(f"‘{path}’ is not a Debian package: it does not begin with {_AR_MAGIC!r}")
    found: dict[str, tuple[int, int]] = {}
    while header := file.read(60):
        begin = file.tell() - len(header)
        try:
            size = int(header[48:58])
        except ValueError:
            raise DamagedError(f"‘{path}’: ar header at byte {begin:,} is damaged") from None
        name = header[:16].decode("ascii", "replace").strip().rstrip("/")
        found[name] = (begin + len(header), size)
        file.seek(size + size % 2, io.SEEK_CUR)
    return found


class _Part(io.RawIOBase):
    """A range of a file as a file."""

    def __init__(self, file: IO[bytes], offset: int, size: int) -> None:
        self._file, self._left = file, size
        file.seek(offset)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer))
        data = self._file.read(min(len(view), self._left))
        view[: len(data)] = data
        self._left -= len(data)
        return len(data)


def _open_member(file: IO[bytes], members: dict[str, tuple[int, int]], which: str, path: Path) -> IO[bytes]:
    """The decompressed tar archive ``control`` or ``data``."""
    name = next((name for name in members if name == f"{which}.tar" or name.startswith(f"{which}.tar.")), "")
    if not name:
        raise DamagedError(f"‘{path}’ is not a Debian package: it has no {which}.tar")
    part = io.BufferedReader(_Part(file, *members[name]), 1 << 20)
    return decompressed(part, name.rpartition(".")[2], f"‘{path}’")


@contextmanager
def _tar(stream: IO[bytes]) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            yield archive
    except UNPACKING_ERRORS as error:
        raise DamagedError(f"the package's archive is damaged: {error}", "fetch the package again") from error


def _control(stream: IO[bytes], path: Path) -> dict[str, str]:
    with _tar(stream) as archive:
        for member in archive:
            if member.isfile() and member.name.removeprefix("./") == "control" and member.size < _CONTROL_LIMIT_BYTES:
                file = archive.extractfile(member)
                assert file is not None
                return _fields(file.read().decode("utf-8", "replace"))
    raise DamagedError(f"‘{path}’ is not a Debian package: it has no control file")


def _fields(text: str) -> dict[str, str]:
    """The fields of one paragraph, continuation lines joined."""
    joined = re.sub(r"\n[ \t]+", " ", text.strip("\n").partition("\n\n")[0])
    return {key: value.strip() for key, _, value in (line.partition(":") for line in joined.splitlines()) if value}


def _contents(stream: IO[bytes], path: Path) -> Contents:
    contents, place = Contents(f"‘{path}’"), f"‘{path}’"
    with _tar(stream) as archive:
        for member in archive:
            name = check_path(member.name, place)
            if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
                raise DamagedError(f"{place}: ‘{name}’ is a device node or a pipe", "no driver needs one")
            if member.issym():
                check_link(name, member.linkname, place)
            elif member.islnk():
                check_path(member.linkname, place)
            if member.isdir():
                continue
            contents.add_name(name)
            if member.isfile() and contents.wants(name):
                if member.size > MODULE_LIMIT_BYTES:
                    raise DamagedError(f"{name} has {member.size:,} bytes, at most {MODULE_LIMIT_BYTES:,} are read")
                file = archive.extractfile(member)
                assert file is not None
                contents.add_file(name, file.read())
    return contents


def _vendor(control: dict[str, str]) -> str:
    """The vendor's os-release ID, as far as the package tells: its version's suffix, or who maintains it."""
    release = re.search(r"[+~]deb(\d+)u", control.get("Version", ""))
    if release:
        return f"debian {release[1]}"
    maintainer = control.get("Maintainer", "").lower()
    return next((vendor for vendor in ("ubuntu", "debian") if vendor in maintainer), "")


def _relations(control: dict[str, str]) -> tuple[str, ...]:
    texts = [control.get("Pre-Depends", ""), control.get("Depends", "")]
    return tuple(relation.strip() for text in texts for relation in text.split(",") if relation.strip())
