"""The association rule, on the line of time."""

from __future__ import annotations

import pytest

from agent.model.association import ImagePoint, ProfilePoint, may_restore, profile_of

A1, B3, B5, A7 = (ProfilePoint(time, mark) for time, mark in (("1", "a"), ("3", "b"), ("5", "b"), ("7", "a")))


@pytest.mark.parametrize(
    ("image", "profiles", "expected"),
    [
        (ImagePoint("2", "a"), (A1,), A1),
        (ImagePoint("1", "a"), (A1,), A1),
        (ImagePoint("2", "a"), (A1, B3), A1),
        (ImagePoint("2", "b"), (A1,), None),  # changed, and no profile since
        (ImagePoint("2", "b"), (A1, B3), B3),  # changed before the image, described after it
        (ImagePoint("2", "b"), (A1, A7), None),
        (ImagePoint("4", "b"), (A1, B3, B5), B3),
        (ImagePoint("6", "a"), (A1, B3), None),  # changed back: the old profile is cut off
        (ImagePoint("6", "a"), (A1, B5, A7), A7),
        (ImagePoint("2", ""), (A1,), A1),
        (ImagePoint("2", ""), (A1, B3), None),  # who knows on which side of the change it was made
        (ImagePoint("4", ""), (B3, B5), B3),
        (ImagePoint("2", ""), (B3,), None),  # a later profile never belongs to an image of unknown hardware
        (ImagePoint("2", "a"), (), None),
    ],
)
def test_the_profile_of_an_image(
    image: ImagePoint, profiles: tuple[ProfilePoint, ...], expected: ProfilePoint | None
) -> None:
    assert profile_of(image, profiles) == expected
    assert profile_of(image, profiles[::-1]) == expected
    assert may_restore(image, profiles, same_machine=True)
    assert may_restore(image, profiles, same_machine=False) is (expected is not None)
