"""Checks a depot: that every image in it is whole, how deep is asked, and what damage spoils.

    images ──► signatures, profiles ──► listings ──► packs ──► findings ──► files that are spoilt
                                           └── healed ──┴── healed, where a second depot is given

Listings and packs are looked at once each, however many images need them, by worker processes.
"""

from __future__ import annotations

import hashlib
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from agent.depot.catalogue import ImageFacts, LoadedImage, find_image, read_catalogue
from agent.depot.fetch import is_whole_length
from agent.depot.local import LocalDepot
from agent.depot.signing import TrustedKeys
from agent.depot.store import CATALOGUE_FILE, Depot, image_path, listing_path, pack_path
from agent.depot.stored import stored_images
from agent.errors import DamagedError, NoImageError, NotTrustedError
from agent.image.check_work import STRUCTURE, Checker, ListingDone, ListingTask, PackDone, PackTask
from agent.image.heal import heal, heal_profile
from agent.image.listing import open_listing
from agent.image.workers import Ask, default_jobs, pool
from agent.model.events import Emit, Event
from agent.model.image import BLOCKS, ImageRef, Manifest, ObjectRef, Volume

PROGRESS_S = 0.5
LISTED_FILES = 1000  # of each finding
COMPACT_FROM = 4096
_User = tuple[int, int]  # places of an image, and of a volume in it
_ListingKey = tuple[str, str, tuple[str, ...]]  # SHA-256, volume, packs: what a listing is checked against


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be. ``volumes`` are IMAGE:VOLUME; ``files`` the first of ``file_count``,
    which is -1 where nobody looked: the whole volume, or the whole image, is spoilt."""

    path: str
    problem: str
    images: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    file_count: int = -1
    not_healed: str = ""  # why a second depot did not help


@dataclass(frozen=True, slots=True)
class CheckReport:
    depth: str
    images: int
    listings: int
    packs: int
    bytes_read: int
    seconds: float
    healed: tuple[str, ...]
    findings: tuple[Finding, ...]


@dataclass(slots=True)
class _Pack:
    """What images need of a pack: frames by fingerprint, and the volumes that do."""

    size_bytes: int
    wanted: array[int] = field(default_factory=lambda: array("Q"))
    users: dict[_User, None] = field(default_factory=dict)
    _compact: int = 0

    def add(self, wanted: bytes) -> None:
        self.wanted.frombytes(wanted)
        if len(self.wanted) > 2 * self._compact + COMPACT_FROM:
            self.wanted = array("Q", sorted(set(self.wanted)))
            self._compact = len(self.wanted)


@dataclass(slots=True)
class _Run:
    """One check under way: the parent of the workers."""

    depot: Depot
    depth: str
    emit: Emit
    jobs: int
    other: Depot | None
    loaded: list[LoadedImage] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    healed: list[str] = field(default_factory=list)
    not_healed: dict[str, str] = field(default_factory=dict)
    packs: dict[str, _Pack] = field(default_factory=dict)
    listings: dict[_ListingKey, list[_User]] = field(default_factory=dict)
    read: int = 0
    total: int = 0
    _told: float = 0.0

    def volume(self, user: _User) -> Volume:
        return self.loaded[user[0]].manifest.volumes[user[1]]

    def names(self, users: Iterable[_User]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Images and volumes (IMAGE:VOLUME) in words."""
        known = [(str(self.loaded[user[0]].manifest.ref), self.volume(user).id) for user in users]
        images = tuple(sorted({image for image, _ in known}))
        return images, tuple(sorted(f"{image}:{volume}" for image, volume in known))

    # --- listings -------------------------------------------------------------------------------------------------

    def check_listings(self) -> None:
        damaged = self.read_listings([users[0] for users in self.listings.values()])
        again = [user for user in damaged if self.heals(*_listing_file(self.volume(user)))]
        for user, problem in {**damaged, **dict.fromkeys(again, ""), **self.read_listings(again)}.items():
            if problem:
                path = listing_path(self.volume(user).listing.sha256)
                images, volumes = self.names(self.listings[_key(self.volume(user))])
                self.findings.append(Finding(path, problem, images, volumes, not_healed=self.not_healed.get(path, "")))

    def read_listings(self, users: Sequence[_User]) -> dict[_User, str]:
        """Have listings checked, and note what they need of packs; which are damaged, and how."""
        problems: dict[_User, str] = {}
        for done in self.work(ListingTask(*user) for user in users):
            assert isinstance(done, ListingDone)
            user = (done.image, done.volume)
            volume = self.volume(user)
            if done.problem:
                problems[user] = done.problem
            sizes = {pack.sha256: pack.size_bytes for pack in self.loaded[done.image].manifest.packs}
            for sha256 in volume.packs:
                need = self.packs.setdefault(sha256, _Pack(sizes[sha256]))
                need.users |= dict.fromkeys(self.listings[_key(volume)])
                need.add(done.wanted.get(sha256, b""))
        return dict(sorted(problems.items()))

    # --- packs ----------------------------------------------------------------------------------------------------

    def check_packs(self) -> None:
        damaged = self.read_packs(sorted(self.packs))
        again = [name for name in damaged if self.heals(pack_path(name), self.packs[name].size_bytes, name)]
        kept = {name: done for name, done in damaged.items() if name not in again}
        for name, done in sorted({**kept, **self.read_packs(again)}.items()):
            users, files, count = self.spoilt(done, self.packs[name].users)
            why_not = self.not_healed.get(pack_path(name), "")
            self.findings.append(Finding(pack_path(name), done.problem, *self.names(users), files, count, why_not))

    def read_packs(self, names: Sequence[str]) -> dict[str, PackDone]:
        """Have packs checked; those that are damaged."""
        tasks = (PackTask(name, self.packs[name].size_bytes, self.packs[name].wanted.tobytes()) for name in names)
        return {done.sha256: done for done in self.work(tasks) if isinstance(done, PackDone) and done.problem}

    def spoilt(self, done: PackDone, users: Iterable[_User]) -> tuple[list[_User], tuple[str, ...], int]:
        """Who has content in what is damaged; the files it is of, the same path in many images once; how many.

        A volume that uses other frames of the pack only is whole, and not among them.
        """
        found: set[str] = set()
        spoilt: list[_User] = []
        bad = frozenset(done.bad)
        complete = True
        for user in users:
            try:
                files = set(_files_in(self.depot, self.loaded[user[0]].manifest, self.volume(user), done.sha256, bad))
            except DamagedError:
                complete = False  # the listing is damaged, which is a finding of its own, and spoils every file
                files = {""}
            if files:
                spoilt.append(user)
                found |= files - {""}
        return spoilt, tuple(sorted(found)[:LISTED_FILES]), len(found) if complete else -1

    # --- stamps ---------------------------------------------------------------------------------------------------

    def check_stamps(self) -> None:
        """Only the next capture needs them: their damage spoils no image, and is told all the same."""
        every = (volume.stamps for loaded in self.loaded for volume in loaded.manifest.volumes)
        for ref in {each.sha256: each for each in every if each is not None}.values():
            path = listing_path(ref.sha256)
            problem = self.stamps_problem(path, ref)
            if problem and self.heals(path, ref.size_bytes, ref.sha256):
                problem = self.stamps_problem(path, ref)
            if problem:
                told = f"{problem}; the next capture reads every file"
                self.findings.append(Finding(path, told, file_count=0, not_healed=self.not_healed.get(path, "")))

    def stamps_problem(self, path: str, ref: ObjectRef) -> str:
        try:
            if self.depth == STRUCTURE:
                return "" if is_whole_length(self.depot, path, ref.size_bytes) else "is absent or has another length"
            self.read += ref.size_bytes
            digest = hashlib.sha256(self.depot.read(path)).hexdigest()
        except (FileNotFoundError, DamagedError) as error:
            return f"is absent: {error}"
        return "" if digest == ref.sha256 else f"has SHA-256 {digest}, expected what its name says"

    # --- work -----------------------------------------------------------------------------------------------------

    def heals(self, path: str, size_bytes: int, sha256: str) -> bool:
        """Whether the file has been replaced by a good copy."""
        if self.other is None:
            return False
        assert isinstance(self.depot, LocalDepot)
        try:
            heal(self.depot, self.other, path, size_bytes, sha256)
        except DamagedError as error:
            self.not_healed[path] = error.message
            return False
        self.healed.append(path)
        return True

    def work(self, tasks: Iterable[ListingTask | PackTask]) -> Iterator[ListingDone | PackDone]:
        """Have tasks done by worker processes; the results as they come."""
        manifests = [loaded.manifest for loaded in self.loaded]

        def live(number: int, ask: Ask) -> None:
            Checker(self.depot, manifests, self.depth, ask).run()

        decoder = msgspec.msgpack.Decoder(list[ListingDone | PackDone])
        encoded = [msgspec.msgpack.encode(task) for task in tasks]
        if not encoded:
            return
        with pool(live, min(self.jobs, len(encoded))) as workers:
            for _, message in workers.hand_out(iter(encoded)):
                for done in decoder.decode(message):
                    self.read += done.read
                    self.progress()
                    yield done

    def progress(self) -> None:
        now = time.monotonic()
        if now - self._told >= PROGRESS_S:
            self._told = now
            self.emit(Event(seq=0, time="", kind="progress", phase="check", done=self.read,
                            total=max(self.total, self.read), unit="bytes"))  # fmt: skip

    def expected_bytes(self) -> int:
        """What this check will read, as the manifests say."""
        manifests = [loaded.manifest for loaded in self.loaded]
        files = {volume.listing.sha256: volume.listing.size_bytes for each in manifests for volume in each.volumes}
        if self.depth != STRUCTURE:
            files.update((ref.sha256, ref.size_bytes) for each in manifests for ref in each.objects)
            files.update((pack.sha256, pack.size_bytes) for each in manifests for pack in each.packs)
        return sum(files.values())


