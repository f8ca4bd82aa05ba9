"""The routes under /api/v1 and the depot's files. Each names what it needs; what they do is elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeVar

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response

from agent.depot import catalogue
from agent.depot.component_xml import load_component
from agent.depot.local import LocalDepot
from agent.depot.unfinished import is_pack
from agent.errors import DamagedError, DiskSelectionError, NoImageError, RefusedError, UsageError
from agent.model.choices import read_choices, refuse_unnamed_disks
from agent.model.edit_request import EditRequest
from agent.model.events import Event
from agent.model.grow import parse_grow
from agent.model.image import NAME, TIME_IN_NAMES, ImageRef, ObjectRef
from agent.model.jobs import MODES, ON_SUCCESS, Claim, JobKeys, JobRequest, NewAttempt
from agent.model.luks_keys import by_uuid
from agent.model.machine_match import is_placeholder
from agent.model.nic_map import STOP, parse_wishes
from agent.model.recipe_bundle import LIMIT_BYTES
from agent.model.recipe_bundle import decode as decode_bundle
from agent.model.recipe_set import load_all
from agent.model.report import Report
from agent.model.spread import parse_map
from agent.model.stack_layout import KEEP, PLAIN
from agent.model.undecodable import UNDECODABLE
from agent.model.wording import printable
from agent.server.auth import Need, Role, Tokens, needs
from agent.server.edits import Edits
from agent.server.files import check_payload, put_file, serve_file
from agent.server.jobs import ANY_HINT, KEYS_FOR_ANY, Jobs, match_pair
from agent.server.problems import TooLargeError
from agent.server.rehearsals import Rehearsals
from agent.server.targets import Targets
from agent.version import VERSION

XML_LIMIT_BYTES = 4 << 20
COMPONENT_LIMIT_BYTES = 16 << 20
MANIFEST_LIMIT_BYTES = 64 << 20
JSON_LIMIT_BYTES = 1 << 20
JOB_LIMIT_BYTES = 16 << 20  # the largest key file in base64, and its job
EDIT_LIMIT_BYTES = 32 << 20
EVENTS_LIMIT_BYTES = 4 << 20
REPORT_LIMIT_BYTES = 16 << 20
EVENTS_MOST = 2000
ANY_DISK = "only-eligible"
SELECTORS = ("serial=", "wwn=", "path=", "name=")

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes work on."""

    depot: LocalDepot
    jobs: Jobs
    targets: Targets
    tokens: Tokens
    edits: Edits
    rehearsals: Rehearsals
    floor_bytes: int | None = None


