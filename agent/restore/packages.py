"""Packages of the restored system: put in and taken out by its own dpkg or rpm; files without a package by us.

.deb      dpkg in the sandbox
.rpm      rpm in the sandbox
.tar.zst  unpacked inside the root, then depmod; /var/lib/regraft/components remembers what it was
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import zstandard

from agent.errors import PatchError
from agent.model.rpm_header import component_version
from agent.probe.live_tree import LiveTree
from agent.probe.rpm_packages import database, read_rpm_packages
from agent.restore.inside import InsideRoot
from agent.restore.sandbox import VISIBLE, Sandbox

KEPT = "/var/lib/regraft/components"
_STATUS = "/var/lib/dpkg/status"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]*")  # nothing that a program would take for an option
_STATUS_LIMIT_BYTES = 256 << 20
_RELEASE = re.compile(r"lib/modules/([A-Za-z0-9][A-Za-z0-9._+~-]*)/.+")
# Kernels stand beside one another; everything else of a name replaces what was there.
_SIDE_BY_SIDE = re.compile(r"kernel(-(core|modules.*|default.*|rt.*|64k.*|debug.*|uki.*|devel.*))?-\d")
_MISSING = re.compile(r"^\s*(\S.*) is needed by (.+)$", re.MULTILINE)


def package_versions(inside: InsideRoot, name: str) -> tuple[str, ...]:
    """Versions of an installed package by the system's own database; () when it is not (wholly) installed.

    As those of components are said: rpm's ‘^’ is ‘~’.
    """
    kept = inside.read(f"{KEPT}/{name}") if "/" not in name else None
    if kept is not None:
        return (kept.decode("utf-8", "replace").partition("\n")[0],)
    if inside.exists(_STATUS):
        return tuple(_dpkg_versions(inside, name))
    tree = LiveTree(inside.root)
    if not database(tree):
        return ()
    packages, why = read_rpm_packages(tree)
    if why:
        raise PatchError(why, "repair rpm's database on the source and capture again")
    return tuple(component_version(package.version) for package in packages if package.name == name)


def package_state(inside: InsideRoot, name: str) -> str:
    """Version of an installed package, the last one where several stand side by side; "" when there is none."""
    return next(iter(package_versions(inside, name)[-1:]), "")


def _dpkg_versions(inside: InsideRoot, name: str) -> Iterator[str]:
    status = (inside.read(_STATUS, _STATUS_LIMIT_BYTES) or b"").decode("utf-8", "replace")
    for paragraph in status.split("\n\n"):
        if f"\nPackage: {name}\n" in f"\n{paragraph}\n":
            fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
            if fields.get("Status", "").endswith(" installed"):
                yield fields.get("Version", "")


def install(inside: InsideRoot, sandbox: Sandbox, payloads: Mapping[str, Sequence[Path]]) -> None:
    """Install these files (ID=VERSION → its files) together. Raises PatchError with what the package tool said."""
    named = [(name, file) for name, files in payloads.items() for file in files]
    debs = [file for _, file in named if file.name.endswith(".deb")]
    rpms = [file for _, file in named if file.name.endswith(".rpm")]
    if debs:
        sandbox.install_deb(debs)
    if rpms:
        install_rpm(sandbox, rpms)
    for name, file in named:
        if file not in debs and file not in rpms:
            unpack(inside, sandbox, file, name)


def installed(inside: InsideRoot, names: Sequence[str]) -> dict[str, str]:
    """Which of these packages are (wholly) installed, with their versions, in the order given."""
    wrong = [name for name in names if not _NAME.fullmatch(name)]
    if wrong:
        raise PatchError(f"‘{wrong[0]}’ is no name of a package")
    found = {name: package_state(inside, name) for name in names}
    return {name: version for name, version in found.items() if version}


def remove(inside: InsideRoot, sandbox: Sandbox, names: Sequence[str], limit_s: float) -> None:
    """Remove them in one go. Raises PatchError with what the tool said, or when it took longer than ``limit_s``."""
    if inside.exists(_STATUS):
        sandbox.remove_deb(names, limit_s)
    else:
        sandbox.remove_rpm(names, limit_s)


def install_rpm(sandbox: Sandbox, files: Sequence[Path]) -> None:
    """One transaction for what replaces, one for what is added beside; signatures are the depot's business."""
    beside = [file for file in files if _SIDE_BY_SIDE.match(file.name.replace("_", "-", 1))]
    for words, chosen in (
        (["--upgrade", "--oldpackage", "--replacepkgs"], [file for file in files if file not in beside]),
        (["--install", "--replacepkgs"], beside),
    ):
        if chosen:
            _rpm(sandbox, [*words, *(f"{VISIBLE}/{file.name}" for file in chosen)], chosen)


def _rpm(sandbox: Sandbox, words: list[str], files: Sequence[Path]) -> None:
    try:
        sandbox.run(["rpm", "--nosignature", *words], files=files)
    except PatchError as error:
        needed = [f"{by} needs {what}" for what, by in _MISSING.findall(error.message)]
        if needed:
            hint = "add the missing packages to the depot with ‘regraft component add’"
            raise PatchError(f"rpm cannot install: {'; '.join(needed)}", hint) from error
        raise


def unpack(inside: InsideRoot, sandbox: Sandbox, archive: Path, name: str) -> None:
    """Put a component of files (ID=VERSION) where its paths say, and remember it.

    The archive's own name does not tell the two apart: an id may hold ‘_’, and ‘:’ of a version is ‘-’ there.
    """
    releases, paths = set(), []
    with (
        archive.open("rb") as file,
        zstandard.ZstdDecompressor().stream_reader(file) as plain,
        tarfile.open(fileobj=plain, mode="r|") as members,
    ):
        for member in members:
            _unpack_one(inside, members, member, archive.name)
            paths.append(f"/{member.name}")
            if found := _RELEASE.fullmatch(member.name):
                releases.add(found[1])
    for release in sorted(releases):
        if not inside.exists(f"/lib/modules/{release}/modules.dep"):
            raise PatchError(f"{archive.name} is for kernel {release}, which the restored system does not have")
        sandbox.run(["depmod", "-a", release])
    ident, _, version = name.partition("=")
    inside.write(f"{KEPT}/{ident}", "\n".join([version, *paths, ""]).encode())


def _unpack_one(inside: InsideRoot, members: tarfile.TarFile, member: tarfile.TarInfo, place: str) -> None:
    path = f"/{member.name}"
    if ".." in member.name.split("/") or not member.name.startswith(("lib/firmware/", "lib/modules/")):
        raise PatchError(f"{place}: ‘{member.name}’ is no place of firmware or a driver")
    if member.issym():
        inside.link(path, member.linkname)
    elif member.isfile():
        content = members.extractfile(member)
        assert content is not None
        inside.write(path, content.read(), 0o644)
    else:
        raise PatchError(f"{place}: ‘{member.name}’ is neither a file nor a link")
