"""Triggers that look for something now and then, in the triggerer's event loop."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import time
from collections.abc import AsyncIterator
from typing import Any, Literal

from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from ecdctr.airflow.awaited import Awaited, Patience, made
from ecdctr.errors import OutOfReach
from ecdctr.store.store import Store

SETTLED_DAYS = 3  # a backfill does not wait for days that have long been there
Outcome = Literal["ready", "waiting", "failed"]


class PollTrigger(BaseTrigger):
    """Fires with an outcome: 'ready', 'failed', or 'timeout' when the time is up.

    Subclasses name their arguments in `names`.
    """

    names: tuple[str, ...] = ()

    def __init__(self, *, patience: Patience | dict[str, float]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow has not typed it
        self.patience = made(Patience, patience)

    def look(self) -> Outcome:
        """Return how it stands with what is waited for."""
        raise NotImplementedError

    def looked(self) -> Outcome:
        """Look; a place that does not answer now is looked at again."""
        try:
            return self.look()
        except OutOfReach as error:
            self.log.warning("%s", error)
            return "waiting"

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return how the triggerer makes this trigger again."""
        arguments = {name: getattr(self, name) for name in (*self.names, "patience")}
        for name, value in arguments.items():
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                arguments[name] = dataclasses.asdict(value)  # Airflow keeps JSON
        return f"{__name__}.{type(self).__name__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look, sleep, look again."""
        deadline = time.monotonic() + self.patience.wait_hours * 3600
        # sync_to_async and not a thread of our own: a look that asks Airflow must get back to this
        # event loop
        while (outcome := await sync_to_async(self.looked)()) == "waiting":
            if time.monotonic() > deadline:
                yield TriggerEvent({"outcome": "timeout"})
                return
            await asyncio.sleep(self.patience.poke_seconds)
        yield TriggerEvent({"outcome": outcome})


class DayTrigger(PollTrigger):
    """Waits until a day is delivered as data.ready says, and unchanged for some seconds.

    A day that ended more than `SETTLED_DAYS` ago is not waited for to settle.
    """

    names = ("date", "awaited")

    def __init__(
        self, date: str, awaited: Awaited | dict[str, Any], *, patience: Patience | dict[str, float]
    ) -> None:
        super().__init__(patience=patience)
        self.date, self.awaited = date, made(Awaited, awaited)
        self._seen: tuple[list[dict[str, int]], float] = [], 0.0

    def look(self) -> Outcome:
        """Tell whether the day is there, and as it was."""
        return "ready" if self.lacks(time.monotonic()) is None else "waiting"

    def lacks(self, now: float) -> str | None:
        """Return what is awaited, in words; None if nothing is.

        `now` in seconds, of a clock that only goes forward.
        """
        date, settle_seconds = dt.date.fromisoformat(self.date), self.awaited.settle_seconds
        lacking = self.awaited.lacks(date)
        over = dt.datetime.combine(date, dt.time(), dt.UTC) + dt.timedelta(days=1 + SETTLED_DAYS)
        if lacking or not settle_seconds or over < dt.datetime.now(dt.UTC):
            return lacking
        entries = self.awaited.entries(date)
        if entries != self._seen[0]:
            self._seen = entries, now
        still = settle_seconds - (now - self._seen[1])
        return f"its files must not change for another {still:.0f} s" if still > 0 else None


class YesterdayTrigger(PollTrigger):
    """Waits for a level's version of the day before.

    While its run has yet to train, and for its version. What comes after training there (evaluation
    waits for a further day of data) is not waited for.

    The experiment's run of the day before is named by its `logical_date` (ISO; backfills,
    schedules) or by its `run_id` (`run_name`), by neither when another experiment's has that date.
    `must_exist` says that a chain began before that day, so that its version is waited for even
    when nobody has started its run yet.
    """

    names = (
        "store",
        "level",
        "experiment",
        "date",
        "dag_id",
        "must_exist",
        "run_id",
        "logical_date",
    )

    def __init__(
        self,
        store: str,
        level: str,
        experiment: str,
        date: str,
        dag_id: str,
        must_exist: bool,
        *,
        run_id: str = "",
        logical_date: str = "",
        patience: Patience | dict[str, float],
    ) -> None:
        super().__init__(patience=patience)
        self.store, self.level, self.experiment, self.date = store, level, experiment, date
        self.dag_id, self.must_exist = dag_id, must_exist
        self.run_id, self.logical_date = run_id, logical_date

    def look(self) -> Outcome:
        """Tell whether the day before is done."""
        if self.runs("queued", "running") and not self.trained():
            return "waiting"
        if self.has_version():
            return "ready"
        if self.runs("failed"):
            return "failed"
        return "waiting" if self.must_exist else "ready"

    def has_version(self) -> bool:
        """Tell whether the experiment itself has a version of that day."""
        ref = Store(self.store).newest(
            self.experiment, self.level, dt.date.fromisoformat(self.date)
        )
        return ref is not None and str(ref.date) == self.date

    def runs(self, *states: str) -> int:
        """Return how many runs of the day before are in one of these states: 0 or 1."""
        if not (self.run_id or self.logical_date):
            return 0
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        return RuntimeTaskInstance.get_dr_count(
            dag_id=self.dag_id, states=list(states), **self._which()
        )

    def trained(self) -> bool:
        """Tell whether the run of the day before has trained; a cleared run has not."""
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        done = RuntimeTaskInstance.get_ti_count(
            dag_id=self.dag_id, task_ids=["train"], states=["success"], **self._which()
        )
        return done > 0

    def _which(self) -> dict[str, Any]:
        """Return how Airflow is told the run of the day before."""
        if self.logical_date:
            return {"logical_dates": [dt.datetime.fromisoformat(self.logical_date)]}
        return {"run_ids": [self.run_id]}
