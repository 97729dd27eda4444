"""A service: requests that wait are scored together, by the current version.

Its shadow scores them after they are answered. Requests that arrive while others are being scored
go through the network together. A new version takes over between two such batches, so no request is
dropped; of a shadow version's scores only the difference is kept.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ecdctr.console import log
from ecdctr.errors import BundleChanged, EcdctrError
from ecdctr.serving.metrics import Metrics
from ecdctr.serving.rules import RequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ecdctr.serving.scorer import Scorer

SERVES, SHADOW = "serving", "shadow"  # roles of scorers
SHADOW_LOG_EVERY = 1000


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and how much may wait."""

    candidates: int = 1000
    bytes: int = 1 << 20
    waiting: int = 256  # requests; beyond that they are refused at once instead of piling up
    together: int = 2000  # candidates of several requests in one pass through the network


class Waiting(NamedTuple):
    """A request in the queue and where its answer goes."""

    request: dict[str, Any]
    answer: asyncio.Future[tuple[str, NDArray[np.float32]]]


class Service:
    """Scores requests with the current scorer, several at once, beside the event loop."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.metrics = limits, Metrics()
        self.scorers: dict[str, Scorer] = {}  # by role
        self._queue: asyncio.Queue[Waiting] = asyncio.Queue(limits.waiting)
        self._shadowed: asyncio.Queue[tuple[dict[str, Any], NDArray[np.float32]]] = asyncio.Queue(
            limits.waiting
        )
        self._thread = ThreadPoolExecutor(1, "scorer")
        self._differences: list[float] = []

    @property
    def ready(self) -> bool:
        """Whether there is a version to score with."""
        return SERVES in self.scorers and not self.damage(SERVES)

    def damage(self, role: str) -> str | None:
        """Return why a version that was loaded cannot score any more, None if it can."""
        try:
            self.scorers[role].check_unchanged()
        except BundleChanged as error:
            return str(error)
        return None

    def swap(self, role: str, scorer: Scorer) -> None:
        """Use this scorer from the next batch on."""
        old = self.scorers.get(role)
        self.scorers[role] = scorer
        if old:
            self.metrics.version.remove(role, old.version)
        self.metrics.version.labels(role, scorer.version).set(1)
        if until := scorer.remembers_until:
            self.metrics.remembers_until.labels(role).set(until)
        elif old and old.remembers_until:
            self.metrics.remembers_until.remove(role)
        self.metrics.swaps.labels(role).inc()
        log(f"{role}: {scorer.version}" + (f" instead of {old.version}" if old else ""))

    async def score(self, request: dict[str, Any]) -> tuple[str, NDArray[np.float32]]:
        """Return the version and its probabilities [candidates].

        Raises RequestError, or QueueFull when too many requests wait.
        """
        answer: asyncio.Future[tuple[str, NDArray[np.float32]]] = (
            asyncio.get_running_loop().create_future()
        )
        self._queue.put_nowait(Waiting(request, answer))
        return await answer

    async def work(self) -> None:
        """Take what waits, score it in one pass, answer; forever."""
        loop, told = asyncio.get_running_loop(), None
        while True:
            batch = [await self._queue.get()]
            count = len(batch[0].request["candidates"])
            while count < self.limits.together and not self._queue.empty():
                batch.append(self._queue.get_nowait())
                count += len(batch[-1].request["candidates"])
            scorer = self.scorers[SERVES]
            requests = [waiting.request for waiting in batch]
            results: list[NDArray[np.float32] | Exception]
            try:
                results = await loop.run_in_executor(self._thread, score_together, scorer, requests)
            except BundleChanged as error:
                if scorer is not told:
                    log(f"{SERVES}: {error}")
                told = scorer
                results = [error] * len(batch)
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
                if SHADOW in self.scorers:
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
            shadow = self.scorers[SHADOW]
            try:
                (outcome,) = await loop.run_in_executor(
                    self._thread, score_together, shadow, [request]
                )
            except Exception as error:  # a shadow's failure is told, never served
                outcome = error
            if isinstance(outcome, Exception):
                log(f"shadow {shadow.version} cannot score a request: {outcome}")
                continue
            differences = np.abs(outcome - served).tolist()
            for value in differences:
                self.metrics.difference.observe(value)
            self._differences += differences
            if len(self._differences) >= SHADOW_LOG_EVERY:
                serving = self.scorers[SERVES].version
                p50, p99 = np.quantile(self._differences, [0.5, 0.99])
                log(
                    f"shadow {shadow.version} against {serving}: differs by {p50:.2g} (p99 "
                    f"{p99:.2g})"
                )
                self._differences = []


def score_together(
    scorer: Scorer, requests: list[dict[str, Any]]
) -> list[NDArray[np.float32] | Exception]:
    """Return the probabilities [candidates] of each request, by one pass through the network.

    A request that does not fit fails alone. Raises BundleChanged.
    """
    with scorer.unchanged():
        return _scored_together(scorer, requests)


def _scored_together(
    scorer: Scorer, requests: list[dict[str, Any]]
) -> list[NDArray[np.float32] | Exception]:
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
