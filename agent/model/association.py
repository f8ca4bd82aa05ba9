"""Which profile an image belongs to, and where it may therefore be restored.

    profile A ──── image 1 ──── hardware changes ──── image 2 ──── profile B ──── image 3
    image 1 belongs to A; image 2 to none, until B is made; image 3 to B

An image belongs to a profile of the fingerprint that its machine had when it was made, with no other fingerprint
seen in between. A profile made after a change never belongs to an image made before it. Restoring onto the same
machine is always possible; dissimilar hardware needs the profile, for without it nobody knows what differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProfilePoint:
    """A profile of one machine. Times sort as text: 20261123T204140Z."""

    time: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class ImagePoint:
    """An image of the same machine; ``fingerprint`` is what the machine had when it was made, "" when unknown."""

    time: str
    fingerprint: str


def profile_of(image: ImagePoint, profiles: Sequence[ProfilePoint]) -> ProfilePoint | None:
    """The profile that the image belongs to, None when there is none.

    Known fingerprint: the nearest profile that has it and is not cut off from the image by another fingerprint;
    an earlier one before a later one. Unknown: the last profile before the image, if no later one says that the
    hardware changed since.
    """
    ordered = sorted(profiles, key=lambda profile: profile.time)
    before = [profile for profile in ordered if profile.time <= image.time]
    after = [profile for profile in ordered if profile.time > image.time]
    if not image.fingerprint:
        last = before[-1] if before else None
        unchanged = last is not None and (not after or after[0].fingerprint == last.fingerprint)
        return last if unchanged else None
    if before and before[-1].fingerprint == image.fingerprint:
        return before[-1]
    if after and after[0].fingerprint == image.fingerprint:
        return after[0]
    return None


def may_restore(image: ImagePoint, profiles: Sequence[ProfilePoint], same_machine: bool) -> bool:
    """Whether the image may be restored onto a target that is, or is not, the machine it was made of."""
    return same_machine or profile_of(image, profiles) is not None
