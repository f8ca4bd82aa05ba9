"""Images that go: what is chosen by rules or by name, and how they are removed.

    catalogue without the image ──► manifest ──► signature ──► marks on what nothing refers to any more

In this order an image that can be chosen is whole at every moment. Cut after the first step, it can still be restored
by its full name, and is removed by naming it again. Packs and listings stay; `prune` deletes them later. Profiles stay
for good: they are small, and each tells what its machine was at a time, which decides where other images belong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from agent.depot import catalogue
from agent.depot.local import LocalDepot, now_compact, settle
from agent.depot.marks import MARKS_FILE, decode_marks, encode_marks
from agent.depot.open_jobs import images_of_jobs
from agent.depot.pins import PINNED, read_pins
from agent.depot.store import CATALOGUE_FILE, image_path, needed_paths
from agent.depot.stored import known_images, read_manifest, stored_images
from agent.errors import DamagedError, NoImageError, RefusedError
from agent.model.image import ImageRef
from agent.model.retention import Rules, Verdict, decide


def plan_forget(
    depot: LocalDepot, machines: Sequence[str], named: Sequence[ImageRef], rules: Rules, now: str
) -> tuple[Verdict, ...]:
    """A verdict for every image of ``machines`` by the rules (none named: of all machines, when there are rules),
    and for those ``named``, which go. Raises NoImageError, and RefusedError for a named image that is pinned or that a
    job of the server waits for."""
    images = known_images(depot)
    _refuse_unknown(depot, images, machines, named)
    held = _held(depot)
    _refuse_held(named, held)
    ruled = [
        image for image in images
        if rules and image not in named and (image.machine in machines or not (machines or named))
    ]  # fmt: skip
    return (*(Verdict(image, named=True) for image in named), *decide(ruled, rules, held, now))


def forget(depot: LocalDepot, images: Sequence[ImageRef], clock: Callable[[], str] = now_compact) -> None:
    """Remove images. Raises RefusedError, and removes none, when one of them is held meanwhile."""
    with depot.locked():
        _refuse_held(images, _held(depot))
        needed = frozenset[str]().union(*(_needed(depot, image) for image in images))
        index = catalogue.read_catalogue(depot)
        for image in images:
            index = catalogue.without_image(index, image)
        depot.write(CATALOGUE_FILE, catalogue.encode(index))
        for image in images:
            path = depot.root / image_path(image.machine, image.time)
            path.unlink(missing_ok=True)
            path.with_name(path.name + ".sig").unlink(missing_ok=True)
            if path.parent.is_dir():
                settle(path.parent)
        _mark(depot, needed, clock())


def references(depot: LocalDepot) -> frozenset[str]:
    """The packs and listings that any manifest of the directory names. Raises DamagedError for one not understood:
    then nobody knows what it needs."""
    return frozenset[str]().union(*(needed_paths(read_manifest(depot, ref)) for ref in stored_images(depot)))


def _needed(depot: LocalDepot, image: ImageRef) -> frozenset[str]:
    try:
        return needed_paths(read_manifest(depot, image))
    except (FileNotFoundError, DamagedError):
        return frozenset()


def _mark(depot: LocalDepot, paths: frozenset[str], now: str) -> None:
    """Let the grace period begin for those of ``paths`` that nothing refers to any more."""
    try:
        unreferenced = {path for path in paths - references(depot) if depot.exists(path)}
    except DamagedError:
        return  # prune will say so, and marks nothing either
    marks = decode_marks(depot.read(MARKS_FILE), depot.location) if depot.exists(MARKS_FILE) else {}
    new = unreferenced - marks.keys()
    if new:
        depot.write(MARKS_FILE, encode_marks({**marks, **dict.fromkeys(new, now)}))


def _refuse_unknown(
    depot: LocalDepot, images: Sequence[ImageRef], machines: Sequence[str], named: Sequence[ImageRef]
) -> None:
    for image in named:
        if image not in images:
            raise NoImageError(f"depot {depot.location} has no image {image}")
    known = {image.machine for image in images}
    for machine in machines:
        if machine not in known:
            raise NoImageError(
                f"depot {depot.location} has no image of ‘{machine}’; "
                f"it has images of: {', '.join(sorted(known)) or 'nothing'}"
            )


def _held(depot: LocalDepot) -> dict[ImageRef, str]:
    """Images that no rule takes, and why."""
    jobs = {image: f"job {job} waits for it" for image, job in images_of_jobs(depot).items()}
    return {**jobs, **{each.image: PINNED for each in read_pins(depot)}}


def _refuse_held(images: Sequence[ImageRef], held: Mapping[ImageRef, str]) -> None:
    for image in images:
        if image in held:
            unpin = f"take the pin away first: ‘regraft unpin {image}’"
            act = unpin if held[image] == PINNED else "let the job end first, or end it: ‘regraft job cancel JOB’"
            raise RefusedError(f"image {image} is not removed: {held[image]}", act)
