"""Small rpms for tests: headers made here, whole packages by rpmbuild."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.model.rpm_header import ARCH, BASENAMES, DIR_INDEXES, DIRNAMES, NAME, RELATIONS, RELEASE, VERSION
from agent.process import run

Value = str | Sequence[str] | Sequence[int]


def header(tags: Mapping[int, Value]) -> bytes:
    """As rpm's database holds it: without the magic."""
    index, data = b"", b""
    for tag, value in sorted(tags.items()):
        if isinstance(value, str):
            kind, count, raw = 6, 1, value.encode() + b"\0"
        elif value and isinstance(value[0], int):
            data += bytes(-len(data) % 4)
            kind, count, raw = 4, len(value), struct.pack(f">{len(value)}I", *value)
        else:
            kind, count, raw = 8, len(value), b"".join(str(text).encode() + b"\0" for text in value)
        index += struct.pack(">IIII", tag, kind, len(data), count)
        data += raw
    return struct.pack(">II", len(index) // 16, len(data)) + index + data


def installed(
    name: str,
    version: str,
    release: str,
    architecture: str = "x86_64",
    requires: Sequence[str] = (),
    files: Sequence[str] = (),
    provides: Sequence[str] = (),
) -> bytes:
    """A header of an installed package. Relations: ‘NAME’ or ‘NAME = VERSION’."""
    folders = sorted({path.rpartition("/")[0] + "/" for path in files})
    tags: dict[int, Value] = {NAME: name, VERSION: version, RELEASE: release, ARCH: architecture}
    for which, told in (("provides", [f"{name} = {version}-{release}", *provides]), ("requires", requires)):
        if told:
            names, signs, versions = zip(*(one.partition(" = ") for one in told), strict=True)
            tags |= dict(zip(RELATIONS[which], (names, [8 * bool(sign) for sign in signs], versions), strict=True))
    if files:
        tags |= {
            DIRNAMES: folders,
            BASENAMES: [path.rpartition("/")[2] for path in files],
            DIR_INDEXES: [folders.index(path.rpartition("/")[0] + "/") for path in files],
        }
    return header(tags)


def ndb(headers: Sequence[bytes]) -> bytes:
    """Packages.db with those packages, and a slot of one that was removed."""
    slots, blobs = b"", b""
    for number, blob in enumerate(headers, 1):
        begin = 4096 + len(blobs)
        blobs += struct.pack("<4sIII", b"BlbS", number, 0, len(blob)) + blob
        blobs += struct.pack("<II4s", 0, len(blob), b"BlbE")
        blobs += bytes(-len(blobs) % 16)
        slots += struct.pack("<4sIII", b"Slot", number, begin // 16, len(blob) // 16 + 2)
        slots += struct.pack("<4sIII", b"Slot", 0, 0, 0)
    rest = (4096 - 32 - len(slots)) // 16
    return struct.pack("<4sIIIIIII", b"RpmP", 0, 1, 1, 9, 0, 0, 0) + slots + b"Slot".ljust(16, b"\0") * rest + blobs


def build(folder: Path, name: str, version: str = "1", release: str = "1", *, head: str = "", body: str = "",
          files: Mapping[str, bytes] | None = None, architecture: str = "noarch") -> Path:  # fmt: skip
    """A real package, by rpmbuild. ``head``: more lines of the preamble; ``body``: sections such as %post."""
    sources = folder / f"{name}-{version}-{release}-files"
    listed = []
    for path, data in (files or {}).items():
        place = sources / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        listed.append(path)
    sources.mkdir(parents=True, exist_ok=True)
    spec = folder / f"{name}.spec"
    spec.write_text(
        f"Name: {name}\nVersion: {version}\nRelease: {release}\nSummary: test\nLicense: MIT\nAutoReqProv: no\n"
        f"BuildArch: {architecture}\n{head}\n%description\ntest\n%install\ncp -a {sources}/. %{{buildroot}}/\n"
        f"{body}\n%files\n" + "".join(f'"{path}"\n' for path in listed)
    )
    run(["rpmbuild", "-bb", "--quiet", "--define", f"_topdir {folder}/top", "--define", "__os_install_post %{nil}",
         "--target", architecture, str(spec)])  # fmt: skip
    return next((folder / "top/RPMS").rglob(f"{name}-{version}-{release}.{architecture}.rpm"))
