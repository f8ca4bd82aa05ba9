"""What a listing is made of: entries, their chunks, and the frames those lie in."""

from __future__ import annotations

import base64
import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from operator import lt

import msgspec

from agent.image.pack import Frame

PART_BYTES = 32 << 20  # files larger than this continue in lines of type "more"
MAX_NAME_BYTES = 255
HEX_DIGEST_CHARS = 64
FILE, DIRECTORY, SYMLINK, HARDLINK = "file", "dir", "link", "hardlink"
CHAR, BLOCK, FIFO, SOCKET, MORE = "char", "block", "fifo", "socket", "more"
BLOCKS = "blocks"  # the one entry of a volume that is a partition's used blocks
TYPES = frozenset({FILE, DIRECTORY, SYMLINK, HARDLINK, CHAR, BLOCK, FIFO, SOCKET, MORE, BLOCKS})


class Chunk(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A run of a file's bytes: at this offset of the file, this many, found in that frame at that offset."""

    at: int
    size: int
    frame: int
    offset: int
    id: str  # BLAKE3 of the bytes, hexadecimal


class Entry(msgspec.Struct, omit_defaults=True, gc=False):
    """One line. Text that is not UTF-8 is replaced for people and exact in ``raw``/``raw_target`` (base64)."""

    path: str  # relative to the volume's root, "" is the root itself
    type: str
    mode: int = 0  # permission bits, with setuid, setgid and sticky
    uid: int = 0
    gid: int = 0
    mtime: int = 0  # nanoseconds since 1970
    size: int = 0  # of a file or partition: its bytes; of a line "more": where in it this part begins
    chunks: tuple[Chunk, ...] = ()
    target: str = ""  # of a symbolic link: its text; of a hard link: path of the entry it is another name of
    device: tuple[int, int] | None = None  # major, minor
    xattrs: dict[str, str] | None = None  # name: base64
    flags: int = 0  # FS_IOC_GETFLAGS, only those that a restore sets
    raw: str = ""
    raw_target: str = ""
    zeros: tuple[tuple[int, int], ...] = ()  # of blocks: used and zero, (at, size); what is between is not used

    @property
    def name(self) -> bytes:
        """The path's exact bytes."""
        return decoded_name(self.path, self.raw)

    @property
    def target_name(self) -> bytes:
        return decoded_name(self.target, self.raw_target)


FrameLine = tuple[int, int, int, int, int, int, str]  # number, pack, offset, stored, plain, raw, digest


def text_and_raw(name: bytes) -> tuple[str, str]:
    """How a name is written into a line: readable text, and base64 where that is not exact."""
    try:
        return name.decode(), ""
    except UnicodeDecodeError:
        return name.decode(errors="replace"), base64.b64encode(name).decode()


def decoded_name(text: str, raw: str) -> bytes:
    """The exact bytes again."""
    return base64.b64decode(raw) if raw else text.encode()


class FrameTable:
    """The frames a listing refers to, packed: 61 bytes a frame."""

    _ROW = struct.Struct("<IQIIB32s")

    def __init__(self, packs: tuple[str, ...]) -> None:
        self.packs = packs
        self._numbers = array("Q")
        self._rows = bytearray()

    def add(self, number: int, frame: Frame) -> None:
        if self._numbers and number <= self._numbers[-1]:
            raise ValueError(f"frame {number} is not in order")
        self._numbers.append(number)
        self._rows += self._ROW.pack(frame.pack, frame.offset, frame.stored, frame.plain, frame.raw, frame.digest)

    def add_all(self, lines: Sequence[FrameLine]) -> None:
        """Many at once: nothing is added where one is not good."""
        numbers, packs, offsets, stored, plain, raw, digests = zip(*lines, strict=True)
        last = self._numbers[-1] if self._numbers else -1
        if not all(map(lt, (last, *numbers), numbers)):
            raise ValueError("frames are not in order")
        columns = packs, offsets, stored, plain, map(bool, raw), map(bytes.fromhex, digests)
        rows = b"".join(map(self._ROW.pack, *columns))
        self._numbers += array("Q", numbers)
        self._rows += rows

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[tuple[int, Frame]]:
        """Every frame with its number, in order."""
        for number, row in zip(self._numbers, self._ROW.iter_unpack(self._rows), strict=True):
            pack, offset, stored, plain, raw, digest = row
            yield number, Frame(pack, offset, stored, plain, bool(raw), digest)

    def get(self, number: int) -> Frame | None:
        index = bisect_left(self._numbers, number)
        if index == len(self._numbers) or self._numbers[index] != number:
            return None
        pack, offset, stored, plain, raw, digest = self._ROW.unpack_from(self._rows, index * self._ROW.size)
        return Frame(pack, offset, stored, plain, bool(raw), digest)
