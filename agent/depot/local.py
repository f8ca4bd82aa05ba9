"""A depot in a directory: a disk, a stick, a network share, or what ``regraft serve`` serves.

Files appear by rename, whole or not at all. What must not happen at the same time – an image is published, an image is
removed, packs are deleted, the catalogue or the marks change – happens under one lock in ``tmp/``.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from agent.depot import catalogue
from agent.depot.lease import lease_path, renewed
from agent.depot.marks import MARKS_FILE, decode_marks, encode_marks
from agent.depot.signing import COMPONENT, MANIFEST, PROFILE, RECIPES, SigningKey, load_key, make_key, pin_key
from agent.depot.store import (
    CATALOGUE_FILE,
    DEPOT_FILE,
    FORMAT,
    RECIPES_FILE,
    SMALL_FILE_LIMIT_BYTES,
    DepotInfo,
    Published,
    checked_path,
    image_path,
    listing_path,
    needed_paths,
    pack_path,
    profile_path,
    read_info,
)
from agent.depot.unfinished import LIMIT_BYTES as UNFINISHED_LIMIT_BYTES
from agent.depot.unfinished import decode_lines, encode_line, unfinished_path
from agent.errors import DamagedError, RefusedError, StorageFullError, TargetIOError, UsageError
from agent.model.image import NAME, TIME_IN_NAMES, ObjectRef
from agent.model.wording import printable, size_text

LOCK_FILE = "catalogue.lock"  # in tmp/
FULL = (errno.ENOSPC, errno.EDQUOT)


class LocalDepot:
    """A depot in a directory, readable and writable."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.location = str(root)
        self._info: DepotInfo | None = None
        self._key: SigningKey | None = None

    @classmethod
    def init(cls, root: Path | str) -> LocalDepot:
        """Make an empty depot and its key pair. Raises UsageError where one is, or where other files are."""
        place = Path(root)
        if (place / DEPOT_FILE).exists():
            raise UsageError(f"{place} is already a depot", "use it as it is, or choose another directory")
        if place.exists() and any(name.name != "lost+found" for name in place.iterdir()):
            raise UsageError(f"{place} is not empty", "choose an empty or a new directory")
        place.mkdir(parents=True, exist_ok=True)
        depot_id = str(uuid.uuid4())
        key = make_key(depot_id)
        pin_key(depot_id, key.public)
        depot = cls(place)
        for name in ("packs", "objects", "machines", "components", "recipes", "tmp"):
            (place / name).mkdir(exist_ok=True)
        depot.write(CATALOGUE_FILE, catalogue.encode(catalogue.Catalogue(format=FORMAT, depot=depot_id)))
        info = DepotInfo(format=FORMAT, id=depot_id, public_key=key.public)
        depot.write(DEPOT_FILE, msgspec.json.format(msgspec.json.encode(info), indent=1) + b"\n")
        return depot

    @property
    def info(self) -> DepotInfo:
        if self._info is None:
            self._info = read_info(self)
        return self._info

    @property
    def id(self) -> str:
        return self.info.id

    @property
    def public_key(self) -> str:
        return self.info.public_key

    @property
    def is_remote(self) -> bool:
        return False

    @property
    def staging(self) -> Path | None:
        (self.root / "tmp").mkdir(exist_ok=True)
        return self.root / "tmp"

    # --- reading --------------------------------------------------------------------------------------------------

    def read(self, path: str, limit_bytes: int = SMALL_FILE_LIMIT_BYTES) -> bytes:
        with (self.root / checked_path(path)).open("rb") as file:
            data = file.read(limit_bytes + 1)
        if len(data) > limit_bytes:
            raise DamagedError(
                f"{path} of depot {self.location} is larger than {limit_bytes:,} bytes, the most allowed"
            )
        return data

    def read_into(self, path: str, offset: int, buffer: memoryview) -> None:
        descriptor = os.open(self.root / checked_path(path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            done = 0
            while done < len(buffer):
                count = os.preadv(descriptor, [buffer[done:]], offset + done)
                if count == 0:
                    raise DamagedError(
                        f"{path} of depot {self.location} ends at byte {offset + done:,}, "
                        f"expected {offset + len(buffer):,} or more",
                        "copy the file again from another depot",
                    )
                done += count
        finally:
            os.close(descriptor)

    def exists(self, path: str, size_bytes: int | None = None) -> bool:
        found = self._size(path)
        return found >= 0 and size_bytes in (None, found)

    # --- writing --------------------------------------------------------------------------------------------------

    def put_file(self, path: str, source: Path) -> None:
        """Move ``source`` to its place, also over a file that is there: the new one was hashed just now."""
        target = self.root / checked_path(path)
        if target.exists():
            self.unmark({path})  # before it is replaced: a mark that comes after this is younger than any lease
        with self._room(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            staged = source
            if source.stat().st_dev != target.parent.stat().st_dev:
                staged = self._staged_name()
                shutil.copyfile(source, staged)
            settle(staged)
            staged.rename(target)
            settle(target.parent)
            source.unlink(missing_ok=True)

    def publish_profile(self, xml: bytes) -> Published:
        """Store a profile under its machine and time; the same profile twice is fine, another one is refused."""
        from agent.model.fingerprint import hardware_fingerprint  # noqa: PLC0415 - reading a depot needs no profile
        from agent.model.profile_xml import load_profile  # noqa: PLC0415 - nor XML

        profile = load_profile(xml)
        machine, time = checked_names(profile.machine, compact_time(profile.time))
        path = profile_path(machine, time)
        if self.exists(path) and self.read(path) != xml:
            raise RefusedError(f"{path} exists with other content", "a profile never changes; make a new one")
        self.write(path + ".sig", self._signing_key().sign(PROFILE, xml))
        self.write(path, xml)
        sha256 = hashlib.sha256(xml).hexdigest()
        facts = catalogue.ProfileFacts(
            machine=machine, time=time, sha256=sha256, fingerprint=hardware_fingerprint(profile)
        )
        with self.locked():
            self._enter(profile=facts)
        return Published(machine, time, sha256, path)

    def publish_image(self, manifest: bytes) -> None:
        """Everything the manifest names is there and its own digests fit; then signature, manifest, catalogue.

        Under the lock from the first look to the last write: what was there when it was looked at cannot be deleted
        before the manifest names it.
        """
        image = catalogue.decode_manifest(manifest, "the manifest")
        machine, time = checked_names(image.machine, image.time)
        path = image_path(machine, time)
        with self.locked():
            if self.exists(path) and self.read(path) != manifest:
                raise RefusedError(f"{path} exists with other content", "an image never changes; capture again")
            self._check_complete(image.profile.sha256, profile_path(machine, image.profile.time))
            for pack in image.packs:
                self._check_present(pack_path(pack.sha256), pack.size_bytes)
            for each in image.objects:
                self._check_present(listing_path(each.sha256), each.size_bytes)
            self._unmark(needed_paths(image))
            # The signature first: a manifest without one cannot be chosen, a signature without its file means nothing.
            self.write(path + ".sig", self._signing_key().sign(MANIFEST, manifest))
            self.write(path, manifest)
            self._enter(image=catalogue.image_facts(image, hashlib.sha256(manifest).hexdigest()))
            (self.root / unfinished_path(machine)).unlink(missing_ok=True)  # what it needs, the manifest names

    def publish_component(self, xml: bytes) -> None:
        """Sign a component whose payload is there and enter it into the catalogue."""
        from agent.depot.component_xml import load_component  # noqa: PLC0415 - reading a depot needs no XML

        component = load_component(xml)
        folder = f"components/{component.id}/{component.version}"
        for file in component.payload:
            self._check_present(f"{folder}/{file.path}", file.size_bytes)
        self.write(f"{folder}/component.xml.sig", self._signing_key().sign(COMPONENT, xml))
        self.write(f"{folder}/component.xml", xml)
        sha256 = hashlib.sha256(xml).hexdigest()
        with self.locked():
            self._enter(
                component=catalogue.ComponentFacts(
                    id=component.id, version=component.version, kind=component.kind, sha256=sha256
                )
            )

    def publish_recipes(self, bundle: bytes) -> None:
        """Sign the site's recipes. What no reader would take is refused here, before anybody meets it."""
        from agent.model.recipe_bundle import decode  # noqa: PLC0415 - dear to import, and of no use to a restore

        decode(bundle, "the bundle of recipes")
        signature = self._signing_key().sign(RECIPES, bundle)
        with self.locked():
            self.write(f"{RECIPES_FILE}.sig", signature)
            self.write(RECIPES_FILE, bundle)

    def hold(self, lease: str, purpose: str) -> None:
        """Take or renew a lease. Who cannot sign learns it here, before the work and not after it."""
        self._signing_key()
        path = lease_path(lease)
        with self.locked():
            old = self.read(path) if self.exists(path) else None
            self.write(path, renewed(old, purpose, datetime.now(UTC)))

    def release(self, lease: str) -> None:
        (self.root / lease_path(lease)).unlink(missing_ok=True)

    def note_pack(self, machine: str, pack: ObjectRef) -> None:
        """Append to what is known of the machine's captures under way; see `unfinished`."""
        path = unfinished_path(checked_name(machine))
        target = self.root / path
        with self.locked(), self._room(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("ab") as file:
                file.write(encode_line(pack))
                file.flush()
                os.fsync(file.fileno())
            settle(target.parent)

    def unfinished(self, machine: str) -> tuple[ObjectRef, ...]:
        path = unfinished_path(checked_name(machine))
        with self.locked():
            if not self.exists(path):
                return ()
            told = decode_lines(self.read(path, UNFINISHED_LIMIT_BYTES))
            there = tuple(pack for pack in told if self._size(pack_path(pack.sha256)) == pack.size_bytes)
            self._unmark({pack_path(pack.sha256) for pack in there})
            return there

    # --- keeping house --------------------------------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One at a time, among all processes that use this directory. Not to be taken twice by one thread."""
        staging = self.staging
        assert staging is not None
        lock = os.open(staging / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def write(self, path: str, data: bytes) -> None:
        """A small file, durable before it has its name."""
        target = self.root / checked_path(path)
        with self._room(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            staged = self._staged_name()
            with staged.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            staged.rename(target)
            settle(target.parent)

    def unmark(self, paths: Collection[str]) -> None:
        """These are wanted again, as if they had never been marked for deletion."""
        if (self.root / MARKS_FILE).exists():  # a depot that was never pruned has none
            with self.locked():
                self._unmark(paths)

    # --- inner ----------------------------------------------------------------------------------------------------

    def _signing_key(self) -> SigningKey:
        if self._key is None:
            self._key = load_key(self.id)
        return self._key

    def _staged_name(self) -> Path:
        staging = self.staging
        assert staging is not None
        return staging / secrets.token_hex(12)

    @contextmanager
    def _room(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in FULL:
                free = shutil.disk_usage(self.root).free
                raise StorageFullError(
                    f"no room for {path} in depot {self.location}: {free:,} bytes ({size_text(free)}) are free",
                    "free or add space on the depot's disk, then start the same command again",
                ) from None
            raise TargetIOError(f"depot {self.location}, {path}: {error.strerror}", "check the depot's disk") from error

    def _check_present(self, path: str, size_bytes: int) -> None:
        found = self._size(path)
        if found != size_bytes:
            raise RefusedError(
                f"{path} "
                + ("is absent" if found < 0 else f"has {found:,} bytes")
                + f", expected {size_bytes:,} bytes",
                "put every pack, listing and payload before what names it",
            )

    def _size(self, path: str) -> int:
        """Bytes of a file, -1 when it is not there."""
        target = self.root / checked_path(path)
        return target.stat().st_size if target.is_file() else -1

    def _check_complete(self, sha256: str, path: str) -> None:
        found = hashlib.sha256(self.read(path)).hexdigest() if self.exists(path) else "absent"
        if found != sha256:
            raise RefusedError(f"profile {path} is {found}, the manifest names {sha256}", "publish the profile first")

    def _enter(
        self,
        image: catalogue.ImageFacts | None = None,
        profile: catalogue.ProfileFacts | None = None,
        component: catalogue.ComponentFacts | None = None,
    ) -> None:
        """Add to the catalogue; the lock is held."""
        old = catalogue.read_catalogue(self)
        self.write(CATALOGUE_FILE, catalogue.encode(catalogue.with_entry(old, image, profile, component)))

    def _unmark(self, paths: Collection[str]) -> None:
        """With the lock held."""
        if not (self.root / MARKS_FILE).exists():
            return
        marks = decode_marks(self.read(MARKS_FILE), self.location)
        if not marks.keys().isdisjoint(paths):
            self.write(MARKS_FILE, encode_marks({path: marks[path] for path in marks.keys() - set(paths)}))


def settle(path: Path) -> None:
    """Bring a file, or the names in a directory, to the medium: what a manifest names outlives a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checked_names(machine: str, time: str) -> tuple[str, str]:
    """Names that become parts of paths, or UsageError."""
    if not NAME.fullmatch(machine) or machine in (".", "..") or not TIME_IN_NAMES.fullmatch(time):
        raise UsageError(f"‘{machine}’ at ‘{time}’: expected a name like web-1 and a time like 20261123T204140Z")
    return machine, time


def checked_name(machine: str) -> str:
    """A machine's name that becomes part of a path, or UsageError."""
    if not NAME.fullmatch(machine):
        raise UsageError(f"‘{printable(machine, 80)}’ cannot name a machine; expected a name like web-1")
    return machine


def compact_time(time: str) -> str:
    """2026-11-23T20:41:40Z as names carry it: 20261123T204140Z."""
    return time.replace("-", "").replace(":", "")


def now_compact() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
