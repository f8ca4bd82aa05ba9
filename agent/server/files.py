"""The depot's files over HTTP: read with ranges, written by digest. Only paths of the depot's layout exist here."""

from __future__ import annotations

import base64
import binascii
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec
from fastapi import Request, Response
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from agent.depot.local import LocalDepot
from agent.errors import DamagedError, NoImageError, RefusedError, StorageFullError, UsageError
from agent.model.image import Component
from agent.model.wording import printable, size_text
from agent.server.problems import TooLargeError, problem

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_TIME = r"\d{8}T\d{6}Z"
_WORD = r"[A-Za-z0-9][A-Za-z0-9.+:~_-]{0,199}"  # what package names, versions and files may hold; never a leading dot
READABLE = re.compile(
    r"depot\.json|catalogue\.json(\.sig)?"
    r"|packs/([0-9a-f]{2})/\2[0-9a-f]{62}\.pack"
    r"|objects/[0-9a-f]{64}\.jsonl\.zst"
    rf"|machines/{_NAME}/profiles/{_TIME}\.xml(\.sig)?"
    rf"|machines/{_NAME}/images/{_TIME}\.json(\.sig)?"
    rf"|components/{_WORD}/{_WORD}(/{_WORD}){{1,4}}"
    rf"|recipes(/{_WORD}){{1,4}}"
)
NAMED_BY_DIGEST = re.compile(r"(?:packs/../|objects/)([0-9a-f]{64})\..*")
COMPONENT_DOCUMENT = re.compile(r".*/component\.xml(\.sig)?")
IMMUTABLE = re.compile(r"(packs|objects)/.*|components/.*|machines/.*")
TYPES = {".json": "application/json", ".xml": "application/xml"}

BLOCK_BYTES = 1 << 20
LARGEST_FILE_BYTES = {"packs": 1 << 30, "objects": 4 << 30, "components": 8 << 30}
FLOOR_SHARE = 0.05
FLOOR_MOST_BYTES = 1 << 30


class DepotFile(FileResponse):
    """A file in pieces large enough for a fast network; more than one range in a request gets the whole file."""

    chunk_size = BLOCK_BYTES
    max_ranges = 1


# --- reading ------------------------------------------------------------------------------------------------------


def serve_file(depot: LocalDepot, path: str, request: Request) -> Response:
    """GET and HEAD of a depot file: whole (200), one range (206, 416), or not at all because it is known (304)."""
    place = find(depot, path)
    kind = TYPES.get(place.suffix, "application/octet-stream")
    if not IMMUTABLE.fullmatch(path):
        # Read in one go: the catalogue may be replaced between asking for its size and sending it.
        data = place.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Cache-Control": "private, no-cache"}
        return known(request, headers) or Response(data, headers=headers, media_type=kind)
    status = place.stat()
    digest = digest_in_path(path) or f"{status.st_mtime_ns:x}-{status.st_size:x}"
    headers = {"ETag": f'"{digest}"', "Cache-Control": "private, max-age=31536000, immutable"}
    unchanged = known(request, headers)
    if unchanged is not None:
        return unchanged
    if not satisfiable(request, status.st_size):
        answer = problem(416, "usage", "No such range", f"{path} has {status.st_size:,} bytes, fewer than the range")
        answer.headers.update({"Content-Range": f"bytes */{status.st_size}", **headers})
        return answer
    return DepotFile(place, headers=headers, media_type=kind, stat_result=status)


def known(request: Request, headers: dict[str, str]) -> Response | None:
    """304 when the client has this very file already."""
    tags = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    return Response(status_code=304, headers=headers) if headers["ETag"] in tags else None


def satisfiable(request: Request, size: int) -> bool:
    """Whether the file has what the Range header asks. A header that is no range is dropped (RFC 9110, 14.2)."""
    header = request.headers.get("range")
    if header is None or "," in header:
        return True
    found = re.fullmatch(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))", header.strip(), re.ASCII)
    if found is None or (found[2] and int(found[1]) > int(found[2])):
        request.scope["headers"] = [pair for pair in request.scope["headers"] if pair[0] != b"range"]
        return True
    return int(found[1]) < size if found[1] else int(found[3]) > 0 and size > 0


def find(depot: LocalDepot, path: str) -> Path:
    """The file at a path of the layout, or NoImageError. Links that lead out of the depot are not followed."""
    if not READABLE.fullmatch(path):
        raise NoImageError(f"a depot has no file ‘{printable(path, 200)}’")
    root = depot.root.resolve()
    place = (root / path).resolve()
    if not place.is_relative_to(root) or not place.is_file():
        raise NoImageError(f"the depot has no {path}")
    return place


def digest_in_path(path: str) -> str:
    """The SHA-256 that the name of a pack or a listing promises; "" for other files."""
    found = NAMED_BY_DIGEST.fullmatch(path)
    return found[1] if found else ""


# --- writing ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Received:
    """A body that lies in the staging directory, on the medium."""

    staged: Path
    sha256: str
    size_bytes: int


async def put_file(depot: LocalDepot, path: str, request: Request, floor_bytes: int | None = None) -> Response:
    """Store a pack, a listing or a payload. It gets its name only when its digest fits and it is on the medium."""
    expected = expected_digest(path, request)
    received = await receive(depot, path, request, floor_bytes)
    try:
        new = await run_in_threadpool(_keep, depot, path, received, expected)
    finally:
        received.staged.unlink(missing_ok=True)
    body = {"path": path, "sha256": received.sha256, "size_bytes": received.size_bytes}
    return Response(msgspec.json.encode(body), 201 if new else 200, media_type="application/json")


