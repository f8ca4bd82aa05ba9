"""marks.json: which files of a depot nothing refers to, and since when that is known."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from agent.errors import DamagedError
from agent.model.undecodable import UNDECODABLE

MARKS_FILE = "marks.json"
FORMAT = 1


class MarksFile(msgspec.Struct, frozen=True, kw_only=True):
    """Times are 20261123T204140Z."""

    format: int
    marked: dict[str, str]  # path below the depot's root → time of the mark


def encode_marks(marks: Mapping[str, str]) -> bytes:
    file = MarksFile(format=FORMAT, marked={path: marks[path] for path in sorted(marks)})
    return msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"


def decode_marks(data: bytes, location: str) -> dict[str, str]:
    """The marks, or DamagedError."""
    try:
        found = msgspec.json.decode(data, type=MarksFile)
    except UNDECODABLE as error:
        raise DamagedError(
            f"{MARKS_FILE} of depot {location} is not understood: {error}",
            "remove the file: it only says how long something is unreferenced, and is made again",
        ) from None
    if found.format != FORMAT:
        raise DamagedError(
            f"{MARKS_FILE} of depot {location} has format {found.format}, expected {FORMAT}",
            "use a newer regraft for this depot",
        )
    return found.marked
