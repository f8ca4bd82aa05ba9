"""Images and profiles are known by machine and second. Two in one second: the later one waits for the next.

A time ahead of the clock would make an image count as one of the future, which no rule of retention may take.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from agent.depot.store import SMALL_FILE_LIMIT_BYTES, Depot, image_path, profile_path
from agent.model.profile import Profile
from agent.model.profile_xml import dump_profile

_SECOND_S = 1.0


def free_image_time(depot: Depot, machine: str) -> str:
    """Now, as names carry it (20261123T204140Z), or the first second after it that no image of this machine has."""
    return _free(lambda moment: not depot.exists(image_path(machine, f"{moment:%Y%m%dT%H%M%SZ}"))).strftime(
        "%Y%m%dT%H%M%SZ"
    )


def with_free_time(depot: Depot, profile: Profile) -> Profile:
    """The profile as it is where no other one of its machine has its time; else with the next second that is free."""
    path = profile_path(profile.machine, profile.time.replace("-", "").replace(":", ""))
    if not depot.exists(path) or depot.read(path, SMALL_FILE_LIMIT_BYTES) == dump_profile(profile):
        return profile
    moment = _free(lambda moment: not depot.exists(profile_path(profile.machine, f"{moment:%Y%m%dT%H%M%SZ}")))
    return replace(profile, time=f"{moment:%Y-%m-%dT%H:%M:%SZ}")


def _free(is_free: Callable[[datetime], bool]) -> datetime:
    while not is_free(moment := datetime.now(UTC)):
        time.sleep(_SECOND_S - moment.microsecond / 1e6)
    return moment
