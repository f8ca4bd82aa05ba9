"""Errors as RFC 9457 problem documents; their ``code`` is that of agent.errors and stable."""

from __future__ import annotations

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from agent.errors import (
    DamagedError,
    DiskSelectionError,
    NoImageError,
    NotAllowedError,
    NotTrustedError,
    RefusedError,
    RegraftError,
    StorageFullError,
    TemporaryError,
    UsageError,
)
from agent.model.jobs import Problem
from agent.model.wording import well_formed

STATUS: tuple[tuple[type[RegraftError], int, str], ...] = (
    (UsageError, 400, "The request is not understood"),
    (DiskSelectionError, 400, "The disk selector is not understood"),
    (NotAllowedError, 403, "Not allowed"),
    (NoImageError, 404, "No such thing"),
    (RefusedError, 409, "Refused in this state"),
    (NotTrustedError, 422, "Not trusted"),
    (DamagedError, 422, "What arrived is not what was announced"),
    (StorageFullError, 507, "The depot has no room"),
    (TemporaryError, 503, "Try again later"),
)
BY_HTTP = {404: "no-image", 405: "usage", 413: "refused", 415: "usage"}


class TooLargeError(RegraftError):
    """A body larger than anything of its kind should be."""

    exit_code, code = RefusedError.exit_code, RefusedError.code


class NotAuthenticatedError(NotAllowedError):
    """No token, or one that nobody has."""


def problem(status: int, code: str, title: str, detail: str, hint: str = "") -> Response:
    body = Problem(title=title, status=status, code=code, detail=well_formed(detail), hint=well_formed(hint))
    headers = {"Cache-Control": "no-store"}
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="regraft", Basic realm="regraft: the password is a token"'
    return Response(msgspec.json.encode(body), status, headers, media_type="application/problem+json")


def of_error(error: RegraftError) -> Response:
    if isinstance(error, TooLargeError):
        return problem(413, error.code, "Too large", error.message, error.hint)
    if isinstance(error, NotAuthenticatedError):
        return problem(401, error.code, "Not allowed", error.message, error.hint)
    for kind, status, title in STATUS:
        if isinstance(error, kind):
            return problem(status, error.code, title, error.message, error.hint)
    return problem(500, error.code, "The server failed", error.message, error.hint)


def install(app: FastAPI) -> None:
    """Every error of the application leaves as a problem document."""

    @app.exception_handler(RegraftError)
    def regraft_error(_request: Request, error: RegraftError) -> Response:
        return of_error(error)

    @app.exception_handler(Exception)
    def bug(request: Request, error: Exception) -> Response:
        # Its text may name paths of this machine; it goes to the server's log, not to whoever asks.
        detail = f"{request.method} {request.url.path}: {type(error).__name__}"
        return problem(500, "unexpected", "The server failed", detail, "the server's log says more")

    @app.exception_handler(HTTPException)
    def http_error(request: Request, error: HTTPException) -> Response:
        code = BY_HTTP.get(error.status_code, "unexpected")
        detail = f"{request.method} {request.url.path}: {error.detail}"
        return problem(error.status_code, code, str(error.detail), detail)
