"""The one pipeline behind the three DAGs.

    wait_for_data → validate_and_prepare → train → publish
                                             └──→ wait_for_next_day → evaluate_and_gate

`train` stores the version, whole or not at all, so the next level can resolve it from then on;
`publish` tells Airflow by an asset event. CPM and A-CTR have one step more before `train`,
`wait_for_yesterday`, for chains of days. Evaluation needs the day after the data date (progressive
validation), which a live run awaits without a worker slot, and which Spark prepares in a step of
its own; the gate then decides which version serves.
"""

from __future__ import annotations

import datetime as dt
import sys
from typing import Any

from airflow.sdk import (
    DAG,
    Asset,
    BaseOperator,
    XComArg,
    chain,
    task,
)
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

from ecdctr.airflow.alerts import days_skipped, deadline_missed, task_failed
from ecdctr.airflow.awaited import Awaited, Patience
from ecdctr.airflow.dates import EVALUATE, PREPARE, Settings, load_settings, macros
from ecdctr.airflow.gauges import task_succeeded
from ecdctr.airflow.operators import command_task
from ecdctr.airflow.params import level_params
from ecdctr.airflow.timetable import DataDateTimetable
from ecdctr.airflow.waiting import WaitForDay, WaitForYesterday
from ecdctr.config import LEVEL_DOMAIN, Level
from ecdctr.config.terms import dag_of

DATE = "{{ data_date(params, dag_run) }}"
NEXT = "{{ next_day(params, dag_run) }}"
VERSION = "{{ ti.xcom_pull(task_ids='train')['version'] }}"
EXPERIMENT = "{{ params.experiment }}"
VARIANT = "{{ params.variant }}"
SEED = "{{ params.seed if params.seed is not none else '' }}"
HOLD_OUT = "{{ params.hold_out_every or '' }}"
CHAIN_START = "{{ params.chain_start or '' }}"
TITLE = {
    "tpm": "Tiny Pre-training Model",
    "cpm": "Complete Pre-training Model",
    "actr": "Advertisement CTR model",
}
ABOUT = {
    "tpm": (
        "learns a vector per user and item from a long window of natural impressions with few "
        "features, going on from its version before; CPM and A-CTR take its snapshots."
    ),
    "cpm": (
        "learns the whole network from natural impressions and from snapshots of TPM; A-CTR "
        "starts from it."
    ),
    "actr": "starts from CPM, is fine-tuned on ads, and serves if it passes the gate.",
}
STEPS = {
    "wait_for_data": "until the day's impressions are there (deferred)",
    "validate_and_prepare": (
        "the window against the data contract, then its examples, once per day of data"
    ),
    "wait_for_yesterday": "where each day goes on from the day before",
    "train": "stores the version, whole or not at all",
    "publish": "tells Airflow by an asset event",
    "wait_for_next_day": (
        "until the day after is there: a version is judged on what it has not seen"
    ),
    "evaluate_and_gate": "scores the version on that day, then decides whether it serves",
}


def doc_of(level: Level) -> str:
    """Return what the DAG's page says, as Markdown."""
    steps = [name for name in STEPS if level != "tpm" or name != "wait_for_yesterday"]
    lines = [f"**{TITLE[level]}** {ABOUT[level]}", "", "| step | |", "|---|---|"]
    lines += [f"| `{name}` | {STEPS[name]} |" for name in steps]
    lines += [
        "",
        "A run is about its *data date*: the last whole day of its interval, or the param "
        "`data_date`.",
    ]
    return "\n".join(lines)


def build_dag(level: Level) -> DAG:
    """Build the DAG of one level, as the configuration in Airflow's environment says."""
    settings = load_settings()
    airflow = settings.config.airflow
    params = level_params(level, settings.config)
    with DAG(
        dag_id=dag_of(level),
        description=TITLE[level],
        doc_md=doc_of(level),
        schedule=DataDateTimetable(
            airflow.tpm_cron if level == "tpm" else airflow.daily_cron, "UTC"
        ),
        start_date=_midnight(airflow.start_date),
        catchup=False,
        # Not 1: a scheduled run that waits for its day's data must not hold up a run for a past
        # date.
        max_active_runs=8,
        params=params,
        default_args={
            "retries": airflow.retries,
            "on_failure_callback": task_failed,
            "on_success_callback": [task_succeeded, days_skipped],
            "retry_delay": dt.timedelta(seconds=airflow.retry_seconds),
        },
        deadline=_deadline(airflow.deadline_hours),
        user_defined_macros=macros(params),
        tags=["ecdctr"],
    ) as dag:
        trained = _add_training(settings, level)
        _add_evaluation(settings, level, trained)
    return dag