def expected_digest(path: str, request: Request) -> str:
    """The digest that the name or the Content-Digest header promises; "" for a payload without one."""
    top = path.partition("/")[0]
    if not READABLE.fullmatch(path) or top not in LARGEST_FILE_BYTES or COMPONENT_DOCUMENT.fullmatch(path):
        raise UsageError(
            f"‘{printable(path, 200)}’ cannot be put: expected packs/ab/<sha256>.pack, objects/<sha256>.jsonl.zst "
            "or components/<id>/<version>/<file>",
            "profiles, images and components are published by POST /api/v1/…",
        )
    given = re.search(r"sha-256=:([A-Za-z0-9+/=]+):", request.headers.get("content-digest", ""))
    try:
        header = base64.b64decode(given.group(1), validate=True).hex() if given else ""
    except binascii.Error:
        raise UsageError("the Content-Digest header is not sha-256=:BASE64:") from None
    promised = digest_in_path(path)
    if promised and header and promised != header:
        raise DamagedError(f"{path} and its Content-Digest {header} name different bytes")
    return promised or header


async def receive(depot: LocalDepot, path: str, request: Request, floor_bytes: int | None) -> Received:
    """The body into the staging directory, hashed as it comes."""
    staging = depot.staging
    assert staging is not None
    largest = LARGEST_FILE_BYTES[path.partition("/")[0]]
    length = request.headers.get("content-length", "0")
    if not (length.isascii() and length.isdecimal()):
        raise UsageError(f"the Content-Length of {path} is not a number of bytes")
    announced = int(length)
    check_size(path, announced, largest)
    check_room(depot, path, announced, floor_bytes)
    staged = staging / f"put-{secrets.token_hex(12)}"
    digest = hashlib.sha256()
    size = 0
    try:
        with staged.open("xb") as file:
            block = bytearray()
            async for piece in request.stream():
                block += piece
                size += len(piece)
                check_size(path, size, largest)
                if len(block) >= BLOCK_BYTES:
                    await run_in_threadpool(_store, file, block, digest.update)
                    if not announced:
                        check_room(depot, path, BLOCK_BYTES, floor_bytes)
                    block = bytearray()
            await run_in_threadpool(_store, file, block, digest.update)
            await run_in_threadpool(_flush, file)
    except BaseException as error:  # a client that went away is a cancellation; the staged bytes go with it
        staged.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(depot, path, max(announced, size), 0) from None
        raise
    return Received(staged, digest.hexdigest(), size)


def check_size(path: str, size: int, largest: int) -> None:
    if size > largest:
        raise TooLargeError(f"{path} has {size:,} bytes or more, expected at most {largest:,}")


def check_room(depot: LocalDepot, path: str, needed: int, floor_bytes: int | None) -> None:
    """Refuse before the disk is full to the brim: publishing what is already there needs a little room too."""
    usage = shutil.disk_usage(depot.root)
    floor = min(int(usage.total * FLOOR_SHARE), FLOOR_MOST_BYTES) if floor_bytes is None else floor_bytes
    if usage.free - needed < floor:
        raise _full(depot, path, needed, floor)


def _full(depot: LocalDepot, path: str, needed: int, floor: int) -> StorageFullError:
    free = shutil.disk_usage(depot.root).free
    return StorageFullError(
        f"no room for {path}: it needs {needed:,} bytes and {floor:,} stay free for the depot itself; "
        f"{free:,} bytes ({size_text(free)}) are free",
        "free or add space on the depot's disk, then repeat the same command",
    )


def _store(file: BinaryIO, block: bytearray, update: Callable[[bytearray], None]) -> None:
    update(block)
    file.write(block)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _keep(depot: LocalDepot, path: str, received: Received, expected: str) -> bool:
    """Give the staged file its name; whether the depot did not have it. One that it had is replaced by good bytes."""
    if expected and received.sha256 != expected:
        raise DamagedError(
            f"{path}: the bytes that arrived have SHA-256 {received.sha256}, expected {expected}", "send the file again"
        )
    target = depot.root / path
    had = target.is_file()
    if had and path.startswith("components/") and _published(target) and _sha256(target) != received.sha256:
        raise RefusedError(f"{path} belongs to a published component and has other content", "use another version")
    if had:
        depot.unmark({path})
    target.parent.mkdir(parents=True, exist_ok=True)
    received.staged.rename(target)
    for folder in (target.parent, target.parent.parent):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return not had


def check_payload(depot: LocalDepot, component: Component) -> None:
    """Raise unless every file of a component is there as its document says: uploads need not carry a digest."""
    for file in component.payload:
        path = f"components/{component.id}/{component.version}/{file.path}"
        place = depot.root / path
        if not place.is_file():
            raise RefusedError(f"{path} is absent", "put the payload before the document that names it")
        found = _sha256(place)
        if found != file.sha256:
            raise DamagedError(f"{path} has SHA-256 {found}, the document names {file.sha256}", "put the file again")


def _published(target: Path) -> bool:
    return (target.parent / "component.xml").exists()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
