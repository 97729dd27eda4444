"""Airflow's REST API, asked with patience: what may be retried is.

The end is an answer or one sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import Any

import httpx
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_exponential_jitter,
)

from ecdctr.errors import EcdctrError

PATIENCE = 180.0  # seconds after which a request that was never answered is given up
PAGE = 100  # the most that Airflow answers at once
OPEN = ("/auth/token", "/api/v2/monitor/health")
ENDED = ("success", "failed")


class RefusedError(EcdctrError):
    """Airflow answered that the request is wrong."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ServerError(Exception):
    """Airflow answered that it could not do it now (5xx)."""


class Api:
    """A client of one Airflow.

    A request that got no answer, or 5xx, is repeated until `patience` seconds have passed. That is
    safe: a run, a pool and a pause have names, and one that exists already is the one asked for
    (`trigger`, `pool`). `alive` is called before a repetition; it raises when waiting is useless.
    """

    def __init__(
        self,
        url: str,
        login: dict[str, str] | None = None,
        patience: float = PATIENCE,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self.url, self.login, self.patience, self.alive = url, login, patience, alive
        self._client = httpx.Client(base_url=url, timeout=30, trust_env=False)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request and return the decoded answer.

        Raises RefusedError with what Airflow says to a wrong request, EcdctrError when it does not
        answer.
        """
        answer = self._patiently(method, path, body)
        return answer.json() if answer.content else None

    def text(self, path: str) -> str:
        """Return a page as text."""
        return self._patiently("GET", path, None).text

    def all(self, path: str, key: str) -> list[dict[str, Any]]:
        """Return every entry of a collection, page by page."""
        entries: list[dict[str, Any]] = []
        mark = "&" if "?" in path else "?"
        while True:
            answer = self.call("GET", f"{path}{mark}limit={PAGE}&offset={len(entries)}")
            entries += answer[key]
            if len(entries) >= answer["total_entries"] or not answer[key]:
                return entries

    def trigger(self, dag_id: str, run_id: str, conf: dict[str, Any]) -> None:
        """Start a run.

        One of this name and conf that exists already is the one that was asked for.
        """
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
        self._create(
            f"/api/v2/dags/{dag_id}/dagRuns",
            body,
            f"/api/v2/dags/{dag_id}/dagRuns/{run_id}",
            {"conf": conf},
        )

    def pool(self, name: str, slots: int) -> None:
        """Create a pool, unless there is one of this name."""
        self._create(
            "/api/v2/pools", {"name": name, "slots": slots}, f"/api/v2/pools/{name}", {"name": name}
        )

    def runs(self, dag_id: str) -> dict[str, dict[str, Any]]:
        """Return every run of a DAG by its id."""
        return {
            run["dag_run_id"]: run for run in self.all(f"/api/v2/dags/{dag_id}/dagRuns", "dag_runs")
        }

    def states(self) -> dict[str, str]:
        """Return the state of every run of all DAGs, by its id."""
        runs = self.all("/api/v2/dags/~/dagRuns", "dag_runs")
        return {run["dag_run_id"]: run["state"] for run in runs}

    def unpause(self, dag_ids: Collection[str], paused: bool = False) -> None:
        """Let DAGs run, or stop them."""
        for dag_id in dag_ids:
            self.call(
                "PATCH", f"/api/v2/dags/{dag_id}?update_mask=is_paused", {"is_paused": paused}
            )

    def _create(self, path: str, body: dict[str, Any], made: str, same: dict[str, Any]) -> None:
        try:
            self.call("POST", path, body)
        except RefusedError as refused:
            if refused.status != HTTPStatus.CONFLICT:
                raise
            there = self.call("GET", made)
            if any(there[key] != value for key, value in same.items()):
                raise

    def _patiently(self, method: str, path: str, body: Any) -> httpx.Response:
        def check(_: RetryCallState) -> None:
            self.alive()

        retrying = Retrying(
            retry=retry_if_exception_type((httpx.TransportError, ServerError)),
            stop=stop_after_delay(self.patience),
            wait=wait_exponential_jitter(multiplier=0.2, max=5),
            before_sleep=check,
            reraise=True,
        )
        try:
            return retrying(self._once, method, path, body)
        except (httpx.TransportError, ServerError) as error:
            raise EcdctrError(
                f"Airflow at {self.url} did not do {method} {path} within {self.patience:.0f} s "
                f"({type(error).__name__}: {error}); see the end of its log, and try again."
            ) from None

    def _once(self, method: str, path: str, body: Any) -> httpx.Response:
        if "Authorization" not in self._client.headers and path not in OPEN:
            self._client.headers["Authorization"] = f"Bearer {self._token()}"
        answer = self._client.request(method, path, json=body)
        if answer.is_server_error:
            raise ServerError(f"{answer.status_code} {answer.text[:300]}")
        if answer.is_client_error:
            raise RefusedError(
                f"Airflow refused {method} {path}: {answer.status_code} {answer.text[:500]}",
                answer.status_code,
            )
        return answer

    def _token(self) -> str:
        if self.login is None:
            return str(self._once("GET", "/auth/token", None).json()["access_token"])
        return str(self._once("POST", "/auth/token", self.login).json()["access_token"])