def check_images(  # noqa: PLR0913 - two of them have defaults
    depot: Depot,
    keys: TrustedKeys,
    images: Sequence[ImageRef],
    depth: str,
    emit: Emit,
    other: Depot | None = None,
    jobs: int | None = None,
) -> CheckReport:
    """Check these images as deep as ``depth`` says. ``other``: a depot to take good packs and listings from, where
    ``depot`` is one in a directory."""
    started = time.monotonic()
    run = _Run(depot, depth, emit, jobs or default_jobs(), other)
    facts = {ImageRef(each.machine, each.time): each for each in read_catalogue(depot).images}
    for image in images:
        _load(run, keys, image, facts.get(image))
    run.total = run.expected_bytes()
    run.check_listings()
    run.check_packs()
    run.check_stamps()
    return CheckReport(
        depth, len(images), len(run.listings), len(run.packs), run.read, round(time.monotonic() - started, 2),
        tuple(run.healed), tuple(run.findings),
    )  # fmt: skip


def catalogue_findings(depot: Depot) -> Iterator[Finding]:
    """Where the catalogue of a depot in a directory and its manifests do not say the same."""
    if not isinstance(depot, LocalDepot):
        return
    listed = {ImageRef(each.machine, each.time) for each in read_catalogue(depot).images}
    for image in stored_images(depot):
        if image not in listed:
            problem = f"{image} has a manifest, but {CATALOGUE_FILE} does not name it; see ‘regraft depot reindex’"
            yield Finding(CATALOGUE_FILE, problem, (str(image),))


