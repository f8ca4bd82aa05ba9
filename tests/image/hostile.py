"""What someone who may sign could make of a good file: values no program writes, lines in another order, bombs."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
from hypothesis import strategies as st

NUMBERS = st.sampled_from(
    [0, 1, -1, 2, 255, 4095, 4096, 2**20, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64, 10**30]
)
TEXTS = st.sampled_from(
    [
        "", ".", "..", "/", "//", "../outside", "etc/../../outside", "/outside", "a\0b", "a/", "/a", "a//b", "n" * 256,
        "d/" * 3000 + "x", "link/outside", "\u202e", "\U0010ffff", "!", "aGk", "aGk=", "Li4vb3V0c2lkZQ==", "0" * 64,
        "g" * 64, "dir", "file", "more", "hardlink", "link", "char", "blocks", "socket", "root", "v0", "etc", "tree",
    ]
)  # fmt: skip
VALUES = st.recursive(
    NUMBERS | TEXTS | st.none() | st.booleans() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
DEEP = b"[" * 100_000


@st.composite
def changed(draw: st.DrawFn, lines: list[Any]) -> list[Any]:
    """Some JSON documents with up to three things wrong."""
    made = copy.deepcopy(lines)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(made) - 1))
        deed = draw(st.sampled_from(["set", "set", "set", "set", "drop", "twice", "swap"]))
        if deed == "set":
            made[place] = with_value(draw, made[place])
        elif deed == "drop" and len(made) > 1:
            made.pop(place)
        elif deed == "twice":
            made.insert(place, copy.deepcopy(made[place]))
        elif deed == "swap":
            other = draw(st.integers(0, len(made) - 1))
            made[place], made[other] = made[other], made[place]
    return made


def with_value(draw: st.DrawFn, document: Any) -> Any:
    """The document with another value at one place in it."""
    if not isinstance(document, dict | list) or not document or draw(st.integers(0, 3)) == 0:
        return draw(VALUES)
    if isinstance(document, list):
        index = draw(st.integers(0, len(document) - 1))
        return [*document[:index], with_value(draw, document[index]), *document[index + 1 :]]
    key = draw(st.sampled_from(sorted(document)))
    return {**document, key: with_value(draw, document[key])}


@st.composite
def flipped(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes that were cut, or have some bits turned over, or a piece in another place."""
    made = bytearray(data)
    deed = draw(st.sampled_from(["flip", "flip", "cut", "move", "deep", "insert"]))
    at = draw(st.integers(0, len(made) - 1))
    if deed == "flip":
        for _ in range(draw(st.integers(1, 4))):
            made[draw(st.integers(0, len(made) - 1))] ^= 1 << draw(st.integers(0, 7))
    elif deed == "cut":
        del made[at:]
    elif deed == "move":
        size = draw(st.integers(1, 100))
        piece = made[at : at + size]
        del made[at : at + size]
        made[:0] = piece
    elif deed == "deep":
        made[at:at] = DEEP
    else:
        made[at:at] = draw(st.binary(min_size=1, max_size=8))
    return bytes(made)


def json_lines(documents: list[Any]) -> bytes:
    return b"".join(msgspec.json.encode(each) + b"\n" for each in documents)
