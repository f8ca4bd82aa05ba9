"""Events for programs: one JSON object a line, the same objects that the server stores."""

from __future__ import annotations

import json
from typing import TextIO

import msgspec

from agent.model.events import Event
from agent.model.wording import well_formed


class JsonLines:
    """An Emit that prints every event, in ASCII: the stream may be a serial line with no encoding of its own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        fields = msgspec.to_builtins(msgspec.structs.replace(event, text=well_formed(event.text)))
        self._stream.write(json.dumps(fields, ensure_ascii=True, separators=(",", ":")) + "\n")
        self._stream.flush()
