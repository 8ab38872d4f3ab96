"""What goes wrong, in the shape that OpenAI clients read: `{"error": {message, type, param, code}}`.

Read `problem_of`. No text of a request and no path of this machine is repeated in an answer.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from diffembed.errors import (
    ConfigError,
    DiffEmbedError,
    InputError,
    OverflowingTextError,
    ResourceError,
    StoreError,
    UnknownNameError,
)
from diffembed.serve.batcher import DeadlineError, QueueFullError, TooLargeError

log = logging.getLogger("diffembed.serve")

STATUS_OF: tuple[tuple[type[DiffEmbedError], int, str, str], ...] = (
    (QueueFullError, 429, "rate_limit_error", "queue_full"),
    (DeadlineError, 504, "server_error", "deadline_exceeded"),
    (TooLargeError, 413, "invalid_request_error", "request_too_large"),
    (UnknownNameError, 404, "invalid_request_error", "model_not_found"),
    (OverflowingTextError, 400, "invalid_request_error", "context_length_exceeded"),
    (InputError, 400, "invalid_request_error", "invalid_input"),
    (ConfigError, 400, "invalid_request_error", "invalid_value"),
    (ResourceError, 503, "server_error", "out_of_memory"),
)
"""Error of ours -> status, type, code; the first that fits."""

CODE_OF_STATUS = {
    401: "invalid_api_key", 403: "forbidden", 404: "not_found", 405: "method_not_allowed", 413: "request_too_large",
}  # fmt: skip


class Json(Response):
    """A value as JSON; numpy arrays too, float32 with as many digits as it has."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        try:
            return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
        except TypeError:
            # A lone surrogate of a request has no UTF-8; JSON can still escape it.
            return json.dumps(content).encode("ascii")


def problem(
    status: int,
    message: str,
    *,
    type: str | None = None,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Json:
    """An answer that says what was wrong."""
    kind = type or ("server_error" if status >= 500 else "invalid_request_error")
    body = {"error": {"message": message, "type": kind, "param": param, "code": code or CODE_OF_STATUS.get(status)}}
    return Json(body, status_code=status, headers=dict(headers or {}))


def problem_of(error: DiffEmbedError) -> Json:
    """The answer to an error of ours."""
    for kind, status, type, code in STATUS_OF:
        if isinstance(error, kind):
            headers = {"retry-after": str(error.retry_after_s)} if isinstance(error, QueueFullError) else {}
            return problem(status, str(error), type=type, code=code, headers=headers)
    if isinstance(error, StoreError):
        # Its sentence names a folder of this machine, so it is for the log alone.
        log.error("index failed", extra={"facts": {"error": error.__class__.__name__, "message": str(error)}})
        message = "the index cannot be used: unfinished, damaged, or made anew in another way; the log says which"
        return problem(503, message, code="index_unavailable")
    log.error("failed", extra={"facts": {"error": error.__class__.__name__, "message": str(error)}})
    return problem(500, "the server failed; its log says where")


def add_handlers(app: FastAPI) -> None:
    """Makes every error of a route, of the router and of validation an OpenAI one."""

    async def ours(_: Request, error: Exception) -> Response:
        assert isinstance(error, DiffEmbedError)
        return problem_of(error)

    async def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = {name.lower(): value for name, value in (error.headers or {}).items()}
        return problem(error.status_code, str(error.detail), headers=headers)

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            message = f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}"
            return problem(422, message, code="invalid_request")
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        more = f" (and {len(error.errors()) - 1} more)" if len(error.errors()) > 1 else ""
        message = f"{place}: {first['msg']}{more}" if place else f"{first['msg']}{more}"
        return problem(422, message, param=place or None, code="invalid_request")

    app.add_exception_handler(DiffEmbedError, ours)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
