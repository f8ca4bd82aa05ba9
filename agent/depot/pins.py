"""Pins: images that are never forgotten. pins.json at the depot's root."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from agent.depot.local import LocalDepot, now_compact
from agent.depot.store import SMALL_FILE_LIMIT_BYTES, Depot, image_path
from agent.errors import DamagedError, NoImageError
from agent.model.image import ImageRef
from agent.model.undecodable import UNDECODABLE

PINS_FILE = "pins.json"
PINNED = "pinned"  # why such an image is kept
FORMAT = 1


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    machine: str
    time: str
    since: str  # 20261123T204140Z

    @property
    def image(self) -> ImageRef:
        return ImageRef(self.machine, self.time)


class PinsFile(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    pins: tuple[Pin, ...] = ()


def read_pins(depot: Depot) -> tuple[Pin, ...]:
    """The pins of a depot, by machine and time."""
    try:
        found = msgspec.json.decode(depot.read(PINS_FILE, SMALL_FILE_LIMIT_BYTES), type=PinsFile)
    except FileNotFoundError:
        return ()
    except UNDECODABLE as error:
        raise DamagedError(
            f"{PINS_FILE} of depot {depot.location} is not understood: {error}",
            "put it right, or remove it and pin again",
        ) from None
    if found.format != FORMAT:
        raise DamagedError(
            f"{PINS_FILE} of depot {depot.location} has format {found.format}, expected {FORMAT}",
            "use a newer regraft for this depot",
        )
    return found.pins


def pin(depot: LocalDepot, images: Sequence[ImageRef]) -> tuple[Pin, ...]:
    """Pin images that are there, or none of them; those that are pinned keep their time. The pins asked for."""
    with depot.locked():
        pins = {each.image: each for each in read_pins(depot)}
        for image in images:
            if not depot.exists(image_path(image.machine, image.time)):
                raise NoImageError(f"depot {depot.location} has no image {image}")
            now = now_compact()
            pins.setdefault(image, Pin(machine=image.machine, time=image.time, since=now))
        _write(depot, pins.values())
        return tuple(pins[image] for image in images)


def unpin(depot: LocalDepot, images: Sequence[ImageRef]) -> None:
    """Take pins away. Raises NoImageError when one of them is not pinned; then all stay."""
    with depot.locked():
        pins = {each.image: each for each in read_pins(depot)}
        for image in images:
            if image not in pins:
                raise NoImageError(
                    f"image {image} is not pinned in depot {depot.location}", "‘regraft pin’ lists what is pinned"
                )
        _write(depot, [each for each in pins.values() if each.image not in images])


def _write(depot: LocalDepot, pins: Iterable[Pin]) -> None:
    file = PinsFile(format=FORMAT, pins=tuple(sorted(pins, key=lambda each: (each.machine, each.time))))
    depot.write(PINS_FILE, msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n")
