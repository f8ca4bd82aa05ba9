"""A depot behind a URL: ``regraft serve``, any web server, a CDN. Image bytes and publishing; see `control` for jobs.

Ranges are read with http.client straight into the caller's buffer. A connection that breaks is taken up where it
stopped; answers that may pass (5xx, 429) are tried again with growing pauses; other 4xx are final.
"""

from __future__ import annotations

import http.client
import os
import random
import re
import ssl
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar
from urllib.parse import quote, urljoin, urlsplit

import msgspec

from agent.depot.lease import lease_path
from agent.depot.store import SMALL_FILE_LIMIT_BYTES, Published, checked_path
from agent.errors import (
    DamagedError,
    NoImageError,
    NotAllowedError,
    NotTrustedError,
    RefusedError,
    RegraftError,
    StorageFullError,
    TemporaryError,
    UnreachableError,
    UsageError,
)
from agent.model.image import ObjectRef
from agent.model.undecodable import UNDECODABLE
from agent.model.wording import printable
from agent.version import VERSION

TIMEOUT_S = 30.0
ATTEMPTS = 8
FIRST_ATTEMPTS = 4  # while nothing ever answered: an address that is wrong is said to be wrong within 2 s
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 15.0
MAX_REDIRECTS = 5
BLOCK_BYTES = 1 << 20
KEPT_SPOOLS = 2  # whole files kept for servers without ranges
ANSWER_LIMIT_BYTES = 1 << 20
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
BY_CODE: dict[str, type[RegraftError]] = {
    each.code: each
    for each in (DamagedError, NoImageError, NotAllowedError, NotTrustedError, RefusedError, StorageFullError,
                 TemporaryError, UsageError)
}  # fmt: skip
BY_STATUS: dict[int, type[RegraftError]] = {
    400: UsageError, 401: NotAllowedError, 403: NotAllowedError, 405: NotAllowedError, 409: RefusedError,
    413: RefusedError, 422: DamagedError, 501: NotAllowedError, 507: StorageFullError,
}  # fmt: skip
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
T = TypeVar("T")


class Problem(msgspec.Struct):
    """application/problem+json, as far as it is read here."""

    code: str = ""
    title: str = ""
    detail: str = ""
    hint: str = ""


class _Passing(Exception):
    """A failure that may pass: said once all attempts are spent."""


