"""What every depot can do, wherever it lives. The layout of its files: docs/formats.md.

Readers need three verbs, so that anything that serves files is a depot. Writers publish in one order: packs,
listing, profile, manifest; the catalogue last.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import msgspec

from agent.errors import DamagedError, UsageError
from agent.model.image import Manifest, ObjectRef
from agent.model.undecodable import UNDECODABLE

FORMAT = 1
DEPOT_FILE = "depot.json"
DEPOT_FILE_LIMIT_BYTES = 64 << 10
CATALOGUE_FILE = "catalogue.json"
RECIPES_FILE = "recipes/bundle.json"
SMALL_FILE_LIMIT_BYTES = 64 << 20
SHA256 = re.compile(r"[0-9a-f]{64}")
ID = re.compile(r"[0-9a-f-]{8,64}")
# The only features a reader of this version knows; a depot that names another is refused.
KNOWN_FEATURES: frozenset[str] = frozenset()


class DepotInfo(msgspec.Struct, frozen=True, kw_only=True):
    """depot.json."""

    format: int
    id: str
    features: tuple[str, ...] = ()
    public_key: str = ""  # for people and for pinning a local depot; never by itself a reason to trust


@dataclass(frozen=True, slots=True)
class Published:
    """A profile that is in the depot."""

    machine: str
    time: str  # 20261123T204140Z
    sha256: str
    path: str


class Depot(Protocol):
    """A depot to read from. Paths are relative to its root, ``packs/ab/<sha256>.pack``."""

    @property
    def location(self) -> str:
        """The directory or URL, as people wrote it."""

    @property
    def is_remote(self) -> bool:
        """Whether a network lies between: a read then waits without using a processor."""

    def read(self, path: str, limit_bytes: int = SMALL_FILE_LIMIT_BYTES) -> bytes:
        """A whole small file. Raises FileNotFoundError, and DamagedError when it is larger than the limit."""

    def read_into(self, path: str, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``offset``, or raise: FileNotFoundError, DamagedError where the file is too short."""

    def exists(self, path: str, size_bytes: int | None = None) -> bool:
        """Whether the file is there, and has so many bytes, where that can be told without reading it."""


class WritableDepot(Depot, Protocol):
    """A depot to publish into."""

    @property
    def staging(self) -> Path | None:
        """A directory from which `put_file` can move without copying; None: any directory is as good."""

    def put_file(self, path: str, source: Path) -> None:
        """Store ``source`` at ``path``. It may be moved there: it is no longer the caller's."""

    def publish_profile(self, xml: bytes) -> Published:
        """Store and sign a profile document."""

    def publish_image(self, manifest: bytes) -> None:
        """Check that everything the manifest names is there, sign it, and enter it into the catalogue."""

    def publish_component(self, xml: bytes) -> None:
        """Sign a component.xml whose payload is there, and enter it into the catalogue."""

    def publish_recipes(self, bundle: bytes) -> None:
        """Sign the site's recipes, a `model.recipe_bundle`; it takes the place of the one before."""

    def hold(self, lease: str, purpose: str) -> None:
        """Take or renew a lease (32 hexadecimal digits): while it lasts, prune deletes nothing that an image referred
        to when it was taken, and nothing put since. It expires an hour after it was renewed last."""

    def release(self, lease: str) -> None:
        """End a lease; one that is not there is no mistake."""

    def note_pack(self, machine: str, pack: ObjectRef) -> None:
        """Say that a capture of ``machine`` is about to put this pack, so that the next one finds it if this is cut."""

    def unfinished(self, machine: str) -> tuple[ObjectRef, ...]:
        """The packs that captures of ``machine`` put since its last image was published, as far as they are there.
        They count as wanted from now on: no mark of prune is older than this."""


def pack_path(sha256: str) -> str:
    return f"packs/{sha256[:2]}/{sha256}.pack"


def listing_path(sha256: str) -> str:
    return f"objects/{sha256}.jsonl.zst"


def image_path(machine: str, time: str) -> str:
    return f"machines/{machine}/images/{time}.json"


def needed_paths(manifest: Manifest) -> frozenset[str]:
    """The packs and other files that belong to an image."""
    packs = (pack_path(pack.sha256) for pack in manifest.packs)
    return frozenset((*packs, *(listing_path(each.sha256) for each in manifest.objects)))


def profile_path(machine: str, time: str) -> str:
    return f"machines/{machine}/profiles/{time}.xml"


def checked_path(path: str) -> str:
    """A path inside a depot, or UsageError: never absolute, never upwards, no control characters."""
    parts = PurePosixPath(path).parts
    if not path or path.startswith("/") or ".." in parts or str(PurePosixPath(path)) != path or not path.isprintable():
        raise UsageError(f"‘{path!r}’ is not a path inside a depot")
    return path


def decode_info(data: bytes, location: str) -> DepotInfo:
    """depot.json of the depot at ``location``, or DamagedError."""
    try:
        info = msgspec.json.decode(data, type=DepotInfo)
    except UNDECODABLE as error:
        raise DamagedError(f"{DEPOT_FILE} of {location} is not understood: {error}", "is this a depot?") from None
    if info.format != FORMAT or not ID.fullmatch(info.id):
        raise DamagedError(
            f"{DEPOT_FILE} of {location}: format {info.format} id ‘{info.id}’, expected format {FORMAT}",
            "use a newer regraft for this depot",
        )
    unknown = sorted(set(info.features) - KNOWN_FEATURES)
    if unknown:
        raise DamagedError(
            f"depot {location} needs features this program does not know: {', '.join(unknown)}", "use a newer regraft"
        )
    return info


def read_info(depot: Depot) -> DepotInfo:
    """What the depot says of itself. Raises UsageError when there is no depot at its location."""
    try:
        data = depot.read(DEPOT_FILE, DEPOT_FILE_LIMIT_BYTES)
    except FileNotFoundError:
        raise UsageError(
            f"there is no depot at {depot.location}: it has no {DEPOT_FILE}", "make one with ‘regraft depot init DIR’"
        ) from None
    return decode_info(data, depot.location)
