"""Schedules and execution of the DAGs."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from pydantic import Field

from ecdctr.config.kubernetes import Kubernetes
from ecdctr.config.section import Section


class AirflowSettings(Section):
    """Schedules and execution of the DAGs."""

    execution: Literal["process", "kubernetes"] = "process"
    start_date: dt.date = dt.date(2026, 1, 1)
    tpm_cron: str = Field(
        "0 0 * * 1", description="UTC; a run reads up to the last day that is over when it is due"
    )
    daily_cron: str = Field(
        "0 0 * * *",
        description="of CPM and A-CTR, UTC; '0 3 * * *' leaves late data three hours and reads the day that ended "
        "at midnight",
    )
    pool: str = "gpu"
    retries: int = Field(1, ge=0)
    retry_seconds: float = Field(300, ge=0, description="before a step is tried again")
    wait_hours: float = Field(36, gt=0, description="how long a run waits for a day's data")
    poke_seconds: float = Field(60, gt=0)
    deadline_hours: float | None = Field(
        None,
        gt=0,
        description="after which a run that is not done is reported. Airflow 3.3.2 cannot clear a failed run before "
        "this time is up, hence none by default; a failed task is reported anyway, also one whose day did not arrive",
    )
    alert_webhook_env: str | None = Field(
        None,
        description="environment variable that holds the URL of a webhook for alerts; none: the log alone",
    )
    kubernetes: Kubernetes = Kubernetes()
