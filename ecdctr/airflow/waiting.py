"""What a run waits for before it works: its day of impressions, and the day before in a chain.

Both look once, and then hand over to the triggerer, which holds no worker slot.
"""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseOperator

from ecdctr.airflow.awaited import Awaited, Patience
from ecdctr.airflow.dates import failing_at_once, load_settings, run_name
from ecdctr.airflow.refusals import RefusedError, RunRefused
from ecdctr.airflow.triggers import DayTrigger, YesterdayTrigger
from ecdctr.config import DEFAULT, PRODUCTION, Config, Level
from ecdctr.config.terms import dag_of
from ecdctr.store.store import Store

CHAIN = {"cpm": "cpm.refresh: incremental", "actr": "actr.policy: continue"}


class WaitForDay(BaseOperator):
    """Waits until a day of impressions lies there, without holding a worker slot meanwhile.

    With a `level` it first looks whether the levels above have versions for that day.
    """

    template_fields: Sequence[str] = ("date", "experiment", "variant")

    def __init__(
        self,
        *,
        awaited: Awaited,
        date: str,
        patience: Patience,
        level: Level | None = None,
        experiment: str = "",
        variant: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.awaited, self.date, self.patience = awaited, date, patience
        self.level, self.experiment, self.variant = level, experiment, variant

    def execute(self, context: Any) -> None:
        """Go on at once if the day is there, else hand over to the triggerer.

        Raises RunRefused for a day that will not come (before the first one, or too far ahead), and
        where a level above has no version.
        """
        if self.level:
            self.look_above(self.level)
        trigger = self.trigger()
        lacking = trigger.lacks(time.monotonic())
        if lacking is None:
            self.log.info("%s impressions of %s are there.", self.awaited.domain, self.date)
            return
        self.log.info("%s impressions of %s: %s.", self.awaited.domain, self.date, lacking)
        self.log.info("%s", self.outlook(dt.datetime.now(dt.UTC)))
        self.defer(trigger=trigger, method_name="arrived")

    def trigger(self) -> DayTrigger:
        """Return what looks for the day."""
        return DayTrigger(self.date, self.awaited, patience=self.patience)

    def look_above(self, level: Level) -> None:
        """Refuse at once what `train` would refuse after preparing.

        Raises RunRefused, unless a run of the level that is missing is under way.
        """
        settings = load_settings()
        config = settings.config.with_variant(self.variant)
        date, store = dt.date.fromisoformat(self.date), Store(settings.store_path)
        if config.chained(level) and store.newest(self.experiment, level, date):
            return  # it goes on from its own past
        for above, as_of in above_of(config, level, date).items():
            with failing_at_once():  # what was known then may have been removed since
                if store.resolve(above, as_of, self.experiment):
                    continue
            text = (
                f"{level} of {date} starts from {above}, of which experiment '{self.experiment}' "
                f"has no version with data up to {as_of}"
            )
            if _runs_of(dag_of(above)):
                self.log.warning("%s yet; a run of %s is under way.", text, dag_of(above))
                continue
            params = {"data_date": str(as_of), "experiment": self.experiment}
            if self.variant != DEFAULT:
                params["variant"] = self.variant
            raise RunRefused(
                f"{text}. Trigger {dag_of(above)} with {json.dumps(params)}, then clear this run."
            )

    def outlook(self, now: dt.datetime) -> str:
        """Return what is waited for, what is there, and until when.

        Raises RunRefused if it is in vain.
        """
        date, hours = dt.date.fromisoformat(self.date), self.patience.wait_hours
        until, dates = now + dt.timedelta(hours=hours), self.awaited.dates()
        there = f"delivered are {dates[0]} to {dates[-1]}" if dates else "none are delivered yet"
        what = f"{self.awaited.domain} impressions of {date} under {self.awaited.root}"
        if dates and date < dates[0]:
            raise RunRefused(f"There are no {what}: {there}. Choose a data date in this range.")
        if date > until.date():
            raise RunRefused(
                f"There are no {what}, and the day lies ahead: {there}, and after "
                f"airflow.wait_hours ({hours:g} h) nobody would wait any more. Choose an "
                "earlier data date."
            )
        return f"Waiting for {what}: {there}. The task fails at {until:%Y-%m-%d %H:%M} UTC."

    def arrived(self, context: Any, event: dict[str, Any]) -> None:
        """Go on after the triggerer's event; raises RefusedError when the time was up."""
        if event["outcome"] != "ready":
            lacking = self.trigger().lacks(time.monotonic()) or "they have come just now"
            raise RefusedError(
                f"No {self.awaited.domain} impressions of {self.date} under {self.awaited.root} "
                f"after {self.patience.wait_hours} h: {lacking}; deliver them and clear this task."
            )


def above_of(config: Config, level: Level, date: dt.date) -> dict[Level, dt.date]:
    """Return the levels that a level cannot do without, and as of when it resolves each."""
    snapshots: dict[Level, dt.date] = {}
    if config.snapshots.count:
        snapshots["tpm"] = config.snapshots.needed(date)
    if level == "cpm":
        return snapshots
    if level == "actr":
        needs_cpm = config.actr.init != "none" or config.actr.source != "none"
        return {"cpm": date} if needs_cpm else snapshots
    return {}


def _runs_of(dag_id: str) -> int:
    """Return how many runs of a DAG are queued or under way."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    return RuntimeTaskInstance.get_dr_count(dag_id=dag_id, states=["queued", "running"])


class WaitForYesterday(BaseOperator):
    """Keeps a chain in order: who goes on from the day before waits until that day is done.

    The run of the day before is its experiment's of the logical date before (backfills, schedules),
    or where the param data_date names the day, the one that is called as `run_name` says (a
    study's). While it is queued or runs, this one waits; if it failed, this one fails. With the
    param chain_start, the version of the day before is waited for even when nobody has started its
    run. Where the configuration makes no chain there is nothing to wait for.
    """

    template_fields: Sequence[str] = ("date", "chain_start", "experiment", "variant")

    def __init__(
        self,
        *,
        level: Level,
        date: str,
        chain_start: str,
        experiment: str,
        variant: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.level, self.date, self.chain_start = level, date, chain_start
        self.experiment, self.variant = experiment, variant

    def execute(self, context: Any) -> None:
        """Go on at once if there is nothing to wait for, else hand over to the triggerer.

        Raises RefusedError for a chain_start that contradicts the variant or the date, and for a
        backfill that runs backwards.
        """
        settings = load_settings()
        config = settings.config.with_variant(self.variant)
        if not config.chained(self.level):
            if self.chain_start:
                raise RefusedError(
                    f"chain_start is set, but in variant '{self.variant}' {self.level} does not go "
                    "on from the day before; leave chain_start empty, or choose a variant with "
                    f"{CHAIN[self.level]}."
                )
            return
        date = dt.date.fromisoformat(self.date)
        start = dt.date.fromisoformat(self.chain_start) if self.chain_start else None
        if start and date < start:
            raise RefusedError(
                f"Data date {date} lies before chain_start {start}; start the chain earlier."
            )
        if date == start:
            return
        before = str(date - dt.timedelta(days=1))
        trigger = YesterdayTrigger(
            str(settings.store_path),
            self.level,
            self.experiment,
            before,
            context["dag"].dag_id,
            start is not None,
            **_run_before(context, before, self.experiment),
            patience=Patience.of(config),
        )
        if (
            context["dag_run"].run_type == "backfill"
            and trigger.runs("queued")
            and not trigger.has_version()
        ):
            raise RefusedError(
                f"This backfill runs backwards: the run of {before} is queued behind that of "
                f"{date}, but variant '{self.variant}' continues each day from the one before. "
                "Create it again without --run-backwards."
            )
        outcome = trigger.look()
        if outcome == "waiting":
            self.log.info(
                "Waiting for %s of %s in experiment %s.", self.level, before, self.experiment
            )
            self.defer(trigger=trigger, method_name="arrived")
        self.arrived(context, {"outcome": outcome})

    def arrived(self, context: Any, event: dict[str, Any]) -> None:
        """Go on after the triggerer's event; raises RefusedError without the day before."""
        if event["outcome"] != "ready":
            reason = (
                "its run failed" if event["outcome"] == "failed" else "it did not appear in time"
            )
            raise RefusedError(
                f"{self.level} of the day before {self.date} is missing in experiment "
                f"'{self.experiment}' ({reason}), and each day of this variant continues from the "
                "day before. Mend that day, then clear this run."
            )


def _run_before(context: Any, before: str, experiment: str) -> dict[str, Any]:
    """Return what YesterdayTrigger takes as the experiment's run of the day before.

    Its logical date, the name that it has in a study, or nothing where none is known. Airflow has
    one run of a DAG per logical date, whatever its experiment; another's is not waited for.
    """
    run = context["dag_run"]
    if not run.logical_date or context["params"].get("data_date"):
        return {"run_id": run_name(experiment, before)}
    then = run.logical_date - dt.timedelta(days=1)
    previous = context["ti"].get_previous_dagrun()
    if previous and previous.logical_date == then:
        conf = previous.conf or {}
        theirs = conf.get("experiment", PRODUCTION), conf.get("data_date") or before
        if theirs != (experiment, before):
            return {}
    return {"logical_date": then.isoformat()}