class HttpDepot:
    """Connections are made when they are needed, one a thread and process."""

    def __init__(self, url: str, token: str = "", sleep: Callable[[float], None] = time.sleep) -> None:
        self.location = url
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"‘{url}’ is not a depot’s URL; expected http://HOST/ or https://HOST/")
        self._base = url.rstrip("/") + "/"
        self._token = token
        self._sleep = sleep
        self._local = threading.local()
        self._pid = os.getpid()
        self._tls: ssl.SSLContext | None = None
        self._answered = False

    @property
    def is_remote(self) -> bool:
        return True

    @property
    def staging(self) -> Path | None:
        return None

    # --- reading --------------------------------------------------------------------------------------------------

    def read(self, path: str, limit_bytes: int = SMALL_FILE_LIMIT_BYTES) -> bytes:
        def attempt() -> bytes:
            with self._request("GET", checked_path(path)) as answer:
                self._expect(answer, path, 200)
                data = answer.response.read(limit_bytes + 1)
                length = answer.response.headers.get("Content-Length")
                if len(data) > limit_bytes:
                    answer.cut()
                    raise DamagedError(
                        f"{path} of depot {self.location} is larger than {limit_bytes:,} bytes, the most allowed"
                    )
                if length and length.isdigit() and len(data) != int(length):
                    raise _Passing(f"{len(data):,} of {length} bytes came")
                return data

        return self._persist(attempt, path)

    def read_into(self, path: str, offset: int, buffer: memoryview) -> None:
        done = 0
        checked = checked_path(path)

        def attempt() -> bool:
            nonlocal done
            before = done
            try:
                done += self._range(checked, offset + done, buffer[done:])
            except _Cut as cut:
                done += cut.count
                if done > before:
                    return False  # it went on: the next attempt is a first one again
                raise _Passing(str(cut.reason)) from None
            return done == len(buffer)

        while done < len(buffer):
            self._persist(attempt, path)

    def exists(self, path: str, size_bytes: int | None = None) -> bool:
        def attempt() -> bool:
            with self._request("HEAD", checked_path(path)) as answer:
                if answer.status in (404, 410):
                    return False
                if answer.status in (405, 501):
                    return self._is_readable(path)
                self._expect(answer, path, 200)
                length = answer.response.headers.get("Content-Length", "")
                return size_bytes is None or not length.isdigit() or int(length) == size_bytes

        return self._persist(attempt, path)

    def _is_readable(self, path: str) -> bool:
        try:
            self.read_into(path, 0, memoryview(bytearray(1)))
        except FileNotFoundError:
            return False
        return True

    def _range(self, path: str, offset: int, buffer: memoryview) -> int:
        spool = self._spools().get(path)
        if spool is not None:
            return self._from_spool(path, spool, offset, buffer)
        last = offset + len(buffer) - 1
        with self._request("GET", path, {"Range": f"bytes={offset}-{last}"}) as answer:
            if answer.status == 416:
                raise self._too_short(path, offset + len(buffer))
            self._expect(answer, path, 206, 200)
            if answer.status == 200:
                spool = self._spool(path, answer)
                return self._from_spool(path, spool, offset, buffer)
            found = CONTENT_RANGE.fullmatch(answer.response.headers.get("Content-Range", ""))
            if not found:  # a connection that is cut inside the headers looks like an answer without the rest of them
                answer.cut()
                raise _Passing("the answer has no Content-Range")
            if int(found[1]) != offset:
                answer.cut()
                raise DamagedError(f"{path} of depot {self.location}: the server sent another range than was asked for")
            if int(found[2]) < last:
                raise self._too_short(path, offset + len(buffer))
            return _fill(answer.response, buffer)

    def _spools(self) -> OrderedDict[str, IO[bytes]]:
        """Whole files from a server that knows no ranges, of this process."""
        self._own_process()
        if not hasattr(self._local, "spools"):
            self._local.spools = OrderedDict()
        spools: OrderedDict[str, IO[bytes]] = self._local.spools
        return spools

    def _spool(self, path: str, answer: _Answer) -> IO[bytes]:
        length = answer.response.headers.get("Content-Length", "")
        file = tempfile.TemporaryFile()  # noqa: SIM115 - it stays open until it is pushed out
        count = 0
        try:
            while piece := answer.response.read(BLOCK_BYTES):
                file.write(piece)
                count += len(piece)
        except (OSError, http.client.HTTPException) as error:
            file.close()
            raise _Passing(str(error)) from None
        if length.isdigit() and count != int(length):
            file.close()
            raise _Passing(f"{count:,} of {length} bytes came")
        spools = self._spools()
        spools[path] = file
        while len(spools) > KEPT_SPOOLS:
            spools.popitem(last=False)[1].close()
        return file

    def _from_spool(self, path: str, spool: IO[bytes], offset: int, buffer: memoryview) -> int:
        self._spools().move_to_end(path)
        spool.seek(offset)
        done = 0
        while done < len(buffer):
            piece = spool.read(len(buffer) - done)
            if not piece:
                raise self._too_short(path, offset + len(buffer))
            buffer[done : done + len(piece)] = piece
            done += len(piece)
        return done

    # --- writing --------------------------------------------------------------------------------------------------

    def put_file(self, path: str, source: Path) -> None:
        """PUT, unless the server has it whole. ``source`` is removed once it is there."""
        size = source.stat().st_size

        def attempt() -> None:
            with source.open("rb") as file:
                headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
                with self._request("PUT", checked_path(path), headers, file) as answer:
                    self._expect(answer, path, 200, 201, 204)

        if not self.exists(path, size):
            self._persist(attempt, path)
        source.unlink()

    def publish_profile(self, xml: bytes) -> Published:
        answer = self._post("api/v1/profiles", xml, "application/xml")
        try:
            return msgspec.json.decode(answer, type=Published)
        except UNDECODABLE as error:
            raise DamagedError(f"{self.location} answered a profile with something else: {error}") from None

    def publish_image(self, manifest: bytes) -> None:
        self._post("api/v1/images", manifest, "application/json")

    def publish_component(self, xml: bytes) -> None:
        self._post("api/v1/components", xml, "application/xml")

    def publish_recipes(self, bundle: bytes) -> None:
        self._post("api/v1/recipes", bundle, "application/json")

    def hold(self, lease: str, purpose: str) -> None:
        """A server that knows no leases is no hindrance: nothing prunes its depot behind a capture's back."""
        body = msgspec.json.encode({"purpose": purpose})
        self._lease("PUT", lease, body)

    def release(self, lease: str) -> None:
        self._lease("DELETE", lease, b"")

    def _lease(self, method: str, lease: str, body: bytes) -> None:
        self._ask(method, f"api/v1/{lease_path(lease).removesuffix('.json')}", body, "leases")

    def note_pack(self, machine: str, pack: ObjectRef) -> None:
        self._ask("POST", f"api/v1/unfinished/{machine}", msgspec.json.encode(pack), "unfinished")

    def unfinished(self, machine: str) -> tuple[ObjectRef, ...]:
        answer = self._ask("POST", f"api/v1/unfinished/{machine}/claim", b"", "unfinished")
        try:
            return msgspec.json.decode(answer, type=tuple[ObjectRef, ...]) if answer else ()
        except UNDECODABLE as error:
            raise DamagedError(f"{self.location} answered with no list of packs: {error}") from None

    def _ask(self, method: str, path: str, body: bytes, what: str) -> bytes:
        """What the server answers; nothing where it does not know what is asked: it is an older one."""

        def attempt() -> bytes:
            headers = {"Content-Length": str(len(body)), "Content-Type": "application/json"}
            with self._request(method, path, headers, body) as answer:
                if answer.status in (404, 405, 501):
                    return b""
                self._expect(answer, what, 200, 204)
                data = answer.response.read(SMALL_FILE_LIMIT_BYTES + 1)
                if len(data) > SMALL_FILE_LIMIT_BYTES:
                    raise DamagedError(
                        f"{self.location} answered {path} with more than {SMALL_FILE_LIMIT_BYTES:,} bytes"
                    )
                return data

        return self._persist(attempt, what)

    def _post(self, path: str, data: bytes, content_type: str) -> bytes:
        def attempt() -> bytes:
            headers = {"Content-Length": str(len(data)), "Content-Type": content_type}
            with self._request("POST", path, headers, data) as answer:
                if answer.status in (404, 405, 501):
                    raise NotAllowedError(
                        f"{self.location} takes no images: it is a plain web server",
                        "publish through ‘regraft serve’, or into the depot’s directory",
                    )
                self._expect(answer, path, 200, 201)
                return answer.response.read(ANSWER_LIMIT_BYTES)

        return self._persist(attempt, path)

    # --- inner ----------------------------------------------------------------------------------------------------

    def _persist(self, attempt: Callable[[], T], path: str) -> T:
        pause = FIRST_PAUSE_S
        reason = ""
        number = 0
        while number < (ATTEMPTS if self._answered else FIRST_ATTEMPTS):
            if number:
                self._sleep(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, LONGEST_PAUSE_S)
            try:
                return attempt()
            except FileNotFoundError:
                raise
            except ssl.SSLCertVerificationError as error:
                raise NotTrustedError(
                    f"{self.location}: the server’s certificate is not trusted: {error.verify_message}",
                    "give the authority’s certificate in SSL_CERT_FILE, or use the right name",
                ) from None
            except (OSError, http.client.HTTPException, _Passing) as error:
                reason = str(error) or type(error).__name__
                self._drop()
            number += 1
        raise UnreachableError(
            f"{path} of depot {self.location}: {number} attempts failed, the last one: {reason}",
            "check cable, address and server, then start again: it goes on where it stopped",
        )

    def _own_process(self) -> None:
        """Connections never cross a fork: two processes would read each other's answers."""
        if self._pid != os.getpid():
            self._local = threading.local()
            self._pid = os.getpid()

    def _drop(self) -> None:
        self._own_process()
        connections: dict[tuple[str, str], http.client.HTTPConnection] = getattr(self._local, "connections", {})
        for connection in connections.values():
            connection.close()
        connections.clear()

    def _connection(self, scheme: str, netloc: str) -> http.client.HTTPConnection:
        self._own_process()
        if not hasattr(self._local, "connections"):
            self._local.connections = {}
        connections: dict[tuple[str, str], http.client.HTTPConnection] = self._local.connections
        if (scheme, netloc) not in connections:
            connections[scheme, netloc] = self._new_connection(scheme, netloc)
        return connections[scheme, netloc]

    def _new_connection(self, scheme: str, netloc: str) -> http.client.HTTPConnection:
        parts = urlsplit(f"{scheme}://{netloc}")
        host = parts.hostname or ""
        if scheme == "https":
            self._tls = self._tls or ssl.create_default_context()
            return http.client.HTTPSConnection(
                host, parts.port, timeout=TIMEOUT_S, blocksize=BLOCK_BYTES, context=self._tls
            )
        return http.client.HTTPConnection(host, parts.port, timeout=TIMEOUT_S, blocksize=BLOCK_BYTES)

    def _request(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | IO[bytes] | None = None
    ) -> _Answer:
        url = urljoin(self._base, quote(path))
        origin = urlsplit(url)[:2]
        for _ in range(MAX_REDIRECTS):
            parts = urlsplit(url)
            sent = {"User-Agent": f"regraft/{VERSION}", "Accept-Encoding": "identity", **(headers or {})}
            if self._token and parts[:2] == origin:
                sent["Authorization"] = f"Bearer {self._token}"
            connection = self._connection(parts.scheme, parts.netloc)
            target = parts.path + (f"?{parts.query}" if parts.query else "")
            connection.request(method, target, body=body, headers=sent)
            answer = _Answer(connection, connection.getresponse())
            self._answered = True
            location = answer.response.headers.get("Location", "")
            if method in ("PUT", "POST", "DELETE") or answer.status not in REDIRECTS or not location:
                return answer
            answer.cut()
            url = urljoin(url, location)
            if urlsplit(url).scheme not in ("http", "https") or (origin[0] == "https" and not url.startswith("https:")):
                raise NotAllowedError(f"{self.location} sends {path} to {url}, which is not as safe")
        raise UnreachableError(f"{path} of depot {self.location}: more than {MAX_REDIRECTS} redirects")

    def _expect(self, answer: _Answer, path: str, *statuses: int) -> None:
        """Return when the status is one of these; else the error it stands for."""
        status = answer.status
        if status in statuses:
            return
        body = answer.response.read(ANSWER_LIMIT_BYTES)
        if status in (404, 410):
            raise FileNotFoundError(f"{path} of depot {self.location}")
        if status in AGAIN:
            raise _Passing(f"the server answered {status} {answer.response.reason}")
        try:
            problem = msgspec.json.decode(body, type=Problem)
        except UNDECODABLE:
            problem = Problem()
        kind = BY_CODE.get(problem.code) or BY_STATUS.get(status, UnreachableError)
        said = problem.detail or problem.title or answer.response.reason
        hint = "give a token that may do this with --token" if kind is NotAllowedError else printable(problem.hint, 500)
        raise kind(f"{path} of depot {self.location}: the server answered {status}: {printable(said, 2000)}", hint)

    def _too_short(self, path: str, needed: int) -> DamagedError:
        return DamagedError(
            f"{path} of depot {self.location} ends before byte {needed:,}", "copy the file again from another depot"
        )


class _Cut(Exception):
    """The connection broke after ``count`` bytes."""

    def __init__(self, count: int, reason: object) -> None:
        super().__init__(count)
        self.count = count
        self.reason = reason


def _fill(response: http.client.HTTPResponse, buffer: memoryview) -> int:
    done = 0
    try:
        while done < len(buffer):
            count = response.readinto(buffer[done:])
            if not count:
                raise _Cut(done, f"{done:,} of {len(buffer):,} bytes came")
            done += count
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(done, error) from None
    return done


class _Answer:
    """A response; leaving the block makes the connection fit for the next request, or closes it."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self.response = response
        self.status = response.status

    def __enter__(self) -> _Answer:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.response.isclosed():
            self.cut()

    def cut(self) -> None:
        self.response.close()
        self._connection.close()
