"""The checking worker: one listing, or one pack, from end to end.

listing ──► SHA-256, every line ──► fingerprints of the frames it names, by pack
pack    ──► length, table, the frames that listings name ──► SHA-256, frames' digests ──► chunks' ids
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import zstandard
from blake3 import blake3

from agent.depot.fetch import is_whole_length
from agent.depot.store import Depot, listing_path, pack_path
from agent.errors import DamagedError
from agent.image.entry import Entry, FrameTable
from agent.image.frames import RANGE_BYTES
from agent.image.listing import open_listing
from agent.image.pack import MAX_FRAME_BYTES, Frame, read_table
from agent.image.workers import Ask
from agent.model.image import Manifest, ObjectRef, Volume

STRUCTURE, PACKS, DECODE = DEPTHS = ("structure", "packs", "decode")
KEPT_TABLES = 16
FINGERPRINT_BYTES = 8

ChunkRow = tuple[bytes, int, int, int]  # id, frame, offset, size


class ListingTask(msgspec.Struct, tag="listing"):
    """Volume ``volume`` of image ``image``, by their places in the lists that the worker was made with."""

    image: int
    volume: int


class PackTask(msgspec.Struct, tag="pack"):
    sha256: str
    size_bytes: int
    wanted: bytes  # fingerprints of the frames that listings name


class ListingDone(msgspec.Struct, tag="listing"):
    image: int
    volume: int
    problem: str = ""
    wanted: dict[str, bytes] = msgspec.field(default_factory=dict)  # pack: fingerprints
    read: int = 0


class PackDone(msgspec.Struct, tag="pack"):
    """``bad``: offsets of the frames that are damaged; none with a problem means the whole pack."""

    sha256: str
    problem: str = ""
    bad: list[int] = msgspec.field(default_factory=list)
    read: int = 0


def fingerprint(frame: Frame) -> int:
    """A frame's place, sizes and digest in eight bytes: enough to see that listing and pack say the same."""
    text = b"%d %d %d %d %s" % (frame.offset, frame.stored, frame.plain, frame.raw, frame.digest)
    return int.from_bytes(blake3(text).digest(FINGERPRINT_BYTES), "little")


@dataclass(slots=True)
class Checker:
    """State of one worker."""

    depot: Depot
    manifests: Sequence[Manifest]
    depth: str
    ask: Ask
    done: list[ListingDone | PackDone] = field(default_factory=list)
    _tables: OrderedDict[str, dict[int, set[tuple[int, int, str]]]] = field(default_factory=OrderedDict)

    def run(self) -> None:
        decoder = msgspec.msgpack.Decoder(ListingTask | PackTask)
        for message in self.ask.tasks(self._take_done):
            task = decoder.decode(message)
            if isinstance(task, ListingTask):
                self.done.append(self._listing(task))
            else:
                self.done.append(check_pack(self.depot, task, self.depth))

    def _take_done(self) -> bytes:
        done, self.done = self.done, []
        return msgspec.msgpack.encode(done)

    # --- listings -------------------------------------------------------------------------------------------------

    def _listing(self, task: ListingTask) -> ListingDone:
        manifest = self.manifests[task.image]
        volume = manifest.volumes[task.volume]
        found = ListingDone(task.image, task.volume, read=volume.listing.size_bytes)
        sizes = {pack.sha256: pack.size_bytes for pack in manifest.packs}
        try:
            self._length(volume)
            with open_listing(self.depot, manifest, volume) as listing:
                wanted: dict[str, set[int]] = {}
                for _, frame in listing.frames:
                    wanted.setdefault(listing.frames.packs[frame.pack], set()).add(fingerprint(frame))
                for entries in listing.entries():
                    if self.depth == DECODE:
                        self._chunks(entries, listing.frames, sizes, listing.name)
                found.wanted = {pack: array("Q", sorted(prints)).tobytes() for pack, prints in wanted.items()}
        except DamagedError as error:
            found.problem = error.message
        return found

    def _length(self, volume: Volume) -> None:
        path = listing_path(volume.listing.sha256)
        if self.depot.exists(path) and not is_whole_length(self.depot, path, volume.listing.size_bytes):
            raise DamagedError(f"{path} does not have the {volume.listing.size_bytes:,} bytes that the manifest names")

    def _chunks(self, entries: list[Entry], frames: FrameTable, sizes: dict[str, int], name: str) -> None:
        """Every chunk of these entries is one that its pack's table names, with this id at this place."""
        for entry in entries:
            for chunk in entry.chunks:
                frame = frames.get(chunk.frame)
                assert frame is not None  # EntryCheck has seen it
                pack = frames.packs[frame.pack]
                table = self._table(ObjectRef(pack, sizes[pack]))
                if table is not None and (chunk.offset, chunk.size, chunk.id) not in table.get(frame.offset, ()):
                    raise DamagedError(
                        f"{name}, ‘{entry.path}’ at byte {chunk.at:,}: {pack_path(pack)} has no chunk {chunk.id} there"
                    )

    def _table(self, pack: ObjectRef) -> dict[int, set[tuple[int, int, str]]] | None:
        """The chunks of a pack by their frames' offsets; None when its table is damaged, which its own check says."""
        if pack.sha256 not in self._tables:
            found: dict[int, set[tuple[int, int, str]]] = {}
            try:
                frames, chunks = read_table(self.depot, pack)
            except DamagedError:
                return None
            for id_, number, offset, size in chunks:
                found.setdefault(frames[number].offset, set()).add((offset, size, id_.hex()))
            self._tables[pack.sha256] = found
            while len(self._tables) > KEPT_TABLES:
                self._tables.popitem(last=False)
        self._tables.move_to_end(pack.sha256)
        return self._tables[pack.sha256]


