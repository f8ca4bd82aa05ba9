"""An image mounted for as long as a block of this program runs, served by a process of its own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from agent.errors import RegraftError, UsageError
from agent.image.image_tree import ImageTree
from agent.image.mount import load_fuse, mount
from agent.process import run

_FORK = multiprocessing.get_context("fork")
READY_S = 120.0  # the listings of a large image, over a slow network
END_S = 10.0


@contextmanager
def mounted(tree: ImageTree, where: Path) -> Iterator[None]:
    """The image on a directory, served by a process of its own: this one must not wait for itself."""
    load_fuse()  # what is absent is said here, where it can be answered
    ours, theirs = _FORK.Pipe(duplex=False)
    server = _FORK.Process(target=_serve, args=(tree, where, theirs), name="image", daemon=True)
    server.start()
    theirs.close()
    try:
        said = ours.recv() if ours.poll(READY_S) else "it did not begin in time"
        if said:
            raise UsageError(said)
        yield
    except EOFError:
        raise UsageError("libfuse ended before the image was mounted") from None
    finally:
        if os.path.ismount(where):
            run(["umount", "--lazy", where])
        server.join(END_S)
        if server.is_alive():
            server.kill()
            server.join()
        ours.close()


def _serve(tree: ImageTree, where: Path, pipe: Connection) -> None:
    try:
        mount(tree, where, lambda: pipe.send(""), background=False, others=False)
    except RegraftError as error:
        pipe.send(error.message)
