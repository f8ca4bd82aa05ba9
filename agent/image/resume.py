"""What captures of a machine that were cut have stored: known to its next capture, which goes on from there."""

from __future__ import annotations

from agent.depot.store import WritableDepot
from agent.errors import DamagedError
from agent.image.chunk_index import ChunkIndex
from agent.model.events import Emit, Event


def adopt_unfinished(depot: WritableDepot, machine: str, index: ChunkIndex, emit: Emit) -> None:
    """Make it known to ``index``; what is not whole is passed over."""
    packs, size = 0, 0
    for pack in depot.unfinished(machine):
        try:
            index.adopt_pack(depot, pack)
        except DamagedError as error:
            emit(Event(seq=0, time="", kind="message", phase="capture", text=f"not taken over: {error.message}"))
        else:
            packs, size = packs + 1, size + pack.size_bytes
    if packs:
        said = f"continuing a capture that was cut: {packs} packs of it are here, {size:,} bytes"
        emit(Event(seq=0, time="", kind="message", phase="capture", text=said))
