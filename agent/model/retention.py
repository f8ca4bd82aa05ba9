"""Which images are kept, and why. The decision only; `depot.forget` carries it out.

    images of one machine, newest first ──► rules ──► Verdict(keep, reasons) for each

A machine's newest image is never given up by a rule: what one would restore first is always there. Images dated in the
future are kept and count for no rule, because whoever can publish could otherwise push every real image out of
``last``, ``daily`` and ``within`` with a few false ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from agent.model.duration import span_text
from agent.model.image import ImageRef

TIME_FORMAT = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class Rules:
    """How much is kept; 0 means that this rule keeps nothing."""

    last: int = 0  # images
    daily: int = 0  # days that have images: the newest of each
    weekly: int = 0  # ISO weeks, likewise
    monthly: int = 0
    within_s: int = 0  # everything so near to the newest image

    def __bool__(self) -> bool:
        return any((self.last, self.daily, self.weekly, self.monthly, self.within_s))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of an image. ``reasons`` say why it is kept; there are none when it goes."""

    image: ImageRef
    reasons: tuple[str, ...] = ()
    named: bool = False  # it goes because somebody named it, not because no rule keeps it

    @property
    def keep(self) -> bool:
        return bool(self.reasons)


def decide(images: Iterable[ImageRef], rules: Rules, held: Mapping[ImageRef, str], now: str) -> tuple[Verdict, ...]:
    """A verdict for each image, by machine, newest first. ``held``: image → why no rule takes it, such as a pin.

    ``now`` is a time as names carry it.
    """
    by_machine: dict[str, list[ImageRef]] = {}
    for image in images:
        by_machine.setdefault(image.machine, []).append(image)
    return tuple(
        verdict
        for machine in sorted(by_machine)
        for verdict in _of_machine(sorted(by_machine[machine], key=lambda each: each.time, reverse=True), rules,
                                   held, now)
    )  # fmt: skip


def moment(time: str) -> datetime | None:
    """20261123T204140Z as a moment (UTC, without a zone); None when the digits are no date."""
    try:
        return datetime.strptime(time, TIME_FORMAT)
    except ValueError:
        return None


def age_s(time: str, now: str) -> int:
    """Seconds from one time of names to another, negative when it lies ahead. Raises ValueError for no date."""
    begin, end = moment(time), moment(now)
    if begin is None or end is None:
        raise ValueError(f"{time} or {now} is no date")
    return round((end - begin).total_seconds())


def _of_machine(
    newest_first: list[ImageRef], rules: Rules, held: Mapping[ImageRef, str], now: str
) -> Iterator[Verdict]:
    reasons: dict[str, list[str]] = {image.time: [] for image in newest_first}
    reasons[newest_first[0].time].append("newest")
    dated: list[tuple[str, datetime]] = []
    for image in newest_first:
        when = moment(image.time)
        if image in held:
            reasons[image.time].append(held[image])
        if when is None:
            reasons[image.time].append("its time is no date")
        elif image.time > now:
            reasons[image.time].append("dated in the future")
        else:
            dated.append((image.time, when))
    if dated and "newest" not in reasons[dated[0][0]]:
        reasons[dated[0][0]].append("newest that is not dated in the future")
    for time, reason in _by_rules(dated, rules):
        reasons[time].append(reason)
    return (Verdict(image, tuple(reasons[image.time])) for image in newest_first)


def _by_rules(dated: list[tuple[str, datetime]], rules: Rules) -> Iterator[tuple[str, str]]:
    for number, (time, _) in enumerate(dated[: rules.last], 1):
        yield time, f"last {number} of {rules.last}"
    for count, word, form in (
        (rules.daily, "day", "%Y-%m-%d"), (rules.weekly, "week", "%G-W%V"), (rules.monthly, "month", "%Y-%m"),
    ):  # fmt: skip
        seen: dict[str, str] = {}
        for time, when in dated:
            seen.setdefault(when.strftime(form), time)
        for period, time in list(seen.items())[:count]:
            yield time, f"{word} {period}"
    if rules.within_s and dated:
        newest = dated[0][1]
        for time, when in dated:
            if (newest - when).total_seconds() <= rules.within_s:
                yield time, f"within {span_text(rules.within_s)} of the newest"
