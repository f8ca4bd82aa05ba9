"""The catalogue made again from what lies in a depot's directory: all that it says stands elsewhere, too.

Only what is signed by a trusted key gets in; what is not, or is damaged, is named and left where it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agent.depot import catalogue
from agent.depot.component_xml import LIMIT_BYTES, load_component
from agent.depot.local import LocalDepot, compact_time
from agent.depot.signing import COMPONENT, MANIFEST, PROFILE, TrustedKeys, read_signed
from agent.depot.store import CATALOGUE_FILE, FORMAT, SMALL_FILE_LIMIT_BYTES, image_path, profile_path
from agent.errors import DamagedError, RegraftError
from agent.model.fingerprint import hardware_fingerprint
from agent.model.profile_xml import load_profile

Facts = TypeVar("Facts")


@dataclass(frozen=True, slots=True)
class Reindexed:
    """How much the new catalogue names, and what was left out: path and reason."""

    images: int
    profiles: int
    components: int
    left_out: tuple[tuple[str, str], ...]


def reindex(depot: LocalDepot, keys: TrustedKeys) -> Reindexed:
    """Write catalogue.json anew, under the lock."""
    left_out: list[tuple[str, str]] = []

    def gather(pattern: str, read: Callable[[str], Facts]) -> Iterator[Facts]:
        for path in _paths(depot.root, pattern):
            try:
                yield read(path)
            except FileNotFoundError:
                continue  # gone meanwhile
            except RegraftError as error:
                left_out.append((path, error.message))

    with depot.locked():
        images = tuple(gather("machines/*/images/*.json", lambda path: _image(depot, keys, path)))
        profiles = tuple(gather("machines/*/profiles/*.xml", lambda path: _profile(depot, keys, path)))
        components = tuple(gather("components/*/*/component.xml", lambda path: _component(depot, keys, path)))
        index = catalogue.Catalogue(
            format=FORMAT, depot=depot.id, images=images, profiles=profiles, components=components
        )
        depot.write(CATALOGUE_FILE, catalogue.encode(index))
    return Reindexed(len(images), len(profiles), len(components), tuple(left_out))


def _paths(root: Path, pattern: str) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.glob(pattern))


def _image(depot: LocalDepot, keys: TrustedKeys, path: str) -> catalogue.ImageFacts:
    data = read_signed(depot, keys, MANIFEST, path, SMALL_FILE_LIMIT_BYTES)
    manifest = catalogue.decode_manifest(data, path)
    _refuse_misplaced(path, image_path(manifest.machine, manifest.time))
    return catalogue.image_facts(manifest, hashlib.sha256(data).hexdigest())


def _profile(depot: LocalDepot, keys: TrustedKeys, path: str) -> catalogue.ProfileFacts:
    xml = read_signed(depot, keys, PROFILE, path, catalogue.PROFILE_LIMIT_BYTES)
    profile = load_profile(xml)
    time = compact_time(profile.time)
    _refuse_misplaced(path, profile_path(profile.machine, time))
    return catalogue.ProfileFacts(
        machine=profile.machine, time=time, sha256=hashlib.sha256(xml).hexdigest(),
        fingerprint=hardware_fingerprint(profile),
    )  # fmt: skip


def _component(depot: LocalDepot, keys: TrustedKeys, path: str) -> catalogue.ComponentFacts:
    xml = read_signed(depot, keys, COMPONENT, path, LIMIT_BYTES)
    component = load_component(xml)
    _refuse_misplaced(path, f"components/{component.id}/{component.version}/component.xml")
    return catalogue.ComponentFacts(
        id=component.id, version=component.version, kind=component.kind, sha256=hashlib.sha256(xml).hexdigest()
    )


def _refuse_misplaced(path: str, expected: str) -> None:
    if path != expected:
        raise DamagedError(f"{path} says of itself that it is {expected}")
