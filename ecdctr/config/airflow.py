"""Schedules and execution of the DAGs."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from pydantic import Field, field_validator

from ecdctr.config.cron import cron_problem
from ecdctr.config.kubernetes import ENVIRONMENT_NAME, Kubernetes
from ecdctr.config.section import Section


class AirflowSettings(Section):
    """Schedules and execution of the DAGs."""

    execution: Literal["process", "kubernetes"] = Field(
        "process", description="where a step works: beside Airflow's worker, or in a pod of its own"
    )
    start_date: dt.date = Field(
        dt.date(2026, 1, 1),
        ge=dt.date(1970, 1, 1),
        lt=dt.date(2200, 1, 1),
        description="first day of the schedules",
    )
    tpm_cron: str = Field(
        "0 0 * * 1", description="UTC; a run reads up to the last day that is over when it is due"
    )
    daily_cron: str = Field(
        "0 0 * * *",
        description=(
            "of CPM and A-CTR, UTC; '0 3 * * *' leaves late data three hours and reads "
            "the day that ended at midnight"
        ),
    )
    pool: str = Field(
        "gpu", pattern=r"^[A-Za-z0-9_.-]{1,250}$", description="Airflow pool that bounds trainings"
    )
    retries: int = Field(1, ge=0, le=100, description="how often a failed step is tried again")
    retry_seconds: float = Field(300, ge=0, le=604_800, description="before a step is tried again")
    wait_hours: float = Field(
        36, gt=0, le=8760, description="how long a run waits for a day's data"
    )
    settle_minutes: float = Field(
        0,
        ge=0,
        le=10_080,
        description=(
            "how long no file of a day may have come or changed before a run reads it; "
            "without a marker (data.ready: files) longer than the longest pause between "
            "two files of one delivery"
        ),
    )
    poke_seconds: float = Field(
        60, gt=0, le=86_400, description="how often a waiting run looks for the day"
    )
    deadline_hours: float | None = Field(
        None,
        gt=0,
        le=8760,
        description=(
            "after which a run that is not done is reported. Airflow 3.3.2 cannot clear a "
            "failed run before this time is up, hence none by default; a failed task is "
            "reported anyway, also one whose day did not arrive"
        ),
    )
    alert_webhook_env: str | None = Field(
        None,
        pattern=ENVIRONMENT_NAME,
        description=(
            "environment variable that holds the URL of a webhook for alerts; none: the log alone"
        ),
    )
    kubernetes: Kubernetes = Field(
        Kubernetes(), description="the pods, where execution is kubernetes"
    )

    @field_validator("tpm_cron", "daily_cron")
    @classmethod
    def _is_cron(cls, text: str) -> str:
        problem = cron_problem(text)
        if problem:
            raise ValueError(f"{problem}; expected five fields of cron, like '0 0 * * *'")
        return text
