"""Which images are kept: by each rule, by pins, and what no rule may take."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta

import pytest

from agent.model.image import ImageRef
from agent.model.retention import Rules, Verdict, age_s, decide

NOW = "20261124T120000Z"


def ref(time: str, machine: str = "web-1") -> ImageRef:
    return ImageRef(machine, time)


def kept(verdicts: tuple[Verdict, ...]) -> list[str]:
    return [verdict.image.time for verdict in verdicts if verdict.keep]


def hourly(count: int, step_h: int = 6) -> list[ImageRef]:
    """Newest first, going back from noon."""
    newest = datetime(2026, 11, 24, 11)
    return [ref((newest - timedelta(hours=step_h * n)).strftime("%Y%m%dT%H%M%SZ")) for n in range(count)]


def test_the_last_ones_are_kept() -> None:
    images = hourly(10)
    verdicts = decide(images, Rules(last=3), {}, NOW)
    assert [verdict.image for verdict in verdicts] == images
    assert kept(verdicts) == [image.time for image in images[:3]]
    assert verdicts[0].reasons == ("newest", "last 1 of 3") and verdicts[3].reasons == ()


def test_the_newest_of_each_day_is_kept_and_days_without_images_do_not_count() -> None:
    images = [ref(time) for time in (
        "20261124T080000Z", "20261124T060000Z", "20261123T230000Z", "20261123T010000Z", "20261101T120000Z",
        "20261015T120000Z",
    )]  # fmt: skip
    assert kept(decide(images, Rules(daily=3), {}, NOW)) == [
        "20261124T080000Z", "20261123T230000Z", "20261101T120000Z"
    ]  # fmt: skip


def test_weeks_are_iso_weeks_across_the_year() -> None:
    # 2027-01-01 is a Friday and belongs to week 53 of 2026, as does 2026-12-28.
    images = [ref(time) for time in ("20270104T000000Z", "20270101T000000Z", "20261228T000000Z", "20261227T000000Z")]
    verdicts = decide(images, Rules(weekly=3), {}, "20270105T000000Z")
    assert kept(verdicts) == ["20270104T000000Z", "20270101T000000Z", "20261227T000000Z"]
    assert verdicts[1].reasons == ("week 2026-W53",)


def test_the_newest_of_each_month_is_kept() -> None:
    images = [ref(time) for time in ("20261124T000000Z", "20261101T000000Z", "20261031T235959Z", "20260101T000000Z")]
    assert kept(decide(images, Rules(monthly=2), {}, NOW)) == ["20261124T000000Z", "20261031T235959Z"]


def test_within_counts_from_the_newest_image_not_from_now() -> None:
    """A machine that is not captured any more does not lose what it has."""
    images = [ref(time) for time in ("20200310T120000Z", "20200303T120000Z", "20200303T115959Z")]
    assert kept(decide(images, Rules(within_s=7 * 86_400), {}, NOW)) == ["20200310T120000Z", "20200303T120000Z"]


def test_rules_add_up() -> None:
    images = hourly(40)
    both = kept(decide(images, Rules(last=2, daily=4), {}, NOW))
    assert set(both) == {*kept(decide(images, Rules(last=2), {}, NOW)), *kept(decide(images, Rules(daily=4), {}, NOW))}


@pytest.mark.parametrize(
    "rules", [Rules(last=1), Rules(daily=1), Rules(weekly=1), Rules(monthly=1), Rules(within_s=1), Rules()]
)
def test_the_newest_and_the_pinned_always_stay(rules: Rules) -> None:
    images = hourly(20)
    pinned = dict.fromkeys((images[13], images[7]), "pinned")
    assert kept(decide(images, rules, pinned, NOW)) == [images[n].time for n in (0, 7, 13)]


def test_machines_are_apart_and_in_order() -> None:
    images = [ref(image.time, machine) for machine in ("b", "a") for image in hourly(3)]
    verdicts = decide(images, Rules(last=1), {images[2]: "pinned"}, NOW)
    assert [(each.image.machine, each.keep) for each in verdicts] == [
        ("a", True), ("a", False), ("a", False), ("b", True), ("b", False), ("b", True),
    ]  # fmt: skip


def test_images_dated_in_the_future_push_no_real_one_out() -> None:
    """Whoever may publish could otherwise make every real image be forgotten."""
    real = hourly(5)
    false = [ref(f"2099010{n}T000000Z") for n in range(1, 9)]
    alone = kept(decide(real, Rules(last=2, daily=1, within_s=7 * 3600), {}, NOW))
    mixed = decide([*real, *false], Rules(last=2, daily=1, within_s=7 * 3600), {}, NOW)
    assert set(alone) <= set(kept(mixed)) and real[0].time in kept(mixed)
    assert all("dated in the future" in verdict.reasons for verdict in mixed if verdict.image in false)


def test_a_time_that_is_no_date_is_kept_and_counts_for_nothing() -> None:
    verdicts = decide([ref("20269999T000000Z"), *hourly(3)], Rules(last=1), {}, NOW)
    assert "its time is no date" in verdicts[0].reasons
    assert kept(verdicts)[1:] == [hourly(1)[0].time]


def test_the_order_of_what_is_given_does_not_matter() -> None:
    images = hourly(5, step_h=20)
    wanted = decide(images, Rules(last=1, daily=2), {}, NOW)
    for order in itertools.permutations(images):
        assert decide(order, Rules(last=1, daily=2), {}, NOW) == wanted


def test_ages() -> None:
    assert age_s("20261123T120000Z", NOW) == 86_400
    assert age_s("20261124T120001Z", NOW) == -1
    with pytest.raises(ValueError, match="no date"):
        age_s("20269999T000000Z", NOW)
