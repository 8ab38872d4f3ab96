"""What every request passes before a route sees it, and every answer after: keys, limits, headers, one line of log.

Read `Guard.__call__`. Pure ASGI: nothing is buffered, and a route can still hear that its client went away.
"""

import asyncio
import json
import logging
import secrets
import sys
import time
import traceback
from collections.abc import Awaitable
from typing import Any, TypeVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffembed.serve.metrics import Metrics
from diffembed.serve.problems import problem
from diffembed.serve.settings import ServeSettings

Result = TypeVar("Result")

PUBLIC_PATHS = ("/", "/health", "/favicon.ico")
"""Beside everything below /static/: what the page needs before it can ask for a key, and what load balancers ask."""

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

CLIENT_GONE = 499
"""What the log and the metrics call a request whose client went away; nobody reads it as an answer."""

log = logging.getLogger("diffembed.serve")


class ClientGoneError(Exception):
    """The client closed its connection before the answer was ready."""


class Guard:
    """The outermost layer of ours."""

    def __init__(self, app: ASGIApp, *, settings: ServeSettings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._allowed_hosts = frozenset(map(str.lower, settings.allowed_hosts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, whatever happens inside."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        state = scope.setdefault("state", {})
        facts: dict[str, Any] = {"id": secrets.token_hex(8), "caller": None}
        state["facts"] = facts
        answer = _Answer(send, facts["id"], scope)
        try:
            if refusal := self._refuse(scope, facts):
                await refusal(scope, receive, answer)
            else:
                await self._app(scope, self._limited(receive), answer)
        except ClientGoneError:
            answer.status = CLIENT_GONE
        except Exception as error:
            # The message of an error may hold a text, its place never does.
            trace = [
                f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
            ]
            log.error("failure", extra={"facts": {"id": facts["id"], "error": type(error).__name__, "trace": trace}})
            if not answer.has_started:
                await problem(500, "the server failed; its log says where")(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", None) or ("/static" if _is_static(scope) else "unmatched")
            self._metrics.request(route, answer.status, seconds)
            log.info(
                "request",
                extra={
                    "facts": {
                        "method": scope["method"], "route": route, "status": answer.status,
                        "ms": round(seconds * 1000, 1), **facts,
                    }
                },
            )  # fmt: skip

    def _refuse(self, scope: Scope, facts: dict[str, Any]) -> Any:
        headers = Headers(scope=scope)
        if self._allowed_hosts and _host_of(headers.get("host", "")) not in self._allowed_hosts:
            return problem(
                403, "this server is not called by that host name; see --allowed-host", code="host_not_allowed"
            )
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._settings.max_body_bytes:
            return problem(413, self._too_long(), headers={"connection": "close"})
        is_public = scope["path"] in PUBLIC_PATHS or _is_static(scope)
        if self._settings.api_keys and not is_public:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            position = self._settings.find_key(given.strip()) if scheme.lower() == "bearer" else None
            if position is None:
                return problem(
                    401, "a valid key is needed: Authorization: Bearer KEY", headers={"www-authenticate": "Bearer"}
                )
            facts["caller"] = position
        return None

    def _too_long(self) -> str:
        return f"the body is longer than {self._settings.max_body_bytes:,} bytes; split the request into several"

    def _limited(self, receive: Receive) -> Receive:
        """`receive` that counts: a body without a length, or with a wrong one, is stopped where it passes the limit."""
        num_bytes = 0

        async def counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._settings.max_body_bytes:
                raise HTTPException(413, self._too_long(), headers={"connection": "close"})
            return message

        return counted


class _Answer:
    """`send` that adds the headers of every answer and remembers the status."""

    def __init__(self, send: Send, request_id: str, scope: Scope) -> None:
        self._send = send
        self._request_id = request_id
        self._scope = scope
        self.status = 500
        self.has_started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.has_started = message["status"], True
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self._request_id
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            if not _is_static(self._scope):
                headers.setdefault("cache-control", "no-store")
            # While draining, every answer is the last one of its connection, so that none is cut under a request.
            if getattr(self._scope["app"].state, "is_draining", False):
                headers["connection"] = "close"
        await self._send(message)


def note(request: Request, **facts: Any) -> None:
    """Adds counts to the line that the log will have of the request; never a text."""
    request.scope["state"]["facts"].update(facts)


async def unless_gone(request: Request, work: Awaitable[Result]) -> Result:
    """The result of the work, which is cancelled when the client goes away first."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        for future in (task, gone):
            future.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _is_static(scope: Scope) -> bool:
    return scope["path"].startswith("/static/")


def _host_of(value: str) -> str:
    """The name of a Host header without its port."""
    if value.startswith("["):
        return value[1:].partition("]")[0].lower()
    return value.rpartition(":")[0].lower() if ":" in value else value.lower()


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        facts = getattr(record, "facts", None) or {}
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {"time": stamp, "level": record.levelname.lower(), "event": record.getMessage(), **facts}
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
        return json.dumps(line)


def start_logging(level: str = "info") -> None:
    """Sends our lines and those of uvicorn to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, least in (("diffembed.serve", level), ("uvicorn", "warning")):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(least.upper())
