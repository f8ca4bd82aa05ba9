"""What a depot holds, and how an image is found and believed.

catalogue.json lists images, profiles and components, so that a plain web server needs no directory listing. It is
an index only: what it names is believed by its own signature and digests.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from agent.depot.signing import MANIFEST, PROFILE, TrustedKeys, read_signed, trusted_keys
from agent.depot.store import (
    CATALOGUE_FILE,
    FORMAT,
    SHA256,
    SMALL_FILE_LIMIT_BYTES,
    Depot,
    image_path,
    profile_path,
    read_info,
)
from agent.errors import DamagedError, NoImageError, NotTrustedError
from agent.model.image import BLOCKS, BOOT_CODE_BYTES, NAME, TIME_IN_NAMES, TREE, ImageRef, Manifest, Volume
from agent.model.image import FORMATS as IMAGE_FORMATS
from agent.model.stack import unsound
from agent.model.subvolumes import is_subvolume_path
from agent.model.undecodable import UNDECODABLE
from agent.model.wording import printable

if TYPE_CHECKING:
    from agent.model.profile import Profile

PROFILE_LIMIT_BYTES = 16 << 20
MOST_BYTES = 2**62
VOLUME_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


class ImageFacts(msgspec.Struct, frozen=True, kw_only=True):
    machine: str
    time: str
    manifest_sha256: str
    profile_time: str
    profile_sha256: str
    fingerprint: str
    hostname: str = ""
    content_bytes: int = 0
    stored_bytes: int = 0
    volumes: tuple[str, ...] = ()


class ProfileFacts(msgspec.Struct, frozen=True, kw_only=True):
    machine: str
    time: str
    sha256: str
    fingerprint: str


class ComponentFacts(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    version: str
    kind: str
    sha256: str  # of component.xml


class Catalogue(msgspec.Struct, frozen=True, kw_only=True):
    """catalogue.json, every list sorted."""

    format: int
    depot: str
    images: tuple[ImageFacts, ...] = ()
    profiles: tuple[ProfileFacts, ...] = ()
    components: tuple[ComponentFacts, ...] = ()


@dataclass(frozen=True)
class LoadedImage:
    """An image whose signature and profile digest were checked."""

    manifest: Manifest
    manifest_sha256: str
    profile_xml: bytes

    @cached_property
    def profile(self) -> Profile:
        """What the profile says. Raises DamagedError where it does not follow its schema."""
        from agent.model.profile_xml import load_profile  # noqa: PLC0415 - moving files needs no XML

        return load_profile(self.profile_xml)


def encode(catalogue: Catalogue) -> bytes:
    return msgspec.json.format(msgspec.json.encode(catalogue), indent=1) + b"\n"


def read_catalogue(depot: Depot) -> Catalogue:
    """The index of a depot; what cannot be a name or a digest in it is refused."""
    try:
        found = msgspec.json.decode(depot.read(CATALOGUE_FILE, SMALL_FILE_LIMIT_BYTES), type=Catalogue)
    except FileNotFoundError:
        read_info(depot)  # no depot at all is another mistake
        raise DamagedError(
            f"depot {depot.location} has no {CATALOGUE_FILE}", "make it again with ‘regraft depot reindex’"
        ) from None
    except UNDECODABLE as error:
        raise DamagedError(
            f"{CATALOGUE_FILE} of depot {depot.location}: {error}", "make it again with ‘regraft depot reindex’"
        ) from None
    if found.format != FORMAT:
        raise DamagedError(
            f"{CATALOGUE_FILE} of depot {depot.location} has format {found.format}, expected {FORMAT}",
            "use a newer regraft for this depot",
        )
    names = [(entry.machine, entry.time) for entry in found.images]
    names += [(entry.machine, entry.time) for entry in found.profiles]
    for machine, time in names:
        if not NAME.fullmatch(machine) or not TIME_IN_NAMES.fullmatch(time):
            raise DamagedError(f"{CATALOGUE_FILE} of depot {depot.location} names ‘{machine}@{time}’")
    return found


def with_entry(
    old: Catalogue, image: ImageFacts | None, profile: ProfileFacts | None, component: ComponentFacts | None
) -> Catalogue:
    """The catalogue with an entry added or replaced."""
    images = {(each.machine, each.time): each for each in (*old.images, *((image,) if image else ()))}
    profiles = {(each.machine, each.time): each for each in (*old.profiles, *((profile,) if profile else ()))}
    components = {(each.id, each.version): each for each in (*old.components, *((component,) if component else ()))}
    return Catalogue(
        format=old.format,
        depot=old.depot,
        images=tuple(images[key] for key in sorted(images)),
        profiles=tuple(profiles[key] for key in sorted(profiles)),
        components=tuple(components[key] for key in sorted(components)),
    )


def without_component(old: Catalogue, ident: str, version: str) -> Catalogue:
    """The catalogue without a component."""
    rest = tuple(each for each in old.components if (each.id, each.version) != (ident, version))
    return Catalogue(
        format=old.format, depot=old.depot, images=old.images, profiles=old.profiles, components=rest
    )  # fmt: skip


def without_image(old: Catalogue, ref: ImageRef) -> Catalogue:
    """The catalogue without an image; its profile stays."""
    kept = tuple(each for each in old.images if (each.machine, each.time) != (ref.machine, ref.time))
    return msgspec.structs.replace(old, images=kept)


def image_facts(manifest: Manifest, manifest_sha256: str) -> ImageFacts:
    return ImageFacts(
        machine=manifest.machine,
        time=manifest.time,
        manifest_sha256=manifest_sha256,
        profile_time=manifest.profile.time,
        profile_sha256=manifest.profile.sha256,
        fingerprint=manifest.profile.fingerprint,
        hostname=manifest.hostname,
        content_bytes=sum(volume.content_bytes for volume in manifest.volumes),
        stored_bytes=sum(pack.size_bytes for pack in manifest.packs),
        volumes=tuple(volume.id for volume in manifest.volumes),
    )


def images(depot: Depot) -> tuple[ImageFacts, ...]:
    """Every image, by machine and time."""
    return read_catalogue(depot).images


def profiles(depot: Depot) -> tuple[ProfileFacts, ...]:
    """Every profile, by machine and time."""
    return read_catalogue(depot).profiles


def find_image(depot: Depot, trust: TrustedKeys, ref: ImageRef) -> LoadedImage:
    """The image ``ref`` names (its newest without a time), its signature, names and profile digest checked."""
    time = ref.time or _newest(depot, ref.machine)
    path = image_path(ref.machine, time)
    try:
        data = read_signed(depot, trust, MANIFEST, path, SMALL_FILE_LIMIT_BYTES)
    except FileNotFoundError:
        raise NoImageError(
            f"depot {depot.location} has no image {ref.machine}@{time}", "list the images with ‘regraft images’"
        ) from None
    manifest = decode_manifest(data, path)
    if (manifest.machine, manifest.time) != (ref.machine, time):
        raise DamagedError(f"{path} is the manifest of {manifest.ref}, expected {ref.machine}@{time}")
    return LoadedImage(manifest, hashlib.sha256(data).hexdigest(), _read_profile(depot, trust, manifest))


def with_time(depot: Depot, ref: ImageRef) -> ImageRef:
    """The image by its full name: the machine's newest where no time is given. Raises NoImageError."""
    return ref if ref.time else ImageRef(ref.machine, _newest(depot, ref.machine))


