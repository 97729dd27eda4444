"""What an operator is told when a run fails or is late.

Level, date, cause and remedy in one message. It goes to Airflow's log, and to a webhook (Slack,
Teams, Mattermost and the like take {"text": …}) where airflow.alert_webhook_env names the
environment variable that holds its URL.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
from typing import Any

import httpx
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from ecdctr.airflow.dates import EVALUATE, PREPARE, data_date, last_complete_day, load_settings
from ecdctr.airflow.refusals import RunRefused
from ecdctr.config.terms import PRODUCTION, level_of
from ecdctr.errors import EcdctrError

log = logging.getLogger(__name__)
TRIES, SECONDS = 3, 10  # of an alert, and how long each may take
LOOPBACK = ("localhost", "127.0.0.1", "::1")

REMEDIES = {
    "wait_for_data": "deliver the day's impressions, then clear this task",
    "wait_for_next_day": (
        "deliver the next day's ads, then clear this task; the version is stored already"
    ),
    "wait_for_yesterday": "mend the run of the day before, then clear this run",
    PREPARE: (
        "mend the cause (broken files: deliver them again), then clear this task; days that "
        "are prepared stay"
    ),
    "train": "mend the cause, then clear this task; training goes on where it was",
    EVALUATE: (
        "mend the cause, then clear this task; the version is stored, what served before "
        "still serves"
    ),
}


def task_failed(context: Any) -> None:
    """Say what failed and what to do: a DAG's on_failure_callback."""
    task = context["ti"].task_id
    cause = str(context.get("exception") or "unknown").strip().splitlines()
    if isinstance(context.get("exception"), RunRefused):
        tell(f"{_run(context)}: {cause[0]}")  # it says itself what to do
        return
    remedy = REMEDIES.get(task, "look at the task's log, mend the cause and clear the task")
    tell(f"{_run(context)}: {task} failed: {cause[0] if cause else 'unknown'} To do: {remedy}.")


def days_skipped(context: Any) -> None:
    """Say when a training left out days that it had missed: a DAG's on_success_callback."""
    if context["ti"].task_id != "train":
        return
    skipped = (context["ti"].xcom_pull(task_ids="train") or {}).get("skipped_days", [])
    if skipped:
        level = level_of(context["dag"].dag_id)
        tell(
            f"{_run(context)}: trained without {len(skipped)} days since the version before "
            f"({skipped[0]} to {skipped[-1]}), as {level}.skip_missed_days or "
            "data.allowed_missing_days allows. To do: train them oldest first, if they count."
        )


async def deadline_missed(context: Any, hours: float) -> None:
    """Say that a run is late: the callback of a DAG's deadline, run by the triggerer."""
    run = context["dag_run"]
    conf = run.get("conf") or {}
    end = run.get("data_interval_end")
    date = conf.get("data_date") or (last_complete_day(_time(end)) if end else "without a date")
    level, experiment = level_of(run["dag_id"]), conf.get("experiment", PRODUCTION)
    text = (
        f"{level} {date} in {experiment}: not done {hours:g} h after it was queued (run "
        f"{run['dag_run_id']}). To do: see which task waits; a day that was not delivered, a full "
        "pool or a stopped scheduler are the usual causes."
    )
    await asyncio.to_thread(tell, text)


def tell(text: str) -> None:
    """Log a message and send it to the webhook.

    One that cannot be reached is logged, too, and never fails a task.
    """
    log.error("ECDCTR ALERT %s", text)
    name = load_settings().config.airflow.alert_webhook_env
    if not name:
        return
    url = os.environ.get(name, "")
    if not _may_be_told(url):
        log.error("airflow.alert_webhook_env: %s holds no https URL; the alert was not sent.", name)
        return
    try:
        _send(url, text)
    except httpx.HTTPError as error:
        cause = str(error).replace(url, "its URL")  # which is a secret
        log.error("The alert could not be sent to the webhook in %s: %s", name, cause)


@retry(
    retry=retry_if_exception_type(httpx.TransportError),
    stop=stop_after_attempt(TRIES),
    wait=wait_exponential_jitter(multiplier=0.2, max=2),
    reraise=True,
)
def _send(url: str, text: str) -> None:
    here = httpx.URL(url).host in LOOPBACK  # by no proxy: this machine is meant
    httpx.post(url, json={"text": text}, timeout=SECONDS, trust_env=not here).raise_for_status()


def _may_be_told(url: str) -> bool:
    """Tell whether a webhook's URL keeps an alert from being read on the way.

    Https, or this very machine.
    """
    try:
        parts = httpx.URL(url)
        here = parts.scheme == "http" and parts.host in LOOPBACK
        return bool(parts.host) and (parts.scheme == "https" or here)
    except httpx.InvalidURL:
        return False


def _time(value: Any) -> dt.datetime:
    return value if isinstance(value, dt.datetime) else dt.datetime.fromisoformat(str(value))


def _run(context: Any) -> str:
    params = context["params"]
    try:
        date = data_date(dict(params), context["dag_run"])
    except EcdctrError:
        date = str(params.get("data_date") or "?")
    level = level_of(context["dag"].dag_id)
    return f"{level} {date} in {params.get('experiment', PRODUCTION)}"
