"""Which days the runs of a schedule are about, and what Airflow calls them: by their data date.

Airflow's own cron timetable names a run by the moment from which it may start, the day after its
data date, and a run by hand for a logical date reads up to the day before it.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from airflow.plugins_manager import AirflowPlugin
from airflow.timetables.base import DagRunInfo, DataInterval, TimeRestriction
from airflow.timetables.interval import CronDataIntervalTimetable
from airflow.utils.types import DagRunType
from pendulum import DateTime, instance, now

DAY = dt.timedelta(days=1)  # from the moment that a data interval ends to its data date


class DataDateTimetable(CronDataIntervalTimetable):
    """A cron schedule in UTC for DAGs without catchup, whose runs are called by their data date."""

    def next_dagrun_info(
        self, *, last_automated_data_interval: DataInterval | None, restriction: TimeRestriction
    ) -> DagRunInfo | None:
        """Return the next run.

        Airflow calls a backfill's runs by `run_after` and asks no timetable. Their days are over
        whatever it says, so there it says the data date. It asks with catchup for backfills alone,
        as these DAGs catch nothing up.
        """
        info = super().next_dagrun_info(
            last_automated_data_interval=last_automated_data_interval, restriction=restriction
        )
        if info is None or info.data_interval is None or not restriction.catchup:
            return info
        return info._replace(run_after=info.data_interval.end - DAY)

    def infer_manual_data_interval(self, *, run_after: DateTime) -> DataInterval:
        """Return the interval of a run by hand for a logical date: it ends with that day.

        Where that day is not over (the form's logical date is now), it is the last interval that
        the schedule has completed.
        """
        midnight = instance(run_after).in_timezone("UTC").start_of("day") + DAY
        end = midnight if midnight <= now("UTC") else self._align_to_prev(run_after)
        return DataInterval(start=self._get_prev(end), end=end)

    def generate_run_id(
        self,
        *,
        run_type: DagRunType,
        run_after: DateTime,
        data_interval: DataInterval | None,
        **extra: Any,
    ) -> str:
        """Call a scheduled run by its data date and its time of day.

        Others by the moment of asking: a run by hand may have another day in its param data_date.
        """
        if run_type == DagRunType.SCHEDULED and data_interval is not None:
            return run_type.generate_run_id(suffix=f"{data_interval.end - DAY:%Y-%m-%dT%H:%M}")
        return super().generate_run_id(
            run_type=run_type, run_after=run_after, data_interval=data_interval, **extra
        )


class TimetablePlugin(AirflowPlugin):
    """Registers the timetable, without which Airflow stores no DAG that has it.

    Found by the package's entry point (pyproject.toml), so that the DAGs work in an Airflow that
    knows their folder alone.
    """

    name = "ecdctr_timetable"
    timetables = [DataDateTimetable]  # noqa: RUF012  # Airflow's own form
