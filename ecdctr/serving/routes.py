"""A service over HTTP: POST /score answers, GET /health, /ready and /metrics say how it does.

Any body gets 200, 400 (no JSON), 408 (too slow), 413 (too long), 415 (compressed) or 422 (JSON that
is no request), 503 where too much waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ecdctr.errors import BundleChanged, EcdctrError
from ecdctr.serving import connection
from ecdctr.serving.connection import HalfOpen, too_slow
from ecdctr.serving.json_text import NoJson, parse_json
from ecdctr.serving.rules import RequestError
from ecdctr.serving.service import SERVES, Service

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

ENDS_WITHIN = 10  # seconds that a server told to end waits for requests that are under way
GONE = 499  # as nginx counts clients that went away; nobody reads the answer
BESIDE = {503: {"Retry-After": "1"}, 408: {"Connection": "close"}}  # headers by status
ABSOLUTE = re.compile(rb"https?://[^/]*", re.IGNORECASE)  # of a request's target
Background = Callable[[Service], Awaitable[None]]


def build_app(service: Service, background: list[Background]) -> Starlette:
    """Return the routes, and what runs beside them.

    The worker, the shadow, and whatever looks for new versions.
    """

    @contextlib.asynccontextmanager
    async def running(_: Starlette) -> AsyncIterator[None]:
        jobs = [service.work(), service.shadow(), *(job(service) for job in background)]
        tasks = [asyncio.ensure_future(job) for job in jobs]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # an export under way is ended

    async def score(request: Request) -> Response:
        began = time.perf_counter()
        try:
            status, content = await _answer(service, request)
        except asyncio.CancelledError:  # told to end, and this one took too long
            status, content = 503, {"error": "The server ends; send the request to another."}
        service.metrics.requests.labels(str(status)).inc()
        service.metrics.seconds.observe(time.perf_counter() - began)
        return JSONResponse(content, status, BESIDE.get(status))

    async def health(_: Request) -> Response:
        versions = {role: scorer.version for role, scorer in service.scorers.items()}
        damage = [text for role in service.scorers if (text := service.damage(role))]
        if damage:
            return JSONResponse({"versions": versions, "errors": damage}, 503)
        return JSONResponse({"versions": versions})

    async def ready(_: Request) -> Response:
        return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    routes = [
        Route("/score", score, methods=["POST"]),
        Route("/health", health),
        Route("/ready", ready),
        Route("/metrics", metrics),
    ]
    app = Starlette(
        routes=routes,
        lifespan=running,
        middleware=[Middleware(_OriginForm)],
        exception_handlers={404: _elsewhere, 405: _elsewhere},
    )
    app.router.redirect_slashes = False  # behind a proxy it would lead to an address of our own
    return app


def settings_of(app: Starlette) -> uvicorn.Config:
    """Return how the routes are served.

    A client that never ends its request holds up the end of the server for a while only.
    """
    return uvicorn.Config(
        app,
        http=HalfOpen,
        ws="none",
        log_level="error",
        access_log=False,
        h11_max_incomplete_event_size=connection.LONGEST_HEAD,
        timeout_graceful_shutdown=ENDS_WITHIN,
        backlog=min(2048, connection.most_connections()),
    )


class _OriginForm:
    """Takes `GET http://host/health` for `GET /health`: a server must (RFC 9112, 3.2.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (start := ABSOLUTE.match(scope["raw_path"])):
            path = scope["raw_path"][start.end() :] or b"/"
            scope = {**scope, "path": unquote(path.decode("ascii")), "raw_path": path}
        await self.app(scope, receive, send)


async def _elsewhere(request: Request, error: Exception) -> Response:
    """Answer what asks for another path, or by another method, as everything else is answered."""
    status, headers = 404, None
    if isinstance(error, HTTPException):
        status, headers = error.status_code, error.headers
    what = f"{request.method} {request.url.path!a:.80}"
    text = f"There is no {what} here; POST /score, or GET /health, /ready or /metrics."
    return JSONResponse({"error": text}, status, headers)


async def _answer(service: Service, request: Request) -> tuple[int, dict[str, Any]]:
    limits = service.limits
    body = await _body(request, limits.bytes)
    if isinstance(body, tuple):
        return body
    try:
        content = parse_json(body)
    except NoJson as error:
        return 400, {"error": f"The request is {error}."}
    candidates = content.get("candidates") if isinstance(content, dict) else None
    if not isinstance(candidates, list):
        return 422, {
            "error": "Expected an object with a list 'candidates'; see request.schema.json."
        }
    if len(candidates) > limits.candidates:
        return 413, {
            "error": (
                f"{len(candidates):,} candidates; at most {limits.candidates:,} a request "
                "are scored."
            )
        }
    if SERVES not in service.scorers:
        return 503, {"error": "No version is loaded yet."}
    try:
        version, probabilities = await service.score(content)
    except RequestError as error:
        return 422, {"error": str(error)}
    except asyncio.QueueFull:
        return 503, {"error": f"{limits.waiting} requests wait already; try again."}
    except EcdctrError as error:
        return 503 if isinstance(error, BundleChanged) else 500, {"error": str(error)}
    service.metrics.candidates.inc(len(probabilities))
    return 200, {
        "version": version,
        "probabilities": [round(float(value), 7) for value in probabilities],
    }


async def _body(request: Request, most: int) -> bytes | tuple[int, dict[str, Any]]:
    """Read the bytes of a request, or make the answer to one that is compressed or too long."""
    encoding = ",".join(request.headers.getlist("content-encoding"))
    if {name.strip().lower() for name in encoding.split(",")} - {"", "identity"}:
        return 415, {
            "error": f"Content-Encoding {encoding:.20} is not read; send the body as it is."
        }
    body = bytearray()
    declared = request.headers.get("content-length", "0")
    too_long = 413, {"error": f"The request is longer than {most:,} bytes."}
    if declared.isdecimal() and int(declared) > most:  # before any of it is waited for
        return too_long
    try:
        async with asyncio.timeout(connection.COMES_WITHIN):
            async for part in request.stream():
                body += part
                if len(body) > most:
                    return too_long
    except TimeoutError:
        return 408, {"error": too_slow()}
    except ClientDisconnect:
        return GONE, {"error": "The client went away before its request was whole."}
    return bytes(body)