def _load(run: _Run, keys: TrustedKeys, image: ImageRef, facts: ImageFacts | None) -> None:
    """Manifest and profile, with their signatures."""
    path = image_path(image.machine, image.time)
    try:
        loaded = _found(run, keys, image)
    except (NoImageError, NotTrustedError, DamagedError) as error:
        run.findings.append(Finding(path, error.message, (str(image),), not_healed=run.not_healed.get(path, "")))
        return
    if facts is not None and facts.manifest_sha256 != loaded.manifest_sha256:
        problem = f"{CATALOGUE_FILE} says that its SHA-256 is {facts.manifest_sha256}, found {loaded.manifest_sha256}"
        run.findings.append(Finding(path, problem, (str(image),)))
    number = len(run.loaded)
    run.loaded.append(loaded)
    for place, volume in enumerate(loaded.manifest.volumes):
        run.listings.setdefault(_key(volume), []).append((number, place))


def _found(run: _Run, keys: TrustedKeys, image: ImageRef) -> LoadedImage:
    """The image; its profile healed where that can be."""
    try:
        return find_image(run.depot, keys, image)
    except (NotTrustedError, DamagedError):
        if run.other is None:
            raise
        assert isinstance(run.depot, LocalDepot)
        try:
            run.healed.append(heal_profile(run.depot, keys, run.other, image))
        except DamagedError as error:
            run.not_healed[image_path(image.machine, image.time)] = error.message
        return find_image(run.depot, keys, image)


def _key(volume: Volume) -> _ListingKey:
    return volume.listing.sha256, volume.id, volume.packs


def _listing_file(volume: Volume) -> tuple[str, int, str]:
    return listing_path(volume.listing.sha256), volume.listing.size_bytes, volume.listing.sha256


def _files_in(depot: Depot, manifest: Manifest, volume: Volume, pack: str, bad: frozenset[int]) -> Iterator[str]:
    """Files of a volume with content in those frames of a pack (by offset; none: in any frame of it)."""
    prefix = (volume.filesystem.mountpoint or "/").rstrip("/")
    if volume.kind == BLOCKS:
        prefix = f"partition {volume.partition} of {volume.disk}" if volume.partition else volume.disk
    with open_listing(depot, manifest, volume) as listing:
        numbers = {
            number
            for number, frame in listing.frames
            if listing.frames.packs[frame.pack] == pack and (not bad or frame.offset in bad)
        }
        for entries in listing.entries():
            for entry in entries:
                if any(chunk.frame in numbers for chunk in entry.chunks):
                    yield prefix if volume.kind == BLOCKS else f"{prefix}/{entry.path}"
