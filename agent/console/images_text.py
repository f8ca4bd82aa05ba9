"""The images of a depot in words."""

from __future__ import annotations

from collections.abc import Sequence

from agent.console.table import table
from agent.depot.catalogue import ImageFacts
from agent.model.wording import size_text

HEADERS = ("image", "host", "contents", "stored", "volumes")


def images_table(images: Sequence[ImageFacts]) -> str:
    """One line an image, newest first within each machine."""
    newest_first = sorted(images, key=lambda image: image.time, reverse=True)
    rows = [
        (f"{image.machine}@{image.time}", image.hostname, size_text(image.content_bytes), size_text(image.stored_bytes),
         ", ".join(image.volumes))
        for image in sorted(newest_first, key=lambda image: image.machine)
    ]  # fmt: skip
    return table(HEADERS, rows, right=frozenset({2, 3}))
