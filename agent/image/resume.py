"""What is in the depot for a capture to build on: the machine's last image, and what captures that were cut stored."""

from __future__ import annotations

from agent.depot.catalogue import LoadedImage
from agent.depot.store import Depot, WritableDepot, image_path
from agent.errors import DamagedError
from agent.image.chunk_index import ChunkIndex
from agent.model.events import Emit, Event


def adopt_image(depot: Depot, image: LoadedImage | None, index: ChunkIndex, emit: Emit) -> bool:
    """Make the content of the last image known; whether there is one, and it can be built on.

    Looked for only now that the capture has its lease: an image that is gone by now may lose its packs.
    """
    if image is None or not depot.exists(image_path(image.manifest.machine, image.manifest.time)):
        return False
    try:
        index.load(depot, image)
    except DamagedError as error:
        said = f"nothing is taken over from image {image.manifest.ref}: {error.message}"
        emit(Event(seq=0, time="", kind="message", phase="capture", text=said))
        return False
    return True


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
