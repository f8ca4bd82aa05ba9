"""What a server's rehearsals found: per known target, whether its image could be restored onto it now. Pure."""

from __future__ import annotations

import msgspec

from agent.model.difference import Light, light_of, worst
from agent.model.report import Report
from agent.model.wording import printable

SENTENCE_CHARS = 300


class Rehearsed(msgspec.Struct, frozen=True, kw_only=True):
    """The newest rehearsal for one target; format of record: docs/server.md."""

    id: str
    target: str  # machine@time of its profile
    product: str
    image: str  # NAME@TIME; "" when none is alike
    why: str  # this image
    light: str  # green, amber, red
    exit_code: int  # of a restore
    message: str  # one sentence
    rehearsed: str  # when
    basis: str  # digest of image, profile, components and program: with the same nothing needs to be rehearsed again
    has_report: bool = False


def light_of_report(report: Report) -> Light:
    if report.exit_code:
        return Light.RED
    warned = Light.AMBER if report.warnings else Light.GREEN
    return worst([warned, *(light_of(item) for item in report.difference)])


def sentence_of_report(report: Report) -> str:
    """Why it is red or amber, in one sentence: the reason of the worst differences, else what would stop."""
    light = light_of_report(report)
    reasons = [item.reason for item in report.difference if light_of(item) is light] if light is not Light.GREEN else []
    if not reasons:
        reasons = [stop.message for stop in report.stops] or list(report.warnings)
    return printable("; ".join(reasons) or "it would be restored", SENTENCE_CHARS)
