"""An .rpm: a lead, a header with signatures, the header, and a compressed cpio archive. Read without rpm.

rpm, docs/manual/format_v4.md.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from agent.depot.package_contents import MODULE_LIMIT_BYTES, Contents, check_link, check_path
from agent.depot.unpacking import UNPACKING_ERRORS, decompressed
from agent.errors import DamagedError
from agent.model.component_fit import EL, EL_SYSTEMS
from agent.model.image import Component
from agent.model.rpm_header import (
    COMPRESSOR,
    DISTRIBUTION,
    LIMIT_BYTES,
    LINKS,
    MAGIC,
    MODES,
    SOURCE_RPM,
    VENDOR,
    RpmHeader,
    component_version,
    package_xml,
)

_LEAD_BYTES, _LEAD_MAGIC = 96, b"\xed\xab\xee\xdb"
_FILE_NAME = re.compile(r"(.+)-[^-]+-[^-]+\.[^.]+\.rpm")
_CPIO_HEADER_BYTES, _NAME_LIMIT_BYTES, _PIECE = 110, 4096, 1 << 20
# words in Vendor and Distribution → os-release ID; "" where they may mean several systems
_VENDORS = (("fedora", "fedora"), ("rocky", "rocky"), ("almalinux", "almalinux"), ("oracle", "ol"),
            ("centos", "centos"), ("red hat", "rhel"), ("tumbleweed", "opensuse-tumbleweed"),
            ("suse linux enterprise", "sles"), ("opensuse leap", "opensuse-leap"), ("opensuse", ""),
            ("suse", "sles"))  # fmt: skip
_MARKS = {"el": EL_SYSTEMS, "fc": ("fedora",)}  # of a release: ``.el9``, ``.fc40``


def read_rpm(path: Path) -> Component:
    """What an .rpm provides; its payload is not named yet. Raises DamagedError."""
    place = f"‘{path}’"
    with path.open("rb") as file:
        if file.read(_LEAD_BYTES)[:4] != _LEAD_MAGIC:
            raise DamagedError(f"{place} is not an rpm: it does not begin with {_LEAD_MAGIC!r}")
        signatures = _header(file, place)
        file.read(-signatures.length % 8)
        header = _header(file, place)
        contents = _contents(header, file, place)
    claimed = _FILE_NAME.fullmatch(path.name)
    if claimed and claimed[1] != header.name:
        raise DamagedError(
            f"{place} says in its header that it is ‘{header.name}’", "fetch the package again, under its own name"
        )
    if not header.text(SOURCE_RPM):
        raise DamagedError(f"{place} is a source package", "build it, and add what that gives")
    plain = Component(
        id=header.name,
        version=component_version(header.version),
        kind="other",
        architecture=header.architecture,
        for_os=_vendor(header),
        package_format="rpm",
        payload=(),
        depends=tuple(str(one) for one in dict.fromkeys(header.relations("requires"))
                      if not one.name.startswith("rpmlib(")),
        control=package_xml(header),
    )  # fmt: skip
    return contents.fill(plain)


def _header(file: IO[bytes], place: str) -> RpmHeader:
    begin = file.read(16)
    entries, size = int.from_bytes(begin[8:12], "big"), int.from_bytes(begin[12:16], "big")
    if begin[:4] != MAGIC or 16 * entries + size > LIMIT_BYTES:
        raise DamagedError(f"{place}: a header begins with {begin[:4]!r}, expected {MAGIC!r} and at most 64 MiB")
    return RpmHeader(begin[8:] + file.read(16 * entries + size), place)


def _contents(header: RpmHeader, file: IO[bytes], place: str) -> Contents:
    contents, listed = Contents(place), set()
    modes, links = header.numbers(MODES), header.texts(LINKS)
    for number, path in enumerate(header.files()):
        name = check_path(path.removeprefix("/"), place)
        mode = modes[number] if number < len(modes) else 0
        if stat.S_ISDIR(mode):
            continue
        if stat.S_ISLNK(mode):
            check_link(name, links[number] if number < len(links) else "", place)
        elif not stat.S_ISREG(mode):
            raise DamagedError(f"{place}: ‘{name}’ is a device node or a pipe", "no driver needs one")
        contents.add_name(name)
        listed.add(name)
    try:
        for name, data in _files(decompressed(file, header.text(COMPRESSOR) or "gzip", place), contents, place):
            if name not in listed:
                raise DamagedError(f"{place}: its archive has ‘{name}’, which its header does not list")
            contents.add_file(name, data)
    except UNPACKING_ERRORS as error:
        raise DamagedError(f"{place}: its archive is damaged: {error}", "fetch the package again") from error
    return contents


def _files(stream: IO[bytes], contents: Contents, place: str) -> Iterator[tuple[str, bytes]]:
    """The wanted files of a cpio archive (newc)."""
    while True:
        head = _exactly(stream, _CPIO_HEADER_BYTES, place)
        if head[:6] not in (b"070701", b"070702"):
            raise DamagedError(f"{place}: an entry of its archive begins with {head[:6]!r}, expected 070701")
        try:
            mode, size, length = (int(head[6 + 8 * field : 14 + 8 * field], 16) for field in (1, 6, 11))
        except ValueError:
            raise DamagedError(f"{place}: an entry of its archive is damaged") from None
        if not 0 < length <= _NAME_LIMIT_BYTES:
            raise DamagedError(f"{place}: a name of {length:,} bytes in its archive")
        raw = _exactly(stream, length + -(_CPIO_HEADER_BYTES + length) % 4, place)[: length - 1]
        name = raw.decode("utf-8", "replace")
        if name == "TRAILER!!!":
            return
        plain = check_path(name, place)
        wanted = stat.S_ISREG(mode) and contents.wants(plain) and size > 0
        if wanted and size > MODULE_LIMIT_BYTES:
            raise DamagedError(f"{place}: {name} has {size:,} bytes, at most {MODULE_LIMIT_BYTES:,} are read")
        if wanted:
            yield plain, _exactly(stream, size, place)
        else:
            _skip(stream, size, place)
        _exactly(stream, -size % 4, place)


def _exactly(stream: IO[bytes], size: int, place: str) -> bytes:
    data = stream.read(size) if size else b""
    while len(data) < size:
        more = stream.read(size - len(data))
        if not more:
            raise DamagedError(f"{place}: its archive ends in the middle", "fetch the package again")
        data += more
    return data


def _skip(stream: IO[bytes], size: int, place: str) -> None:
    while size:
        size -= len(_exactly(stream, min(size, _PIECE), place))


def _vendor(header: RpmHeader) -> str:
    """The os-release ID that it is made for, with the version where it tells it; "" where it is not sure."""
    vendor = header.text(VENDOR)
    # The Open Build Service names a project on openSUSE's host (obs://build.opensuse.org/…), whatever it builds for.
    said = f"{'' if vendor.startswith('obs:') else vendor} {header.text(DISTRIBUTION)}".lower().replace("_", " ")
    system = next((name for word, name in _VENDORS if word in said), "")
    mark = re.search(r"\.(el|fc)(\d+)", header.version)
    if mark and system not in _MARKS[mark[1]]:
        # EPEL is Fedora's, for every system of the RHEL family; others with a foreign mark (SUSE Liberty) do not say.
        system = EL if (system, mark[1]) == ("fedora", "el") else ""
    number = mark[2] if mark else "".join(re.findall(r"suse linux enterprise (\d+)", said)[:1])
    return f"{system} {number}" if system and number else system
