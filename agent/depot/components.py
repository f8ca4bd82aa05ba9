"""Software that hardware may need: read from a package what it provides, keep it in a depot, find it again.

    linux-image-….deb ──► control, list of files, modinfo of every module ──► Component ──► component.xml + payload

A .deb is read as it is, an ar archive of two tar archives, in one pass and without unpacking it to disk: the same on
any machine that has a depot, whether Debian or not.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

import zstandard

from agent.depot.catalogue import read_catalogue
from agent.depot.component_xml import LIMIT_BYTES, SAFE_NAME, dump_component, load_component
from agent.depot.signing import COMPONENT, TrustedKeys, read_signed
from agent.depot.store import Depot, WritableDepot
from agent.errors import DamagedError, UsageError
from agent.model.drivers import flavour_of, fold, module_name
from agent.model.image import Component, ComponentFile
from agent.model.modinfo import modinfo
from agent.model.wording import size_text

_AR_MAGIC = b"!<arch>\n"
_CONTROL_LIMIT_BYTES = 16 << 20
_MODULE_LIMIT_BYTES = 256 << 20
_MODULE = re.compile(r"(?:usr/)?lib/modules/([^/]+)/.+\.ko(\.xz|\.zst|\.gz)?")
_BUILTIN = re.compile(r"(?:usr/)?lib/modules/([^/]+)/modules\.builtin")
_FIRMWARE = re.compile(r"(?:usr/)?lib/firmware/(.+)")
_KERNEL = re.compile(r"boot/vmlinuz-(.+)|(?:usr/)?lib/modules/([^/]+)/vmlinuz")


@dataclass
class _Contents:
    """What the files of a package say, gathered in one pass."""

    release: str = ""
    kernel: bool = False
    modules: list[str] = field(default_factory=list)
    modaliases: list[str] = field(default_factory=list)
    builtin: list[str] = field(default_factory=list)
    firmware: list[str] = field(default_factory=list)
    needs_firmware: set[str] = field(default_factory=set)
    loader: bool = False


def component_from_deb(path: Path, for_os: str = "") -> tuple[Component, tuple[Path, ...]]:
    """What a .deb provides, and the files that are its payload.

    ``for_os`` ("debian 12") may say for which system it is; a package itself only tells the vendor.
    """
    with path.open("rb") as file:
        members = _members(file, path)
        control = _control(_open_member(file, members, "control", path), path)
        contents = _contents(_open_member(file, members, "data", path))
    name, version = control.get("Package", ""), control.get("Version", "")
    for what, text in (("package name", name), ("version", version)):
        if not SAFE_NAME.fullmatch(text):
            raise DamagedError(f"‘{path}’: {what} is {text!r}, expected {SAFE_NAME.pattern}")
    size, sha256 = _digest(path)
    component = Component(
        id=name,
        version=version,
        kind=_kind(contents),
        architecture=control.get("Architecture", "all"),
        for_os=for_os or _vendor(control),
        package_format="deb",
        payload=(
            ComponentFile(f"{name}_{version.replace(':', '-')}_{control.get('Architecture', 'all')}.deb", sha256, size),
        ),
        kernel_release=contents.release,
        flavour=flavour_of(contents.release),
        modaliases=tuple(sorted(contents.modaliases, key=lambda line: line.rpartition(" ")[::-1])),
        modules=tuple(sorted(contents.modules)),
        builtin=tuple(sorted(contents.builtin)),
        firmware=tuple(sorted(contents.firmware)),
        needs_firmware=tuple(sorted(contents.needs_firmware)),
        depends=_relations(control),
    )
    return component, (path,)


def add_package(depot: WritableDepot, path: Path, for_os: str = "") -> Component:
    """Put a package into a depot: payload first, then the signed document that names it."""
    if not path.name.endswith(".deb"):
        raise UsageError(f"‘{path}’ is not a .deb package", "other package formats cannot be read yet")
    component, files = component_from_deb(path, for_os)
    document = dump_component(component)
    if len(document) > LIMIT_BYTES:
        raise UsageError(f"‘{path}’ provides too much: {size_text(len(document))}, at most {size_text(LIMIT_BYTES)}")
    folder = f"components/{component.id}/{component.version}"
    for source, payload in zip(files, component.payload, strict=True):
        # The depot may move what it is given; the package stays where its owner put it.
        with tempfile.TemporaryDirectory(dir=depot.staging, prefix="component-") as scratch:
            copy = Path(scratch) / payload.path
            shutil.copyfile(source, copy)
            depot.put_file(f"{folder}/{payload.path}", copy)
    depot.publish_component(document)
    return component


def list_components(depot: Depot, trust: TrustedKeys) -> tuple[Component, ...]:
    """Every component of a depot whose signature is good, in the order of the catalogue."""
    found = []
    for facts in read_catalogue(depot).components:
        for what, text in (("id", facts.id), ("version", facts.version)):
            if not SAFE_NAME.fullmatch(text):
                raise DamagedError(f"the catalogue names a component with {what} {text!r}")
        path = f"components/{facts.id}/{facts.version}/component.xml"
        component = load_component(read_signed(depot, trust, COMPONENT, path, LIMIT_BYTES))
        if (component.id, component.version) != (facts.id, facts.version):
            raise DamagedError(f"{path} is of {component.id} {component.version}")
        found.append(component)
    return tuple(found)


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
    return _decompressed(part, name.rpartition(".")[2], path)


def _decompressed(stream: IO[bytes], suffix: str, path: Path) -> IO[bytes]:
    match suffix:
        case "xz" | "lzma":
            return lzma.LZMAFile(stream)
        case "zst":
            return cast(IO[bytes], zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True))
        case "gz":
            return cast(IO[bytes], gzip.GzipFile(fileobj=stream))
        case "bz2":
            return bz2.BZ2File(stream)
        case "tar":
            return stream
    raise DamagedError(f"‘{path}’ is compressed by .{suffix}, expected xz, zst, gz or bz2")


@contextmanager
def _tar(stream: IO[bytes]) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            yield archive
    except (tarfile.TarError, lzma.LZMAError, zstandard.ZstdError, EOFError, OSError) as error:
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
    joined = re.sub(r"\n[ \t]+", " ", text)
    return {key: value.strip() for key, _, value in (line.partition(":") for line in joined.splitlines()) if value}


def _contents(stream: IO[bytes]) -> _Contents:
    contents = _Contents()
    with _tar(stream) as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if kernel := _KERNEL.fullmatch(name):
                contents.kernel = True
                contents.release = contents.release or kernel[1] or kernel[2]
            elif firmware := _FIRMWARE.fullmatch(name):
                if not member.isdir():
                    contents.firmware.append(firmware[1])
            elif member.isfile() and (_MODULE.fullmatch(name) or _BUILTIN.fullmatch(name)):
                if member.size > _MODULE_LIMIT_BYTES:
                    raise DamagedError(f"{name} has {member.size:,} bytes, at most {_MODULE_LIMIT_BYTES:,} are read")
                file = archive.extractfile(member)
                assert file is not None
                _add_kernel_file(contents, name, file.read())
            elif name.startswith(("usr/lib/grub/", "usr/lib/shim/", "usr/lib/systemd/boot/efi/")):
                contents.loader = True
    return contents


def _add_kernel_file(contents: _Contents, name: str, data: bytes) -> None:
    builtin = _BUILTIN.fullmatch(name)
    if builtin:
        contents.release = builtin[1]
        contents.builtin += [module_name(line) for line in data.decode("utf-8", "replace").split()]
        return
    found = _MODULE.fullmatch(name)
    assert found is not None
    contents.release = contents.release or found[1]
    module = module_name(name)
    contents.modules.append(module)
    for key, value in modinfo(data, name):
        if key == "alias":
            contents.modaliases.append(f"{value} {fold(module)}")
        elif key == "firmware":
            contents.needs_firmware.add(f"{value} {module}")


def _kind(contents: _Contents) -> str:
    if contents.kernel and contents.modules:
        return "kernel"
    if contents.modules:
        return "driver"
    if contents.firmware:
        ucode = all(name.startswith(("intel-ucode/", "amd-ucode/")) for name in contents.firmware)
        return "microcode" if ucode else "firmware"
    return "loader" if contents.loader else "other"


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


def _digest(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return path.stat().st_size, digest


def newest(components: Sequence[Component], name: str) -> Component | None:
    """The component of this id that the catalogue lists last."""
    return next((component for component in reversed(components) if component.id == name), None)