# --- packs --------------------------------------------------------------------------------------------------------


def check_pack(depot: Depot, task: PackTask, depth: str) -> PackDone:
    """One pack, as deep as asked. What is wrong stands in the result; only a depot that fails raises."""
    path = pack_path(task.sha256)
    done = PackDone(task.sha256)
    try:
        if depot.exists(path) and not is_whole_length(depot, path, task.size_bytes):
            raise DamagedError(f"{path} does not have the {task.size_bytes:,} bytes that the manifest names")
        frames, chunks = read_table(depot, ObjectRef(task.sha256, task.size_bytes))
    except DamagedError as error:
        done.problem = error.message
        return done
    wanted = array("Q", task.wanted)
    strangers = len(set(wanted) - {fingerprint(frame) for frame in frames})
    if strangers:
        done.problem = f"{path}: listings name {strangers:,} frames that its table does not have"
    elif depth != STRUCTURE:
        _content(depot, task, frames, chunks if depth == DECODE else [], done)
    return done


def _content(depot: Depot, task: PackTask, frames: list[Frame], chunks: list[ChunkRow], done: PackDone) -> None:
    """Every byte once, in order: the pack's SHA-256, frames' digests, and the ids of ``chunks``."""
    path = pack_path(task.sha256)
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(RANGE_BYTES + 2 * MAX_FRAME_BYTES))
    decompressor = zstandard.ZstdDecompressor()
    rows = iter([*chunks, (b"", -1, 0, 0)])
    row = next(rows)
    number = position = 0
    while position < task.size_bytes:
        end, last = position, number  # whole frames, some megabytes of them; behind the last frame: the rest
        while last < len(frames) and (end == position or end - position < RANGE_BYTES):
            end, last = frames[last].offset + frames[last].stored, last + 1
        if last == number:
            end = min(task.size_bytes, position + RANGE_BYTES)
        view = buffer[: end - position]
        depot.read_into(path, position, view)
        digest.update(view)
        done.read += len(view)
        for frame in frames[number:last]:
            of_frame: list[ChunkRow] = []
            while row[1] == number:
                of_frame.append(row)
                row = next(rows)
            stored = view[frame.offset - position : frame.offset - position + frame.stored]
            problem = frame_problem(frame, stored, of_frame, decompressor)
            if problem:
                done.bad.append(frame.offset)
                place = f"{path}, bytes {frame.offset:,} to {frame.offset + frame.stored:,}"
                done.problem = done.problem or f"{place}: {problem}"
            number += 1
        position = end
    if digest.hexdigest() != task.sha256 and not done.problem:
        done.problem = f"{path} has SHA-256 {digest.hexdigest()}, expected what its name says"


def frame_problem(
    frame: Frame, stored: memoryview, chunks: list[ChunkRow], decompressor: zstandard.ZstdDecompressor
) -> str:
    """What is wrong with a frame, or nothing. It is unfolded only to look at ``chunks``."""
    if blake3(stored).digest() != frame.digest:
        return "the content does not match its digest"
    if not chunks:
        return ""
    try:
        size = frame.stored if frame.raw else zstandard.frame_content_size(stored)
        if size != frame.plain or size > MAX_FRAME_BYTES:
            return f"unfolds to {size:,} bytes, expected {frame.plain:,}"
        plain = stored if frame.raw else decompressor.decompress(stored, max_output_size=frame.plain)
    except zstandard.ZstdError as error:
        return f"does not unfold: {error}"
    for id_, _, offset, size in chunks:
        if blake3(plain[offset : offset + size]).digest() != id_:
            return f"the chunk at {offset:,} does not match its id {id_.hex()}"
    return ""
