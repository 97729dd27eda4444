"""The days that runs are about, and their names: a run is called by its data date."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace

import pendulum
import pytest
from airflow.timetables.base import DagRunInfo, DataInterval, TimeRestriction
from airflow.utils.types import DagRunType

from ecdctr.airflow.dates import data_date
from ecdctr.airflow.timetable import DataDateTimetable

CRONS = ["0 0 * * *", "0 3 * * *", "30 23 * * *", "0 6 * * 1", "0 */6 * * *"]


def table(cron: str) -> DataDateTimetable:
    return DataDateTimetable(cron, pendulum.timezone("UTC"))


def date_of(interval: DataInterval) -> str:
    return data_date({}, SimpleNamespace(data_interval_end=interval.end))


def runs(cron: str, catchup: bool, count: int = 9) -> list[DagRunInfo]:
    """Return the first runs from a day on, of a backfill or of a schedule that was never late."""
    made, day = table(cron), pendulum.datetime(2026, 4, 20)
    restriction = TimeRestriction(day, None, catchup)
    last = None if catchup else made.infer_manual_data_interval(run_after=day)
    infos: list[DagRunInfo] = []
    for _ in range(count):
        info = made.next_dagrun_info(last_automated_data_interval=last, restriction=restriction)
        assert info is not None
        last = info.data_interval
        infos.append(info)
    return infos


@pytest.mark.parametrize("cron", CRONS)
def test_a_run_of_a_backfill_is_called_by_its_data_date(cron):
    """Airflow calls it backfill__ and then `run_after`."""
    infos = runs(cron, catchup=True)
    assert [f"{info.run_after:%Y-%m-%d}" for info in infos] == [
        date_of(info.data_interval) for info in infos
    ]
    assert len({info.run_after for info in infos}) == len(infos), "two runs of one name"


@pytest.mark.parametrize("cron", CRONS)
def test_a_scheduled_run_starts_when_its_interval_is_over_and_is_called_by_its_data_date(cron):
    infos = runs(cron, catchup=False)
    assert all(info.run_after == info.data_interval.end for info in infos)
    names = [
        table(cron).generate_run_id(
            run_type=DagRunType.SCHEDULED,
            run_after=info.run_after,
            data_interval=info.data_interval,
            partition_key=None,
        )
        for info in infos
    ]
    dates = [date_of(info.data_interval) for info in infos]
    assert [name[: len("scheduled__2026-04-20")] for name in names] == [
        f"scheduled__{date}" for date in dates
    ]
    assert len(set(names)) == len(names), "two runs of one name"


@pytest.mark.parametrize("cron", CRONS)
@pytest.mark.parametrize("at", [(0, 0), (13, 30), (23, 59)])
def test_a_run_by_hand_for_a_logical_date_is_about_that_day(cron, at):
    interval = table(cron).infer_manual_data_interval(run_after=pendulum.datetime(2026, 4, 20, *at))
    assert date_of(interval) == "2026-04-20"
    assert interval.start < interval.end


@pytest.mark.parametrize(("cron", "days"), [("0 0 * * *", 1), ("0 6 * * 1", 7)])
def test_a_run_by_hand_for_now_is_about_the_last_interval_that_is_over(cron, days):
    now = pendulum.now("UTC")
    end = table(cron).infer_manual_data_interval(run_after=now).end
    assert now - dt.timedelta(days=days) < end <= now


def test_a_run_by_hand_is_called_by_the_moment_of_asking():
    """Its param data_date may name any day, and Airflow tells the timetable no params."""
    asked = pendulum.datetime(2026, 11, 2, 9)
    made = table("0 0 * * *")
    interval = made.infer_manual_data_interval(run_after=asked)
    options = {"run_after": asked, "data_interval": interval}
    name = made.generate_run_id(run_type=DagRunType.MANUAL, **options)
    assert name == "manual__2026-11-02T09:00:00+00:00"
