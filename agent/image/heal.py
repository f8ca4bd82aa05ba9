"""Puts a good copy in the place of what is damaged or absent: packs, listings and profiles, from a second depot.

Whose depot the other is does not matter: digests decide, and they are known from the signed manifest. A manifest itself
is not healed, for nothing signed says what it was; ‘regraft copy’ brings it again.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from agent.depot.catalogue import PROFILE_LIMIT_BYTES, decode_manifest
from agent.depot.fetch import fetch_verified
from agent.depot.local import LocalDepot
from agent.depot.signing import MANIFEST, TrustedKeys, read_signed
from agent.depot.store import SMALL_FILE_LIMIT_BYTES, Depot, image_path, profile_path
from agent.errors import DamagedError, NotTrustedError
from agent.model.image import ImageRef


def heal(depot: LocalDepot, other: Depot, path: str, size_bytes: int, sha256: str) -> None:
    """Fetch a pack or a listing, see that its bytes are what its name says, and only then put it in its place.

    Raises DamagedError when the other depot has no good copy either.
    """
    with tempfile.TemporaryDirectory(prefix="heal-", dir=depot.staging) as folder:
        copy = Path(folder) / "copy"
        fetch_verified(other, path, size_bytes, sha256, copy)
        depot.put_file(path, copy)


def heal_profile(depot: LocalDepot, keys: TrustedKeys, other: Depot, image: ImageRef) -> str:
    """Publish the profile of an image again, as its manifest names it; its path.

    Raises DamagedError when the manifest is not good either, or the other depot has no good copy.
    """
    path = image_path(image.machine, image.time)
    try:
        manifest = decode_manifest(read_signed(depot, keys, MANIFEST, path, SMALL_FILE_LIMIT_BYTES), path)
    except (FileNotFoundError, NotTrustedError) as error:
        raise DamagedError(f"the manifest itself is not good: {error}") from None
    wanted = profile_path(manifest.machine, manifest.profile.time)
    try:
        xml = other.read(wanted, PROFILE_LIMIT_BYTES)
    except FileNotFoundError:
        raise DamagedError(f"{wanted} is absent from depot {other.location}") from None
    if hashlib.sha256(xml).hexdigest() != manifest.profile.sha256:
        raise DamagedError(f"{wanted} of depot {other.location} is not the one that the manifest of {image} names")
    (depot.root / wanted).unlink(missing_ok=True)
    depot.publish_profile(xml)
    return wanted
