"""Which packs a capture stored, told while it runs: a capture that is cut is continued by the machine's next one.

    machines/<name>/unfinished.jsonl    a line a pack, appended before the pack is put; gone once an image is published

A line says "look whether this is there", not "this is there": packs that never arrived are passed over, and so is
whatever is no line of this kind, such as the end of a file that was cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from agent.model.image import ObjectRef
from agent.model.undecodable import UNDECODABLE

NAME = "unfinished.jsonl"
LIMIT_BYTES = 32 << 20  # some 250,000 packs, 16 TB
SHA256_CHARS = 64


def unfinished_path(machine: str) -> str:
    return f"machines/{machine}/{NAME}"


def encode_line(pack: ObjectRef) -> bytes:
    """A line with its end in front: a line that was cut before it spoils none that come after it."""
    return b"\n" + msgspec.json.encode(pack)


def decode_lines(data: bytes) -> tuple[ObjectRef, ...]:
    """The packs, each once, in the order they were told."""
    return tuple({pack.sha256: pack for pack in _packs(data.splitlines())}.values())


def _packs(lines: Iterable[bytes]) -> Iterator[ObjectRef]:
    decoder = msgspec.json.Decoder(ObjectRef)
    for line in lines:
        try:
            pack = decoder.decode(line)
        except UNDECODABLE:
            continue
        if is_pack(pack):
            yield pack


def is_pack(pack: ObjectRef) -> bool:
    """Whether this can name a pack: 64 hexadecimal digits, and a size."""
    return len(pack.sha256) == SHA256_CHARS and set(pack.sha256) <= set("0123456789abcdef") and pack.size_bytes > 0
