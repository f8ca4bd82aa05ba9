"""Software that hardware may need: read from a package what it provides, keep it in a depot, find it again.

.deb ─► deb_package ──┐
.rpm ─► rpm_package ──┼─► package_contents ─► Component ─► component.xml + payload
files ─► loose_files ─┘
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agent.depot import catalogue
from agent.depot.catalogue import read_catalogue
from agent.depot.component_xml import LIMIT_BYTES, SAFE_NAME, dump_component, load_component
from agent.depot.deb_package import read_deb
from agent.depot.local import LocalDepot
from agent.depot.loose_files import ARCHIVES, AUTOMATIC, read_loose
from agent.depot.rpm_package import read_rpm
from agent.depot.signing import COMPONENT, TrustedKeys, read_signed
from agent.depot.store import CATALOGUE_FILE, Depot, WritableDepot
from agent.errors import DamagedError, NoImageError, UsageError
from agent.model.drivers import flavour_of
from agent.model.image import Component, ComponentFile
from agent.model.wording import size_text


@dataclass(frozen=True, slots=True)
class Said:
    """What the person who adds a component says of it; "" leaves it to the package."""

    id: str = ""
    version: str = ""
    for_os: str = ""  # "debian 12"
    kind: str = AUTOMATIC  # of files: auto, firmware, driver
    models: tuple[tuple[str, str], ...] = ()  # (vendor, product) globs


@dataclass(frozen=True, slots=True)
class Added:
    component: Component
    left_out: tuple[str, ...] = ()  # files of a directory or archive that are not installed


def add_component(depot: WritableDepot, path: Path, said: Said | None = None) -> Added:
    """Put a package, or files, into a depot: payload first, then the signed document that names it."""
    said = said or Said()
    # The depot may move what it is given; the package stays where its owner put it.
    with tempfile.TemporaryDirectory(dir=depot.staging, prefix="component-") as scratch:
        component, payload, left_out = _read(path, said, Path(scratch))
        size, sha256 = _digest(payload)
        name = f"{component.id}_{component.version.replace(':', '-')}_{component.architecture}{_suffix(component)}"
        component = replace(component, payload=(ComponentFile(name, sha256, size),))
        document = _document(component, path)
        _refuse_other_content(depot, component)
        depot.put_file(f"components/{component.id}/{component.version}/{name}", payload)
    depot.publish_component(document)
    return Added(component, left_out)


def component_from_deb(path: Path, for_os: str = "") -> tuple[Component, tuple[Path, ...]]:
    """What a .deb provides, and the files that are its payload."""
    component, payload, _ = _read(path, Said(for_os=for_os), None)
    size, sha256 = _digest(payload)
    name = f"{component.id}_{component.version.replace(':', '-')}_{component.architecture}.deb"
    return replace(component, payload=(ComponentFile(name, sha256, size),)), (path,)


def _read(path: Path, said: Said, scratch: Path | None) -> tuple[Component, Path, tuple[str, ...]]:
    """The component without its payload's name, the payload, what was left out."""
    left_out: tuple[str, ...] = ()
    if path.is_file() and path.name.endswith((".deb", ".rpm")):
        component, payload = (read_deb if path.name.endswith(".deb") else read_rpm)(path), path
        if said.id or said.version or said.kind != AUTOMATIC:
            raise UsageError(f"‘{path}’ names itself", "--id, --version and --as are for directories and archives")
        if scratch:
            payload = scratch / "package"
            shutil.copyfile(path, payload)
    elif scratch and (path.is_dir() or ARCHIVES.fullmatch(path.name)):
        payload = scratch / "files.tar.zst"
        loose = read_loose(path, said.kind, payload)
        component, left_out = loose.component, loose.left_out
        component = replace(component, id=said.id or component.id, version=said.version or component.version)
    else:
        raise UsageError(f"‘{path}’ is no component", "expected a .deb, an .rpm, a directory, or a .tar.gz, .xz, .zst")
    names = {"name": component.id, "version": component.version, "architecture": component.architecture}
    for what, text in names.items():
        if not SAFE_NAME.fullmatch(text):
            raise DamagedError(f"‘{path}’: {what} is {text!r}, expected {SAFE_NAME.pattern}")
    for_os = said.for_os or component.for_os
    flavour = flavour_of(component.kernel_release)
    return replace(component, for_os=for_os, models=said.models, flavour=flavour), payload, left_out


def _suffix(component: Component) -> str:
    return {"deb": ".deb", "rpm": ".rpm"}.get(component.package_format, ".tar.zst")


def _document(component: Component, path: Path) -> bytes:
    try:
        document = dump_component(component)
    except ValueError as error:  # lxml: a character that no document may hold
        raise DamagedError(f"‘{path}’ names something that cannot be written down: {error}") from error
    if len(document) > LIMIT_BYTES:
        raise UsageError(f"‘{path}’ provides too much: {size_text(len(document))}, at most {size_text(LIMIT_BYTES)}")
    return document


def _refuse_other_content(depot: WritableDepot, component: Component) -> None:
    """A plan pins a component by its digest: what has a version keeps it."""
    path = f"components/{component.id}/{component.version}/component.xml"
    known = any((c.id, c.version) == (component.id, component.version) for c in read_catalogue(depot).components)
    if known and load_component(depot.read(path)).payload != component.payload:
        raise UsageError(
            f"the depot has {component.id} {component.version} already, with other content",
            f"give it another version, or remove that one: ‘regraft component remove {component.id}="
            f"{component.version}’",
        )


def remove_component(depot: LocalDepot, name: str, version: str) -> None:
    """Out of the catalogue first, so that none can be chosen that is not whole; then its files."""
    with depot.locked():
        depot.write(CATALOGUE_FILE, catalogue.encode(catalogue.without_component(read_catalogue(depot), name, version)))
        folder = depot.root / "components" / name / version
        shutil.rmtree(folder, ignore_errors=True)
        if folder.parent.is_dir() and not any(folder.parent.iterdir()):
            folder.parent.rmdir()


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


def find_component(components: Sequence[Component], name: str) -> Component:
    """``ID``, which must leave one, or ``ID=VERSION``."""
    ident, _, version = name.partition("=")
    found = [one for one in components if one.id == ident and version in ("", one.version)]
    if len(found) == 1:
        return found[0]
    if found:
        versions = ", ".join(one.version for one in found)
        hint = f"name one: {ident}={found[0].version}"
        raise UsageError(f"the depot has several versions of {ident}: {versions}", hint)
    raise NoImageError(f"the depot has no component ‘{name}’", "list them with ‘regraft component list’")


def newest(components: Sequence[Component], name: str) -> Component | None:
    """The component of this id that the catalogue lists last."""
    return next((component for component in reversed(components) if component.id == name), None)


def _digest(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return path.stat().st_size, digest
