"""A scorer over HTTP: one user and their candidates per request, the promoted version behind it, without a restart.

POST /score takes a request as the bundle's request.schema.json says and answers {"version": …, "probabilities": […]}.
GET /health says that the process lives, /ready that it can score, /metrics speaks to Prometheus. Requests that arrive
while others are being scored go through the network together. A new version takes over between two such batches, so no
request is dropped; a shadow version scores the same requests after they are answered, and only the difference is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ecdctr.console import log
from ecdctr.errors import EcdctrError
from ecdctr.serving.request import NoJson, RequestError, parse_json
from ecdctr.serving.scorer import Scorer

SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)
DIFFERENCES = (1e-6, 1e-5, 1e-4, 1e-3, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
SHADOW_LOG_EVERY = 1000


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and how much may wait."""

    candidates: int = 1000
    bytes: int = 1 << 20
    waiting: int = 256  # requests; beyond that they are refused at once instead of piling up
    together: int = 2000  # candidates of several requests in one pass through the network


@dataclass
class Metrics:
    """Prometheus series of one service."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        registry = self.registry
        self.requests = Counter(
            "ecdctr_requests", "Requests to /score", ["status"], registry=registry
        )
        self.candidates = Counter("ecdctr_candidates", "Candidates scored", registry=registry)
        self.seconds = Histogram(
            "ecdctr_request_seconds", "Of /score, waiting too", buckets=SECONDS, registry=registry
        )
        self.together = Histogram(
            "ecdctr_batch_requests",
            "Requests per pass",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.version = Gauge(
            "ecdctr_version_info",
            "1 for the versions in use",
            ["role", "version"],
            registry=registry,
        )
        self.swaps = Counter("ecdctr_swaps", "Versions taken over", ["role"], registry=registry)
        self.failures = Counter(
            "ecdctr_swap_failures", "Versions that would not load", ["role"], registry=registry
        )
        self.difference = Histogram(
            "ecdctr_shadow_difference",
            "|shadow - serving| of a probability",
            buckets=DIFFERENCES,
            registry=registry,
        )
        self.unshadowed = Counter(
            "ecdctr_shadow_skipped", "Requests the shadow had no time for", registry=registry
        )


class Waiting(NamedTuple):
    """A request in the queue and where its answer goes."""

    request: dict[str, Any]
    answer: asyncio.Future[tuple[str, NDArray[np.float32]]]


class Service:
    """Scores requests with the current scorer, several at once, in one thread beside the event loop."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.metrics = limits, Metrics()
        self.scorers: dict[str, Scorer] = {}  # by role: serving, shadow
        self._queue: asyncio.Queue[Waiting] = asyncio.Queue(limits.waiting)
        self._shadowed: asyncio.Queue[tuple[dict[str, Any], NDArray[np.float32]]] = asyncio.Queue(
            limits.waiting
        )
        self._thread = ThreadPoolExecutor(1, "scorer")
        self._differences: list[float] = []

    @property
    def ready(self) -> bool:
        """Whether there is a version to score with."""
        return "serving" in self.scorers

    def swap(self, role: str, scorer: Scorer) -> None:
        """Use this scorer from the next batch on."""
        old = self.scorers.get(role)
        self.scorers[role] = scorer
        if old:
            self.metrics.version.remove(role, old.version)
        self.metrics.version.labels(role, scorer.version).set(1)
        self.metrics.swaps.labels(role).inc()
        log(f"{role}: {scorer.version}" + (f" instead of {old.version}" if old else ""))

    async def score(self, request: dict[str, Any]) -> tuple[str, NDArray[np.float32]]:
        """The version and its probabilities; raises RequestError, or QueueFull when too many requests wait."""
        answer: asyncio.Future[tuple[str, NDArray[np.float32]]] = (
            asyncio.get_running_loop().create_future()
        )
        self._queue.put_nowait(Waiting(request, answer))
        return await answer

    async def work(self) -> None:
        """Take what waits, score it in one pass, answer; forever."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            count = len(batch[0].request["candidates"])
            while count < self.limits.together and not self._queue.empty():
                batch.append(self._queue.get_nowait())
                count += len(batch[-1].request["candidates"])
            scorer = self.scorers["serving"]
            requests = [waiting.request for waiting in batch]
            results: list[NDArray[np.float32] | Exception]
            try:
                results = await loop.run_in_executor(self._thread, score_together, scorer, requests)
            except (
                Exception
            ) as error:  # of the runtime: these requests fail, the next ones are tried
                log(f"{scorer.version} failed: {error}")
                results = [
                    EcdctrError(f"{scorer.version} failed to score; see the server's log.")
                ] * len(batch)
            self.metrics.together.observe(len(batch))
            for waiting, result in zip(batch, results, strict=True):
                if waiting.answer.cancelled():  # the client has gone
                    continue
                if isinstance(result, Exception):
                    waiting.answer.set_exception(result)
                    continue
                waiting.answer.set_result((scorer.version, result))
                if "shadow" in self.scorers:
                    self._remember(waiting.request, result)

    def _remember(self, request: dict[str, Any], served: NDArray[np.float32]) -> None:
        try:
            self._shadowed.put_nowait((request, served))
        except asyncio.QueueFull:
            self.metrics.unshadowed.inc()

    async def shadow(self) -> None:
        """Score what was answered with the shadow too, when nothing else waits; forever."""
        loop = asyncio.get_running_loop()
        while True:
            request, served = await self._shadowed.get()
            while not self._queue.empty():
                await asyncio.sleep(0.001)
            shadow = self.scorers["shadow"]
            try:
                (found,) = await loop.run_in_executor(
                    self._thread, score_together, shadow, [request]
                )
            except Exception as error:  # a shadow's failure is told, never served
                found = error
            if isinstance(found, Exception):
                log(f"shadow {shadow.version} cannot score a request: {found}")
                continue
            differences = np.abs(found - served).tolist()
            for value in differences:
                self.metrics.difference.observe(value)
            self._differences += differences
            if len(self._differences) >= SHADOW_LOG_EVERY:
                serving = self.scorers["serving"].version
                p50, p99 = np.quantile(self._differences, [0.5, 0.99])
                log(
                    f"shadow {shadow.version} against {serving}: differs by {p50:.2g} (p99 {p99:.2g})"
                )
                self._differences = []


def score_together(
    scorer: Scorer, requests: list[dict[str, Any]]
) -> list[NDArray[np.float32] | Exception]:
    """One pass through the network for several requests; a request that does not fit fails alone."""
    encoded: list[dict[str, NDArray[Any]] | Exception] = []
    for request in requests:
        try:
            encoded.append(scorer.encode(request))
        except RequestError as error:
            encoded.append(error)
        except Exception as error:  # whatever it is, it is this request's alone
            log(f"{scorer.version} cannot encode a request: {type(error).__name__}: {error}")
            encoded.append(EcdctrError(f"{scorer.version} failed to score; see the server's log."))
    good = [arrays for arrays in encoded if not isinstance(arrays, Exception)]
    if not good:
        return [error for error in encoded if isinstance(error, Exception)]
    joined = {name: np.concatenate([arrays[name] for arrays in good]) for name in good[0]}
    probabilities = np.split(
        scorer.run(joined), np.cumsum([len(arrays["ids"]) for arrays in good])[:-1]
    )
    answers = iter(probabilities)
    return [
        arrays if isinstance(arrays, Exception) else _finite(scorer, arrays, next(answers))
        for arrays in encoded
    ]


def _finite(
    scorer: Scorer, arrays: dict[str, NDArray[Any]], probabilities: NDArray[np.float32]
) -> NDArray[np.float32] | Exception:
    try:
        return scorer.finite(arrays, probabilities)
    except RequestError as error:
        return error


Background = Callable[[Service], Awaitable[None]]


def build_app(service: Service, background: list[Background]) -> Starlette:
    """The routes, and what runs beside them: the worker, the shadow, and whatever looks for new versions."""

    @contextlib.asynccontextmanager
    async def running(_: Starlette) -> AsyncIterator[None]:
        jobs = [service.work(), service.shadow(), *(job(service) for job in background)]
        tasks = [asyncio.ensure_future(job) for job in jobs]
        yield
        for task in tasks:
            task.cancel()

    async def score(request: Request) -> Response:
        began = time.perf_counter()
        status, content = await _answer(service, request)
        service.metrics.requests.labels(str(status)).inc()
        service.metrics.seconds.observe(time.perf_counter() - began)
        return JSONResponse(
            content,
            status,
            {"Retry-After": "1"} if status == HTTPStatus.SERVICE_UNAVAILABLE else None,
        )

    async def health(_: Request) -> Response:
        return JSONResponse(
            {"versions": {role: scorer.version for role, scorer in service.scorers.items()}}
        )

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
    return Starlette(routes=routes, lifespan=running)


async def _parts(request: Request) -> AsyncIterator[bytes]:
    """What comes of the body; nothing more when the client goes away."""
    with contextlib.suppress(ClientDisconnect):
        async for part in request.stream():
            yield part


async def _answer(service: Service, request: Request) -> tuple[int, dict[str, Any]]:
    limits = service.limits
    body = bytearray()
    async for part in _parts(request):
        body += part
        if len(body) > limits.bytes:
            return 413, {"error": f"The request is longer than {limits.bytes:,} bytes."}
    try:
        content = parse_json(bytes(body))
    except NoJson as error:
        return 400, {"error": f"The request is {error}."}
    candidates = content.get("candidates") if isinstance(content, dict) else None
    if not isinstance(candidates, list):
        return 422, {
            "error": "Expected an object with a list 'candidates'; see request.schema.json."
        }
    if len(candidates) > limits.candidates:
        return 413, {
            "error": f"{len(candidates):,} candidates; at most {limits.candidates:,} a request are scored."
        }
    if not service.ready:
        return 503, {"error": "No version is loaded yet."}
    try:
        version, probabilities = await service.score(content)
    except RequestError as error:
        return 422, {"error": str(error)}
    except asyncio.QueueFull:
        return 503, {"error": f"{limits.waiting} requests wait already; try again."}
    except EcdctrError as error:
        return 500, {"error": str(error)}
    service.metrics.candidates.inc(len(probabilities))
    return 200, {
        "version": version,
        "probabilities": [round(float(value), 7) for value in probabilities],
    }
