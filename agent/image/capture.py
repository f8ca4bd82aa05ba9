"""Captures a machine's volumes as an image in a depot.

    walk, map of used blocks ──► tasks ──► workers: read, hash ──► which chunks are new? ──► compress, packs ──► depot
      │                   └──► lines ──► listing ──► depot ──► manifest: only now there is an image
      └── what the last image knew, and has not changed ──┘

Publish order: packs, listings, profile, manifest with its signature, catalogue. A capture that ends before leaves
packs that nothing names, and no image.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import zstandard

from agent.depot.catalogue import LoadedImage
from agent.depot.free_times import free_image_time, with_free_time
from agent.depot.lease import Lease, leased
from agent.depot.store import WritableDepot, image_path, listing_path
from agent.errors import UsageError
from agent.image.at_once import FrameWriter
from agent.image.chunk_index import ChunkIndex
from agent.image.entry import HARDLINK, MORE, Entry
from agent.image.listing import FORMAT as LISTING_FORMAT
from agent.image.listing import FRAME_BYTES, Head
from agent.image.pack import LEVEL
from agent.image.previous import Previous, open_previous
from agent.image.read_blocks import Span, spans
from agent.image.read_work import Done, Finish, Locate, Packs, Reader, without_reading
from agent.image.resume import adopt_image, adopt_unfinished
from agent.image.settle import write_back
from agent.image.staging import room_in
from agent.image.stamps import MARGIN_NS, encode_head, identity
from agent.image.system_path import printed
from agent.image.used_blocks import UsedBlocks, held, read_used_blocks
from agent.image.volume_lines import VolumeLines
from agent.image.walk import DEFAULT_EXCLUDES, Batch, Part, Walk, status_in, swap_inodes
from agent.image.workers import AHEAD, Ask, Pool, default_jobs, pool
from agent.model.events import Emit, Event
from agent.model.fingerprint import hardware_fingerprint
from agent.model.image import (
    AT_REST,
    BLOCKS,
    LIVE,
    NAME,
    TREE,
    BootCode,
    Excluded,
    ImageRef,
    Manifest,
    ObjectRef,
    ProfileRef,
    Subvolume,
    Volume,
    format_of,
)
from agent.model.profile import Profile
from agent.model.profile_xml import dump_profile
from agent.model.storage import NO_STACK, Disk, FileSystem, Stack
from agent.version import TOOL

PROGRESS_S = 0.5
LISTED = 1000  # names of changed files in a manifest
WAITING = 64  # results that may wait for an earlier one
NOT_NOW = b"-"  # in the place of a task


@dataclass(frozen=True, slots=True)
class SourceVolume:
    """A mounted file system to capture. ``filesystem.mountpoint`` says where it belongs in the system.

    ``read``: snapshot, at-rest or live (`agent.model.image`). Of kind blocks: an unmounted one, ``path`` its device
    node; ``whole``: every byte of it, used or not.
    """

    id: str
    filesystem: FileSystem
    path: Path
    disk: str = ""
    partition: int = 0
    kind: str = TREE
    whole: bool = False
    read: str = LIVE
    live: Path | None = None  # where it is in use, when ``path`` is a snapshot of it
    subvolume: str = ""  # as in `agent.model.image.Volume`
    subvolumes: tuple[Subvolume, ...] = ()
    device: str = ""  # of the stack, in place of disk and partition


@dataclass(frozen=True, slots=True)
class CaptureSource:
    """What is captured. ``excludes`` are globs of paths as the system knows them, with reasons, beside the usual ones;
    ``left_out`` is what was known before that it does not travel. ``begun_ns``: since when its snapshots were made."""

    machine: str
    hostname: str
    profile: Profile
    disks: tuple[Disk, ...]
    volumes: tuple[SourceVolume, ...]
    excludes: tuple[Excluded, ...] = ()
    left_out: tuple[Excluded, ...] = ()
    boot_code: tuple[BootCode, ...] = ()
    stack: Stack = NO_STACK
    begun_ns: int = 0  # 0: it has none


@dataclass(frozen=True, slots=True)
class CaptureResult:
    """What a capture left in the depot. Files in ``warnings`` did not travel whole: a person must look."""

    ref: ImageRef
    entries: int
    content_bytes: int
    stored_bytes: int  # new in the depot: packs of this capture
    packs: int  # that the image needs, older ones too
    seconds: float
    warnings: tuple[str, ...] = ()
    unchanged: int = 0  # files taken over from the last image without being read


def capture_image(  # noqa: PLR0913 - three of them have defaults
    source: CaptureSource,
    depot: WritableDepot,
    emit: Emit,
    jobs: int | None = None,
    previous: LoadedImage | None = None,
    relative: LoadedImage | None = None,
    read_all: bool = False,
) -> CaptureResult:
    """Capture every volume, publish profile and image. Raises before the image exists, or not at all.

    Content that ``previous`` holds, an image of the same depot, is referred to and not stored again. Its files that
    have not changed since are not even read, unless ``read_all``. What ``relative`` holds, an image of a machine with
    the same software, is not stored again either.
    """
    started = time.monotonic()
    _check(source)
    capture_time = free_image_time(depot, source.machine)
    with ExitStack() as stack:
        lease = stack.enter_context(leased(depot, f"capture of {source.machine}"))
        blocks = _hold_blocks(source, emit, stack)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="capture-", dir=depot.staging)))
        stack.enter_context(room_in(depot, folder))
        run = _Run(source, depot, emit, folder, lease, blocks)
        run.settle()
        if adopt_image(depot, previous, run.index, emit) and previous is not None and not read_all:
            run.build_on(previous, stack)
        # Looked for only now, as the last image is: one that is gone by now may lose its packs.
        if relative is not None and depot.exists(image_path(relative.manifest.machine, relative.manifest.time)):
            run.index.relate(depot, relative)
        adopt_unfinished(depot, source.machine, run.index, emit)
        stack.callback(run.abandon)
        run.read(jobs or default_jobs())
        volumes = tuple(run.publish_listing(number) for number in range(len(source.volumes)))
        published = depot.publish_profile(dump_profile(with_free_time(depot, source.profile)))
        profile = ProfileRef(published.time, published.sha256, hardware_fingerprint(source.profile))
        manifest = run.manifest(capture_time, profile, volumes)
        depot.publish_image(msgspec.json.encode(manifest))
    return run.result(manifest, time.monotonic() - started)


def _check(source: CaptureSource) -> None:
    if not NAME.fullmatch(source.machine):
        raise UsageError(f"‘{source.machine}’ cannot name an image", "use letters, digits, dots and dashes, 64 at most")
    if not source.volumes:
        raise UsageError(f"nothing to capture: ‘{source.machine}’ has no volume")
    for volume in source.volumes:
        if volume.kind == TREE and not volume.path.is_dir():
            raise UsageError(f"volume {volume.id}: {volume.path} is not a directory")


def _hold_blocks(source: CaptureSource, emit: Emit, stack: ExitStack) -> dict[int, UsedBlocks]:
    """The used blocks of every blocks volume, by its number; their devices are held until the stack ends."""
    found: dict[int, UsedBlocks] = {}
    for number, volume in enumerate(source.volumes):
        if volume.kind == BLOCKS:
            stack.enter_context(held(volume.path))
            found[number] = used = read_used_blocks(volume.path, volume.filesystem.kind, volume.whole)
            said = f"{volume.path} ({volume.filesystem.kind or 'no file system known'}) is captured by its blocks: "
            said += f"{used.used_bytes:,} of {used.size_bytes:,} bytes are used"
            emit(Event(seq=0, time="", kind="message", phase="capture", text=said))
    return found


class _Supply:
    """Tasks on their way to workers; a few are made ahead, so that no worker waits for the walk."""

    def __init__(self, tasks: Iterator[bytes], held_up: Callable[[], bool]) -> None:
        self.idle: deque[int] = deque()  # workers that wait for a task
        self._tasks = tasks
        self._held_up = held_up
        self._ready: deque[bytes] = deque()

    def hand_out(self, workers: Pool) -> None:
        """A task for each worker that waits, or nothing: the end. While results are held up, none."""
        while self.idle:
            task = self._ready.popleft() if self._ready else self._make()
            if task == NOT_NOW:
                return
            workers.reply(self.idle.popleft(), task)

    def prepare(self) -> None:
        """One task ahead at a time, never so long that a worker waits for an answer."""
        if len(self._ready) < AHEAD and not self._held_up() and (task := self._make()) not in (b"", NOT_NOW):
            self._ready.append(task)

    def _make(self) -> bytes:
        return NOT_NOW if self._held_up() else next(self._tasks, b"")


@dataclass(slots=True)
class _Run:
    """One capture under way: the parent of the workers."""

    source: CaptureSource
    depot: WritableDepot
    emit: Emit
    folder: Path
    lease: Lease
    blocks: dict[int, UsedBlocks] = field(default_factory=dict)  # by the number of their volume
    index: ChunkIndex = field(default_factory=ChunkIndex)
    packs: dict[str, ObjectRef] = field(default_factory=dict)  # those that the listings refer to
    stored_bytes: int = 0
    lines: list[VolumeLines] = field(default_factory=list)
    walks: dict[int, Walk] = field(default_factory=dict)  # by the number of their volume
    filesystems: list[str] = field(default_factory=list)  # of each volume, "" where stamps mean nothing
    previous: dict[str, Previous | None] = field(default_factory=dict)
    started_ns: int = 0  # later changes may not be in the image, whatever ctime they leave
    changed: dict[str, None] = field(default_factory=dict)
    unreadable: dict[tuple[int, bytes], Excluded] = field(default_factory=dict)
    _waiting: dict[int, Done] = field(default_factory=dict)
    _emitted: int = 0
    _dropped: set[tuple[int, bytes]] = field(default_factory=set)
    _told: float = 0.0
    _done_bytes: int = 0

    def __post_init__(self) -> None:
        self.started_ns = self.source.begun_ns or time.time_ns()
        self.filesystems = [
            identity(each.live or each.path, each.filesystem.uuid) if each.kind == TREE else ""
            for each in self.source.volumes
        ]

    def settle(self) -> None:
        """From now on every store through mapped memory leaves a ctime after the start (`stamps` says why)."""
        for number, volume in enumerate(self.source.volumes):
            if volume.read != LIVE or not self.filesystems[number]:
                continue
            try:
                write_back(volume.path)
            except OSError as error:
                self.filesystems[number] = ""
                said = f"{volume.path} cannot be written back ({error.strerror}), so not every change of a file shows "
                said += "in its ctime: this capture and the next read all of it; look at the kernel log and the disk"
                self.emit(Event(seq=0, time="", kind="message", phase="capture", text=said))

    def build_on(self, image: LoadedImage, stack: ExitStack) -> None:
        """Take over from an image what has not changed since."""
        old = {volume.id: volume for volume in image.manifest.volumes}
        for volume, filesystem in zip(self.source.volumes, self.filesystems, strict=True):
            if volume.id in old:
                opened = open_previous(self.depot, image, old[volume.id], filesystem, self.index.moved(volume.id))
                self.previous[volume.id] = stack.enter_context(opened)

    def read(self, jobs: int) -> None:
        """Read every volume; afterwards all packs are in the depot."""
        self.lines = [VolumeLines(self.folder / f"{number}.lines") for number in range(len(self.source.volumes))]
        supply = _Supply(self._tasks(), self._held_up)
        decoder = msgspec.msgpack.Decoder(Locate | Done | Finish)
        with pool(self._worker, jobs) as workers:
            for worker, message in workers.requests():
                request = decoder.decode(message)
                if isinstance(request, Locate):
                    workers.reply(worker, msgspec.msgpack.encode(self.index.locate(request)))
                elif isinstance(request, Finish):
                    self.index.add_packs(worker, [ObjectRef(sha256, size) for sha256, size in request.packs])
                    self.stored_bytes += sum(size for _, size in request.packs)
                    workers.reply(worker, b"")
                else:
                    supply.idle.append(worker)
                    supply.hand_out(workers)
                    self._take(worker, request)
                    supply.hand_out(workers)
                supply.prepare()
        for lines in self.lines:
            lines.close()

    def abandon(self) -> None:
        for lines in self.lines:
            lines.abandon()

    def publish_listing(self, number: int) -> Volume:
        """Put head, frames and entries of one volume together, as one object of the depot."""
        self.lease.renew()
        volume, lines = self.source.volumes[number], self.lines[number]
        used = [frame for frame, is_used in enumerate(lines.used) if is_used]
        packs = {pack.sha256: pack for pack in (self.index.frame(frame)[0] for frame in used)}
        self.packs.update(packs)
        order = {sha256: position for position, sha256 in enumerate(packs)}
        head = Head(LISTING_FORMAT, volume.id, tuple(packs), len(used), lines.entries)
        path = self.folder / f"{number}.listing"
        encoder = msgspec.json.Encoder()
        with path.open("wb") as file:
            writer = FrameWriter(file, LEVEL, FRAME_BYTES)
            writer.write(encoder.encode(head) + b"\n")
            for each in used:
                pack, frame = self.index.frame(each)
                place = (each, order[pack.sha256], frame.offset, frame.stored, frame.plain, int(frame.raw))
                writer.write(encoder.encode((*place, frame.digest.hex())) + b"\n")
            writer.flush()
            with lines.path.open("rb") as entries:
                shutil.copyfileobj(entries, file, 1 << 20)
        ref = self._publish(path)
        blocks = self.blocks.get(number)
        known = replace(volume.filesystem, used_bytes=blocks.used_bytes) if blocks else volume.filesystem
        return Volume(
            id=volume.id, kind=volume.kind, filesystem=known, listing=ref, entries=lines.entries,
            content_bytes=lines.content_bytes, packs=head.packs, disk=volume.disk, partition=volume.partition,
            size_bytes=blocks.size_bytes if blocks else 0, stamps=self._publish_stamps(number, ref),
            read=AT_REST if volume.kind == BLOCKS else volume.read, subvolume=volume.subvolume,
            subvolumes=volume.subvolumes, device=volume.device,
        )  # fmt: skip

    def _publish_stamps(self, number: int, listing: ObjectRef) -> ObjectRef | None:
        """Put head and stamps of one volume together, for the next capture; None where they mean nothing."""
        filesystem, path = self.filesystems[number], self.folder / f"{number}.stamps"
        if not filesystem:
            return None
        head = zstandard.ZstdCompressor(level=LEVEL).compress(encode_head(listing.sha256, filesystem))
        with path.open("wb") as file, self.lines[number].stamps_path.open("rb") as stamps:
            file.write(head)
            shutil.copyfileobj(stamps, file, 1 << 20)
        return self._publish(path)

    def _publish(self, path: Path) -> ObjectRef:
        with path.open("rb") as file:
            ref = ObjectRef(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)
        self.depot.put_file(listing_path(ref.sha256), path)
        return ref

    def manifest(self, capture_time: str, profile: ProfileRef, volumes: tuple[Volume, ...]) -> Manifest:
        excluded = {each.path: each for walk in self.walks.values() for each in walk.excluded.values()}
        excluded |= {each.path: each for each in self.source.left_out}  # it knows the reason better
        unreadable = [each for walk in self.walks.values() for each in walk.unreadable]
        unreadable += self.unreadable.values()
        return Manifest(
            format=format_of(volumes, self.source.stack), machine=self.source.machine, time=capture_time, tool=TOOL,
            hostname=self.source.hostname, profile=profile, disks=self.source.disks, volumes=volumes,
            packs=tuple(self.packs.values()),
            excluded=tuple(excluded[path] for path in sorted(excluded)),
            changed_while_read=tuple(sorted(self.changed))[:LISTED],
            unreadable=tuple(sorted(unreadable, key=lambda each: each.path)), boot_code=self.source.boot_code,
            stack=self.source.stack,
        )  # fmt: skip

    def result(self, manifest: Manifest, seconds: float) -> CaptureResult:
        warnings = [f"{each.path} could not be read: {each.reason}" for each in manifest.unreadable]
        warnings += [f"{path} changed while it was read" for path in manifest.changed_while_read]
        for text in warnings:
            self.emit(Event(seq=0, time="", kind="warning", phase="capture", text=text))
        return CaptureResult(
            ref=manifest.ref,
            entries=sum(volume.entries for volume in manifest.volumes),
            content_bytes=sum(volume.content_bytes for volume in manifest.volumes),
            stored_bytes=self.stored_bytes,
            packs=len(manifest.packs),
            seconds=round(seconds, 2),
            warnings=tuple(warnings),
            unchanged=sum(walk.unchanged for walk in self.walks.values()),
        )

    # --- inner ----------------------------------------------------------------------------------------------------

    def _worker(self, number: int, ask: Ask) -> None:
        """Runs in the worker process."""
        packs = Packs(self.depot, self.source.machine, self.folder, number)
        Reader([volume.path for volume in self.source.volumes], packs, ask, self.started_ns - MARGIN_NS).run()

    def _held_up(self) -> bool:
        """Whether many results wait for an earlier one."""
        return len(self._waiting) > WAITING

    def _tasks(self) -> Iterator[bytes]:
        """What workers have to do; tasks in which nothing is to be read are done here."""
        for task in self._work():
            if isinstance(task, Batch) and not task.unread:
                self._file(without_reading(task))
                if self._held_up():
                    yield NOT_NOW
            else:
                yield msgspec.msgpack.encode(task)

    def _work(self) -> Iterator[Batch | Part | Span]:
        seq = 0
        skipped: dict[tuple[int, int], str] = {}
        for volume in self.source.volumes:
            if volume.kind == TREE and (volume.filesystem.mountpoint or "/") == "/":
                skipped.update(swap_inodes(volume.path))
        if "://" not in self.depot.location:
            for volume in self.source.volumes:
                if found := status_in(volume.path, volume.live, Path(self.depot.location)):
                    skipped[found] = "the depot itself"
        patterns = DEFAULT_EXCLUDES + tuple((each.path, each.reason) for each in self.source.excludes)
        for number, volume in enumerate(self.source.volumes):
            for task in self._tasks_of(number, volume, seq, patterns, skipped):
                seq = task.seq + 1
                yield task

    def _tasks_of(
        self, number: int, volume: SourceVolume, seq: int, patterns: tuple[tuple[str, str], ...],
        skipped: dict[tuple[int, int], str],
    ) -> Iterator[Batch | Part | Span]:  # fmt: skip
        if blocks := self.blocks.get(number):
            return spans(seq, number, blocks.size_bytes, blocks.runs)
        mountpoint = volume.filesystem.mountpoint or "/"
        walk = Walk(
            number, volume.path, mountpoint, patterns, skipped,
            volume.filesystem.kind == "btrfs" and not volume.subvolume,
            self.previous.get(volume.id), self.started_ns - MARGIN_NS, volume.live,
        )  # fmt: skip
        self.walks[number] = walk
        return walk.work(seq)

    def _take(self, worker: int, done: Done) -> None:
        """File a result; lines are written in the order of the walk."""
        for row in done.frames:
            self.index.add_frame(worker, row)
        if done.seq >= 0:
            self._file(done)

    def _file(self, done: Done) -> None:
        self._waiting[done.seq] = done
        while self._emitted in self._waiting:
            self._write(self._waiting.pop(self._emitted))
            self._emitted += 1

    def _write(self, done: Done) -> None:
        if done.part and (done.volume, done.part) in self._dropped:
            return
        for name in done.changed:
            self.changed[printed(self.walks[done.volume].system_path(name))] = None
        for name, reason in done.unreadable:
            self._unread(done.volume, name, reason)
        self._dropped.update((done.volume, name) for name in done.dropped)
        if any((done.volume, target) in self._dropped for target in done.links):
            self._drop_orphans(done)
        self.lines[done.volume].add(done)
        self._progress(done.content_bytes)

    def _unread(self, volume: int, name: bytes, reason: str) -> None:
        """Of a large file the first place alone: a terabyte that vanished would have 32,768 of them."""
        path = printed(self.walks[volume].system_path(name))
        self.unreadable.setdefault((volume, name), Excluded(path, reason))

    def _drop_orphans(self, done: Done) -> None:
        """Take out the hard links whose first name vanished while it was read."""
        kept: list[Entry] = []
        stamps: list[bytes] = []
        marks = iter(done.stamps.splitlines(keepends=True))
        for entry in msgspec.json.Decoder(Entry).decode_lines(done.lines):
            mark = next(marks) if entry.type != MORE else b""
            if entry.type == HARDLINK and (done.volume, entry.target_name) in self._dropped:
                reason = "a hard link; its first name could not be read"
                self._unread(done.volume, entry.name, reason)
                done.entries -= 1
            else:
                kept.append(entry)
                stamps.append(mark)
        done.lines, done.stamps = msgspec.json.Encoder().encode_lines(kept), b"".join(stamps)

    def _progress(self, count: int) -> None:
        self._done_bytes += count
        self.lease.renew()
        now = time.monotonic()
        if now - self._told >= PROGRESS_S:
            self._told = now
            total = sum(volume.filesystem.used_bytes for volume in self.source.volumes)
            self.emit(Event(seq=0, time="", kind="progress", phase="capture", done=self._done_bytes,
                            total=max(total, self._done_bytes), unit="bytes"))  # fmt: skip