def _add_training(settings: Settings, level: Level) -> BaseOperator:
    """Add wait_for_data → validate_and_prepare → train → publish; return `train`."""
    prepare = _prepare(settings, level, PREPARE, DATE, "--validate")
    shards = settings.config.training(level).shards
    train = command_task(settings, "train", _train_arguments(level), gpu=True, processes=shards)
    asked = {"experiment": EXPERIMENT, "variant": VARIANT}
    # TPM reads natural impressions alone, unless it remembers what users did
    both = level != "tpm" or settings.config.memory.enabled
    wait = _wait(settings, level, "wait_for_data", DATE, both, level=level, **asked)
    wait >> prepare >> train >> _publish(level)
    if level != "tpm":
        yesterday = WaitForYesterday(
            task_id="wait_for_yesterday", level=level, date=DATE, chain_start=CHAIN_START, **asked
        )
        prepare >> yesterday >> train
    return train


def _add_evaluation(settings: Settings, level: Level, trained: BaseOperator) -> None:
    """Add wait_for_next_day → evaluate_and_gate behind training."""
    arguments = ["evaluate", "--version", VERSION, "--date", NEXT, "--variant", VARIANT, "--gate"]
    evaluate = command_task(settings, EVALUATE, arguments)
    wait = _wait(settings, level, "wait_for_next_day", NEXT, both=True)
    # elsewhere than on Spark the evaluation prepares the day itself
    on_spark = _prepares_on_spark(settings, level)
    prepare = [_prepare(settings, level, "prepare_next_day", NEXT)] if on_spark else []
    chain(trained, wait, *prepare, evaluate)


def _wait(
    settings: Settings, of: Level, task_id: str, date: str, both: bool, **asked: Any
) -> WaitForDay:
    return WaitForDay(
        task_id=task_id,
        awaited=Awaited.of(settings.config, LEVEL_DOMAIN[of], both),
        date=date,
        patience=Patience.of(settings.config),
        **asked,
    )


def _prepare(
    settings: Settings, level: Level, task_id: str, date: str, *options: str
) -> BaseOperator:
    arguments = ["prepare", "--level", level, "--date", date, "--variant", VARIANT, *options]
    spark = _prepares_on_spark(settings, level)
    return command_task(settings, task_id, arguments, spark=spark)


def _prepares_on_spark(settings: Settings, level: Level) -> bool:
    airflow = settings.config.airflow
    pods = airflow.execution == "kubernetes" and airflow.kubernetes.spark is not None
    return pods and level != "tpm"


def _train_arguments(level: Level) -> list[str]:
    arguments = ["train", level, "--date", DATE, "--experiment", EXPERIMENT]
    arguments += ["--variant", VARIANT, "--seed", SEED]
    arguments.append("{{ '--force' if params.force else '--no-force' }}")
    if level != "tpm":
        arguments.append("{{ '--restart' if params.restart else '--no-restart' }}")
        arguments += ["--chain-start", CHAIN_START]
    if level == "actr":
        arguments += ["--hold-out-every", HOLD_OUT]
    return arguments


def _publish(level: Level) -> XComArg:
    """Tell Airflow by an asset event that carries the version."""
    asset = Asset(name=dag_of(level), uri=f"ecdctr://store/{level}", group="ecdctr")

    @task(outlets=[asset])
    def publish(version: str, *, outlet_events: Any = None) -> str:
        outlet_events[asset].extra = {"version": version}
        return version

    return publish(VERSION)


def _deadline(hours: float | None) -> DeadlineAlert | None:
    """Tell an operator when a run is not done some hours after it was queued."""
    if hours is None:
        return None
    if sys.argv[1:3] == ["dags", "test"]:
        # Airflow 3.3.2 fails there: it asks its database for a deadline that only the DAG processor
        # stores
        return None
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=dt.timedelta(hours=hours),
        callback=AsyncCallback(deadline_missed, {"hours": hours}),
    )


def _midnight(date: dt.date) -> dt.datetime:
    return dt.datetime.combine(date, dt.time(), dt.UTC)