def last_image(depot: Depot, trust: Iterable[str], machine: str) -> LoadedImage | None:
    """The machine's newest image, for a capture to build on; None when there is none that is whole and trusted."""
    try:
        return find_image(depot, trusted_keys(depot, trust), ImageRef(machine))
    except (NoImageError, NotTrustedError, DamagedError):
        return None


def decode_manifest(data: bytes, name: str) -> Manifest:
    """A manifest whose names and digests are what they should be, or DamagedError naming the place."""
    try:
        manifest = msgspec.json.decode(data, type=Manifest, strict=True)
    except UNDECODABLE as error:
        raise DamagedError(f"{name} is not a manifest: {error}", "fetch it again, or restore an older image") from None
    if manifest.format not in IMAGE_FORMATS:
        raise DamagedError(
            f"{name} has format {manifest.format}, expected {' or '.join(map(str, IMAGE_FORMATS))}",
            "use a newer regraft for this image",
        )
    if not NAME.fullmatch(manifest.machine) or not TIME_IN_NAMES.fullmatch(manifest.time):
        raise DamagedError(f"{name} names the machine ‘{manifest.machine}’ and the time ‘{manifest.time}’")
    digests = [manifest.profile.sha256, *(pack.sha256 for pack in manifest.packs)]
    digests += [volume.listing.sha256 for volume in manifest.volumes]
    digests += [volume.stamps.sha256 for volume in manifest.volumes if volume.stamps]
    if not TIME_IN_NAMES.fullmatch(manifest.profile.time) or not all(SHA256.fullmatch(each) for each in digests):
        raise DamagedError(f"{name} holds a digest or a profile time that is none")
    known = {pack.sha256 for pack in manifest.packs}
    ids = [volume.id for volume in manifest.volumes]
    if len(set(ids)) != len(ids) or not all(set(volume.packs) <= known for volume in manifest.volumes):
        raise DamagedError(f"{name}: volumes are named twice or need packs that the manifest does not list")
    sizes = [each.size_bytes for each in (*manifest.packs, *manifest.objects)]
    sizes += [number for volume in manifest.volumes for number in (volume.entries, volume.content_bytes)]
    if not all(0 <= size < MOST_BYTES for size in sizes):
        raise DamagedError(f"{name} names a size that no file has")
    for volume in manifest.volumes:
        _check_place(volume, name)
        if volume.kind not in (TREE, BLOCKS) or (volume.kind == BLOCKS) != (volume.size_bytes > 0):
            raise DamagedError(f"{name}: volume {volume.id} is {volume.kind} of {volume.size_bytes:,} bytes")
    if odd := unsound(manifest.stack, MOST_BYTES):
        raise DamagedError(f"{name}: what its disks carry has {odd}")
    if any(len(each.code) != BOOT_CODE_BYTES for each in manifest.boot_code):
        raise DamagedError(f"{name}: boot code has {BOOT_CODE_BYTES} bytes, and one here has not")
    return manifest


