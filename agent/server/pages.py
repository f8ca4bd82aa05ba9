"""Read-only pages for people: images, jobs, targets, reports. Log in with any user name and a token as password."""

from __future__ import annotations

from itertools import groupby

import msgspec
from fastapi import APIRouter, Response
from jinja2 import DictLoader, Environment, StrictUndefined

from agent.console.html import light_text
from agent.console.report_html import report_html
from agent.depot import catalogue
from agent.model.difference import Light
from agent.model.jobs import ENDED, JobMatch, State
from agent.model.report import Report
from agent.model.wording import printable, size_text
from agent.server.api import Use
from agent.server.auth import Need, needs
from agent.server.jobs import match_pair
from agent.server.templates import STYLE, TEMPLATES

REFRESH_SECONDS = 5
EVENTS_SHOWN = 200
# No scripts at all; styles and forms from here only. A report carries its own style and nothing else.
POLICY = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; sandbox"
SIGNS = {State.DONE: "✔", State.FAILED: "✘", State.RUNNING: "▶", State.CLAIMED: "▷", State.QUEUED: "…"}

router = APIRouter()
_pages = Environment(loader=DictLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)


def _matching(match: JobMatch) -> str:
    kind, value = match_pair(match)
    return "the next machine that asks" if kind == "any" else f"{kind} {printable(value)}"


_pages.filters.update(
    size=size_text,
    clean=printable,
    matching=_matching,
    sign=lambda state: SIGNS.get(State(state), "?"),
    light=lambda light: light_text(Light(light)),
)


def _page(name: str, title: str, refresh: int = 0, **values: object) -> Response:
    html = _pages.get_template(name).render(title=title, refresh=refresh, **values)
    return _html(html, POLICY)


def _html(html: str, policy: str) -> Response:
    headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store",
               "Referrer-Policy": "no-referrer"}  # fmt: skip
    return Response(html.encode("utf-8", "backslashreplace"), headers=headers, media_type="text/html; charset=utf-8")


@router.get("/", openapi_extra=needs(Need.READ))
def images_page(use: Use) -> Response:
    found = catalogue.read_catalogue(use.depot)
    newest_first = sorted(found.images, key=lambda image: image.time, reverse=True)
    by_machine = groupby(sorted(newest_first, key=lambda image: image.machine), key=lambda image: image.machine)
    machines = [(machine, list(rows)) for machine, rows in by_machine]
    return _page("images.html", "Images", machines=machines, components=found.components, depot_id=use.depot.id,
                 public_key=use.depot.public_key)  # fmt: skip


@router.get("/ui/jobs", openapi_extra=needs(Need.READ))
def jobs_page(use: Use) -> Response:
    return _page("jobs.html", "Jobs", REFRESH_SECONDS, jobs=use.jobs.newest())


@router.get("/ui/jobs/{job_id}", openapi_extra=needs(Need.READ))
def job_page(use: Use, job_id: str) -> Response:
    job = use.jobs.get(job_id)
    events = use.jobs.talk(job_id, EVENTS_SHOWN)
    return _page("job.html", f"Job {job.id}", 0 if job.state in ENDED else REFRESH_SECONDS, job=job, events=events,
                 attempts=use.jobs.attempts(job_id), has_report=use.jobs.has_report(job_id))  # fmt: skip


@router.get("/ui/jobs/{job_id}/report", openapi_extra=needs(Need.READ))
def report_page(use: Use, job_id: str) -> Response:
    return _html(report_html(msgspec.json.decode(use.jobs.report(job_id), type=Report)), REPORT_POLICY)


@router.get("/ui/rehearsals", openapi_extra=needs(Need.READ))
def rehearsals_page(use: Use) -> Response:
    return _page("rehearsals.html", "Rehearsals", REFRESH_SECONDS, rehearsals=use.rehearsals.newest(),
                 automatic=use.rehearsals.automatic)  # fmt: skip


@router.get("/ui/rehearsals/{name}", openapi_extra=needs(Need.READ))
def rehearsal_page(use: Use, name: str) -> Response:
    return _html(report_html(msgspec.json.decode(use.rehearsals.report(name), type=Report)), REPORT_POLICY)


@router.get("/ui/targets", openapi_extra=needs(Need.READ))
def targets_page(use: Use) -> Response:
    return _page("targets.html", "Targets", REFRESH_SECONDS, targets=use.targets.newest())


@router.get("/ui/style.css", openapi_extra=needs(Need.READ))
def style() -> Response:
    return Response(STYLE, media_type="text/css", headers={"X-Content-Type-Options": "nosniff"})
