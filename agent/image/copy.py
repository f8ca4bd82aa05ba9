"""Copies images from one depot to another: what is missing there, verified on the way, signed there anew.

    source: signature good ──► packs and listings that are missing ──► SHA-256 ──► target ──► profile ──► manifest

Manifest and profile stay the same, byte for byte; only their signatures are the target's own, because whoever trusts a
depot trusts its key (docs/decisions/0002-one-signing-key-a-depot.md). A copy that is cut is continued by the same call.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from agent.depot.catalogue import PROFILE_LIMIT_BYTES, find_image
from agent.depot.catalogue import images as list_images
from agent.depot.fetch import fetch_verified, is_whole_length
from agent.depot.lease import Lease, leased
from agent.depot.signing import MANIFEST, PROFILE, TrustedKeys, read_signed
from agent.depot.store import (
    SMALL_FILE_LIMIT_BYTES,
    Depot,
    WritableDepot,
    image_path,
    listing_path,
    pack_path,
    profile_path,
)
from agent.errors import DamagedError, RefusedError
from agent.model.events import Emit, Event
from agent.model.image import ImageRef, Manifest, ObjectRef

TRANSFERS = 3  # files under way at once: one arrives while another is stored
ATTEMPTS = 2
PROGRESS_S = 0.5


@dataclass(frozen=True, slots=True)
class CopyResult:
    """What a copy of one image moved. ``already_there``: the target had the image, and nothing was done."""

    image: ImageRef
    files: int  # packs and listings that were missing
    bytes_copied: int
    bytes_there: int  # of packs and listings that the target had
    seconds: float
    already_there: bool = False


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    ref: ObjectRef


def copy_image(source: Depot, keys: TrustedKeys, image: ImageRef, target: WritableDepot, emit: Emit) -> CopyResult:
    """Copy one image, named in full. Raises before the target knows the image, or not at all.

    Raises NotTrustedError and DamagedError for what is wrong at the source, RefusedError when the target has another
    image of this name.
    """
    started = time.monotonic()
    manifest, profile, loaded = _signed(source, keys, image)
    if _has(target, image, manifest):
        there = sum(file.ref.size_bytes for file in _needed(loaded))
        return CopyResult(image, 0, 0, there, round(time.monotonic() - started, 2), already_there=True)
    copied: dict[str, int] = {}
    with leased(target, f"copy of {image}") as lease:
        for attempt in range(1, ATTEMPTS + 1):
            for files in (_packs(loaded), _listings(loaded)):
                missing = [file for file in files if not _there(target, file)]
                _copy_files(source, target, missing, lease, emit)
                copied.update((file.path, file.ref.size_bytes) for file in missing)
            target.publish_profile(profile)
            try:
                target.publish_image(manifest)
                break
            except RefusedError:
                # A file that was there, and that nothing referred to, may have been pruned before the image named it.
                if attempt == ATTEMPTS or all(_there(target, file) for file in _needed(loaded)):
                    raise
    size = sum(copied.values())
    there = sum(file.ref.size_bytes for file in _needed(loaded)) - size
    return CopyResult(image, len(copied), size, there, round(time.monotonic() - started, 2))


def _signed(source: Depot, keys: TrustedKeys, image: ImageRef) -> tuple[bytes, bytes, Manifest]:
    """Manifest and profile as they lie in the source, after all that `find_image` checks."""
    loaded = find_image(source, keys, image)
    data = read_signed(source, keys, MANIFEST, image_path(image.machine, image.time), SMALL_FILE_LIMIT_BYTES)
    if hashlib.sha256(data).hexdigest() != loaded.manifest_sha256:
        raise DamagedError(f"the manifest of {image} changed while it was read", "copy it again")
    path = profile_path(image.machine, loaded.manifest.profile.time)
    return data, read_signed(source, keys, PROFILE, path, PROFILE_LIMIT_BYTES), loaded.manifest


def _has(target: Depot, image: ImageRef, manifest: bytes) -> bool:
    """Whether the target has exactly this image, with a signature, and in its catalogue."""
    path = image_path(image.machine, image.time)
    try:
        found = target.read(path, SMALL_FILE_LIMIT_BYTES)
    except FileNotFoundError:
        return False
    if found != manifest:
        raise RefusedError(
            f"depot {target.location} has another image of the name {image}",
            "an image never changes; forget the one there first if it is not wanted",
        )
    listed = any((each.machine, each.time) == (image.machine, image.time) for each in list_images(target))
    return listed and target.exists(path + ".sig")


def _packs(manifest: Manifest) -> list[_File]:
    return [_File(pack_path(pack.sha256), pack) for pack in manifest.packs]


def _listings(manifest: Manifest) -> list[_File]:
    unique = {each.sha256: each for each in manifest.objects}
    return [_File(listing_path(sha256), ref) for sha256, ref in unique.items()]


def _needed(manifest: Manifest) -> list[_File]:
    return _packs(manifest) + _listings(manifest)


def _there(target: Depot, file: _File) -> bool:
    return is_whole_length(target, file.path, file.ref.size_bytes)


def _copy_files(source: Depot, target: WritableDepot, files: list[_File], lease: Lease, emit: Emit) -> None:
    """Fetch, verify, store; some at once. The first error ends it, after what is under way."""
    total = sum(file.ref.size_bytes for file in files)
    done = 0
    told = 0.0
    stop = threading.Event()
    with (
        tempfile.TemporaryDirectory(prefix="copy-", dir=target.staging) as folder,
        ThreadPoolExecutor(TRANSFERS, "copy") as threads,
    ):

        def transfer(number: int, file: _File) -> int:
            if stop.is_set():
                return 0
            scratch = Path(folder) / str(number)
            fetch_verified(source, file.path, file.ref.size_bytes, file.ref.sha256, scratch)
            target.put_file(file.path, scratch)
            return file.ref.size_bytes

        running: list[Future[int]] = [threads.submit(transfer, *each) for each in enumerate(files)]
        try:
            for one in as_completed(running):
                done += one.result()
                lease.renew()
                if time.monotonic() - told >= PROGRESS_S:
                    told = time.monotonic()
                    emit(Event(seq=0, time="", kind="progress", phase="copy", done=done, total=total, unit="bytes"))
        finally:
            stop.set()