def services(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


class Body:
    """Dependency: the request's body, at most ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    async def __call__(self, request: Request) -> bytes:
        data = bytearray()
        async for piece in request.stream():
            data += piece
            if len(data) > self._limit:
                raise TooLargeError(
                    f"{request.url.path}: the body has more than {self._limit >> 20} MiB, the most allowed"
                )
        return bytes(data)


Use = Annotated[Services, Depends(services)]
Xml = Annotated[bytes, Depends(Body(XML_LIMIT_BYTES))]
Json = Annotated[bytes, Depends(Body(JSON_LIMIT_BYTES))]

router = APIRouter()
files = APIRouter()


def _json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    all_headers = {"Cache-Control": "no-store", **(headers or {})}
    return Response(msgspec.json.encode(value), status, all_headers, media_type="application/json")


def _decode(data: bytes, kind: type[Value], what: str) -> Value:
    try:
        return msgspec.json.decode(data, type=kind)
    except UNDECODABLE as error:
        raise DamagedError(f"{what} is not understood: {printable(str(error), 300)}", "see docs/server.md") from None


# --- open ---------------------------------------------------------------------------------------------------------


@router.get("/healthz", openapi_extra=needs(Need.OPEN))
def healthz(use: Use) -> Response:
    """Alive, and its depot is there."""
    use.depot.info  # noqa: B018 - raises when the depot is gone
    return _json({"status": "ok"})


@router.get("/api/v1/version", openapi_extra=needs(Need.OPEN))
def version(use: Use) -> Response:
    return _json({"program": "regraft", "version": VERSION, "depot_id": use.depot.id})


# --- publishing ---------------------------------------------------------------------------------------------------


@router.post("/api/v1/profiles", openapi_extra=needs(Need.WRITE))
def publish_profile(use: Use, xml: Xml) -> Response:
    published = use.depot.publish_profile(xml)
    use.rehearsals.arrived()
    return _json({"machine": published.machine, "time": published.time, "sha256": published.sha256,
                  "path": published.path}, 201, {"Location": f"/{published.path}"})  # fmt: skip


@router.post("/api/v1/images", openapi_extra=needs(Need.WRITE))
def publish_image(use: Use, manifest: Annotated[bytes, Depends(Body(MANIFEST_LIMIT_BYTES))]) -> Response:
    """Publish when everything it names is there. The depot checks; until then nobody can choose the image."""
    ref = catalogue.decode_manifest(manifest, "the manifest").ref
    use.depot.publish_image(manifest)
    use.rehearsals.arrived()
    return _json({"image": str(ref)}, 201)


@router.post("/api/v1/components", openapi_extra=needs(Need.WRITE))
def publish_component(use: Use, xml: Annotated[bytes, Depends(Body(COMPONENT_LIMIT_BYTES))]) -> Response:
    """Publish when its payload is there, with the digests that the document names."""
    component = load_component(xml)
    check_payload(use.depot, component)
    use.depot.publish_component(xml)
    use.rehearsals.arrived()
    return _json({"component": component.id, "version": component.version}, 201)


@router.post("/api/v1/recipes", openapi_extra=needs(Need.WRITE))
def publish_recipes(use: Use, bundle: Annotated[bytes, Depends(Body(LIMIT_BYTES))]) -> Response:
    """Publish the site's recipes as one bundle, when every one can be read and none collides with another."""
    found = decode_bundle(bundle, "the bundle of recipes")
    load_all({}, depot=found.recipes)
    use.depot.publish_recipes(bundle)
    return _json({"recipes": len(found.recipes), "time": found.time}, 201)


class Purpose(msgspec.Struct):
    """The body of a lease."""

    purpose: str = ""


@router.put("/api/v1/leases/{lease}", openapi_extra=needs(Need.WRITE))
def hold_lease(use: Use, lease: str, body: Json) -> Response:
    """Take or renew a lease: prune deletes nothing that a running capture may rely on."""
    use.depot.hold(lease, printable(_decode(body, Purpose, "the lease").purpose, 200))
    return Response(status_code=204)


@router.delete("/api/v1/leases/{lease}", openapi_extra=needs(Need.WRITE))
def release_lease(use: Use, lease: str) -> Response:
    use.depot.release(lease)
    return Response(status_code=204)


@router.post("/api/v1/unfinished/{machine}", openapi_extra=needs(Need.WRITE))
def note_pack(use: Use, machine: str, body: Json) -> Response:
    """A capture of that machine is about to put this pack; the next one finds it there if this one is cut."""
    pack = _decode(body, ObjectRef, "the pack")
    if not is_pack(pack):
        raise UsageError(f"‘{printable(pack.sha256, 80)}’ of {pack.size_bytes:,} bytes is not a pack")
    use.depot.note_pack(machine, pack)
    return Response(status_code=204)


@router.post("/api/v1/unfinished/{machine}/claim", openapi_extra=needs(Need.WRITE))
def claim_unfinished(use: Use, machine: str) -> Response:
    """The packs that captures of that machine put since its last image, which prune leaves alone from now on."""
    return _json(use.depot.unfinished(machine))


# --- editing ------------------------------------------------------------------------------------------------------


@router.post("/api/v1/images/{image}/edits", openapi_extra=needs(Need.WRITE))
def edit_image(use: Use, image: str, body: Annotated[bytes, Depends(Body(EDIT_LIMIT_BYTES))]) -> Response:
    """Queue an edit of an image; the result is a new image, the old one stays."""
    asked = use.edits.ask(resolve(use.depot, image), _decode(body, EditRequest, "the edit"))
    return _json(asked, 202, {"Location": f"/api/v1/edits/{asked.id}"})


@router.get("/api/v1/edits", openapi_extra=needs(Need.READ))
def list_edits(use: Use) -> Response:
    return _json(use.edits.newest())


@router.get("/api/v1/edits/{edit_id}", openapi_extra=needs(Need.READ))
def get_edit(use: Use, edit_id: str) -> Response:
    return _json(use.edits.get(edit_id))


# --- rehearsals ---------------------------------------------------------------------------------------------------


@router.get("/api/v1/rehearsals", openapi_extra=needs(Need.READ))
def list_rehearsals(use: Use) -> Response:
    return _json(use.rehearsals.newest())


@router.post("/api/v1/rehearsals", openapi_extra=needs(Need.WRITE))
def ask_rehearsals(use: Use) -> Response:
    """Decide again for every target for which something has changed; the list tells what came of it."""
    use.rehearsals.ask()
    return _json({"status": "asked"}, 202, {"Location": "/api/v1/rehearsals"})


@router.get("/api/v1/rehearsals/{name}/report", openapi_extra=needs(Need.READ))
def rehearsal_report(use: Use, name: str) -> Response:
    return Response(use.rehearsals.report(name), media_type="application/json", headers={"Cache-Control": "no-store"})


# --- targets and jobs ---------------------------------------------------------------------------------------------


@router.post("/api/v1/targets", openapi_extra=needs(Need.AGENT))
def submit_target(use: Use, xml: Xml) -> Response:
    answer = use.targets.submit(xml)
    use.rehearsals.arrived()
    return _json(answer)


@router.get("/api/v1/targets/{target}/profile.xml", openapi_extra=needs(Need.READ))
def target_profile(use: Use, target: int) -> Response:
    return Response(use.targets.profile_xml(target), media_type="application/xml")


@router.post("/api/v1/jobs", openapi_extra=needs(Need.WRITE))
def create_job(use: Use, request: Request, body: Annotated[bytes, Depends(Body(JOB_LIMIT_BYTES))]) -> Response:
    wanted = checked_job(use.depot, _decode(body, JobRequest, "the job"))
    job, new = use.jobs.create(wanted, request.headers.get("idempotency-key", "")[:200])
    return _json(job, 201 if new else 200, {"Location": f"/api/v1/jobs/{job.id}"})


@router.get("/api/v1/jobs", openapi_extra=needs(Need.READ))
def list_jobs(use: Use) -> Response:
    return _json(use.jobs.newest())


@router.get("/api/v1/jobs/{job_id}", openapi_extra=needs(Need.READ))
def get_job(use: Use, job_id: str) -> Response:
    return _json(use.jobs.get(job_id))


@router.post("/api/v1/jobs/{job_id}/claim", openapi_extra=needs(Need.AGENT))
def claim_job(use: Use, job_id: str, body: Json) -> Response:
    return _json(use.jobs.claim(job_id, _decode(body, Claim, "the claim")))


@router.post("/api/v1/jobs/{job_id}/attempts", openapi_extra=needs(Need.WRITE))
def queue_again(
    use: Use, request: Request, job_id: str, body: Annotated[bytes, Depends(Body(JOB_LIMIT_BYTES))]
) -> Response:
    keys = _decode(body or b"{}", NewAttempt, "the attempt").luks_keys
    by_uuid(keys)
    return _json(use.jobs.queue_again(job_id, request.headers.get("idempotency-key", "")[:200], keys), 201)


@router.post("/api/v1/jobs/{job_id}/cancel", openapi_extra=needs(Need.WRITE))
def cancel_job(use: Use, job_id: str) -> Response:
    return _json(use.jobs.cancel(job_id))


@router.post("/api/v1/jobs/{job_id}/keys", openapi_extra=needs(Need.AGENT))
def job_keys(use: Use, request: Request, job_id: str) -> Response:
    """The keys of a job, for who claimed it; a POST, so that the audit tells of every time."""
    return _json(JobKeys(luks_keys=use.jobs.keys_for(job_id, _secret(request))))


@router.post("/api/v1/jobs/{job_id}/events", openapi_extra=needs(Need.AGENT))
def add_events(
    use: Use, request: Request, job_id: str, body: Annotated[bytes, Depends(Body(EVENTS_LIMIT_BYTES))]
) -> Response:
    events = _decode(body, list[Event], "the list of events")
    if len(events) > EVENTS_MOST:
        raise TooLargeError(f"{len(events):,} events in one request, expected at most {EVENTS_MOST:,}")
    return _json({"added": use.jobs.add_events(job_id, _secret(request), events)})


@router.get("/api/v1/jobs/{job_id}/events", openapi_extra=needs(Need.READ))
def get_events(
    use: Use, job_id: str, after: int = -1, limit: Annotated[int, Query(ge=1, le=EVENTS_MOST)] = 500
) -> Response:
    return _json(use.jobs.events(job_id, after, limit))


@router.put("/api/v1/jobs/{job_id}/report", openapi_extra=needs(Need.AGENT))
def put_report(
    use: Use, request: Request, job_id: str, body: Annotated[bytes, Depends(Body(REPORT_LIMIT_BYTES))]
) -> Response:
    return _json(use.jobs.put_report(job_id, _secret(request), _decode(body, Report, "the report"), body))


@router.get("/api/v1/jobs/{job_id}/report", openapi_extra=needs(Need.READ))
def get_report(use: Use, job_id: str) -> Response:
    return Response(use.jobs.report(job_id), media_type="application/json", headers={"Cache-Control": "no-store"})


def _secret(request: Request) -> str:
    return request.headers.get("regraft-claim", "")


def checked_job(depot: LocalDepot, wanted: JobRequest) -> JobRequest:
    """A job that can be carried out, its image fixed to one time. Errors name what was found."""
    kind, value = match_pair(wanted.match)
    if kind != "any" and is_placeholder(value):
        raise DamagedError(
            f"{kind} ‘{printable(value, 80)}’ is a placeholder that many machines carry; a job for it could erase "
            "the wrong one",
            "match on another property, such as mac",
        )
    if wanted.mode not in MODES or wanted.on_success not in ON_SUCCESS:
        raise DamagedError(
            f"mode ‘{printable(wanted.mode, 40)}’, on_success ‘{printable(wanted.on_success, 40)}’: expected one of "
            f"{', '.join(MODES)} and one of {', '.join(ON_SUCCESS[1:])} or nothing"
        )
    for words in (wanted.disk, *wanted.also, *wanted.map, *wanted.nic):
        if "\0" in words:
            raise DamagedError(f"‘{printable(words, 200)}’ has a NUL character, which no machine has in such a name")
    parse_wishes(wanted.nic, wanted.on_nic_tie or STOP)
    if any(" " in each for each in wanted.nic):
        raise DamagedError("nic names an interface with a blank, expected OLD=NEW")
    parse_grow(wanted.grow)
    if wanted.arrays not in ("", PLAIN, KEEP):
        raise DamagedError(f"arrays is ‘{printable(wanted.arrays, 40)}’, expected {PLAIN}, {KEEP} or nothing")
    choices = read_choices(wanted.edits, "the job’s edits")
    by_uuid(wanted.luks_keys)
    if kind == "any" and wanted.luks_keys:
        raise RefusedError(KEYS_FOR_ANY, ANY_HINT)
    for disk in (wanted.disk, *wanted.also, *(parse_map(each)[1] for each in wanted.map)):
        if disk != ANY_DISK and not (disk.startswith(SELECTORS) and disk.partition("=")[2] and len(disk) <= 200):
            raise DiskSelectionError(
                f"‘{printable(disk, 200)}’ does not select a disk", f"expected {ANY_DISK} or {'…, '.join(SELECTORS)}…"
            )
    refuse_unnamed_disks(choices, (wanted.disk, *wanted.also))
    return msgspec.structs.replace(wanted, image=str(resolve(depot, wanted.image)))


def resolve(depot: LocalDepot, text: str) -> ImageRef:
    """The image that ``NAME`` or ``NAME@TIME`` means now."""
    name, _, time = text.partition("@")
    if not NAME.fullmatch(name) or (time and not TIME_IN_NAMES.fullmatch(time)):
        raise NoImageError(f"‘{printable(text, 120)}’ does not name an image", "expected NAME or NAME@TIME")
    times = [each.time for each in catalogue.images(depot) if each.machine == name and time in ("", each.time)]
    if not times:
        raise NoImageError(f"the depot has no image {text}", "list the images with ‘regraft images’")
    return ImageRef(name, max(times))


# --- tokens -------------------------------------------------------------------------------------------------------


class TokenRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: Role
    label: str


@router.get("/api/v1/tokens", openapi_extra=needs(Need.ADMIN))
def list_tokens(use: Use) -> Response:
    return _json([{"id": each.id, "label": each.label, "role": each.role, "created": each.created,
                   "enabled": each.enabled} for each in use.tokens.records()])  # fmt: skip


@router.post("/api/v1/tokens", openapi_extra=needs(Need.ADMIN))
def create_token(use: Use, body: Json) -> Response:
    """A new token; this answer is the only place where it is ever shown."""
    wanted = _decode(body, TokenRequest, "the token's description")
    record, token = use.tokens.create(wanted.role, printable(wanted.label, 80))
    return _json({"id": record.id, "role": record.role, "token": token}, 201)


@router.delete("/api/v1/tokens/{token_id}", openapi_extra=needs(Need.ADMIN))
def disable_token(use: Use, token_id: str) -> Response:
    record = use.tokens.disable(token_id)
    return _json({"id": record.id, "enabled": record.enabled})


# --- the depot's files: these catch every path, so they are routed last -------------------------------------------


@files.api_route("/depot.json", methods=["GET", "HEAD"], openapi_extra=needs(Need.OPEN))
def depot_info(use: Use, request: Request) -> Response:
    return serve_file(use.depot, "depot.json", request)


@files.api_route("/{path:path}", methods=["GET", "HEAD"], openapi_extra=needs(Need.FILES))
def get_file(use: Use, request: Request, path: str) -> Response:
    return serve_file(use.depot, path, request)


@files.put("/{path:path}", openapi_extra=needs(Need.WRITE))
async def put_depot_file(use: Use, request: Request, path: str) -> Response:
    return await put_file(use.depot, path, request, use.floor_bytes)