def _check_place(volume: Volume, name: str) -> None:
    """Id and mount point of a volume become names of directories."""
    where = volume.filesystem.mountpoint
    parts = where.split("/")
    if not VOLUME_ID.fullmatch(volume.id) or ".." in parts or "\0" in where or (where and parts[0]):
        raise DamagedError(f"{name}: volume ‘{printable(volume.id, 80)}’ on ‘{printable(where, 80)}’ cannot be")
    paths = [volume.subvolume or "/", *(each.path for each in volume.subvolumes)]
    if bad := next((path for path in paths if not is_subvolume_path(path)), ""):
        raise DamagedError(f"{name}: volume {volume.id} names a subvolume ‘{printable(bad, 80)}’, which cannot be")


def newest_profile(depot: Depot, machine: str) -> ProfileFacts | None:
    """The newest profile of a machine, None when it has none."""
    return max((each for each in profiles(depot) if each.machine == machine), key=lambda p: p.time, default=None)


def _newest(depot: Depot, machine: str) -> str:
    times = [image.time for image in images(depot) if image.machine == machine]
    if not times:
        known = sorted({image.machine for image in images(depot)})
        raise NoImageError(
            f"depot {depot.location} has no image of ‘{machine}’; it has images of: {', '.join(known) or 'nothing'}",
            "list the images with ‘regraft images’",
        )
    return max(times)


def _read_profile(depot: Depot, trust: TrustedKeys, manifest: Manifest) -> bytes:
    path = profile_path(manifest.machine, manifest.profile.time)
    try:
        xml = read_signed(depot, trust, PROFILE, path, PROFILE_LIMIT_BYTES)
    except FileNotFoundError:
        raise DamagedError(
            f"image {manifest.ref} belongs to {path}, which is absent", "copy it from a second depot"
        ) from None
    found = hashlib.sha256(xml).hexdigest()
    if found != manifest.profile.sha256:
        raise DamagedError(
            f"{path} has SHA-256 {found}, the manifest of {manifest.ref} names {manifest.profile.sha256}",
            "fetch the profile again, or copy it from a second depot",
        )
    return xml
