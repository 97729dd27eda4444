"""Schedules: what the configuration takes, Airflow's own library takes too."""

from __future__ import annotations

import datetime as dt

import pytest
from croniter import CroniterError, croniter
from hypothesis import given
from hypothesis import strategies as st

from ecdctr.config.cron import FIELDS, PRESETS, cron_problem

BEGIN = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def part(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low - 1, high + 2)
    step = st.integers(0, high + 1)
    one = (
        st.just("*")
        | number.map(str)
        | st.tuples(number, number).map(lambda pair: f"{pair[0]}-{pair[1]}")
        | step.map(lambda n: f"*/{n}")
        | st.tuples(number, number, step).map(lambda three: "{}-{}/{}".format(*three))
    )
    return st.lists(one, min_size=1, max_size=3).map(",".join)


def croniter_takes(text: str) -> bool:
    try:
        croniter(text, BEGIN).get_next(dt.datetime)
    except (CroniterError, ValueError):
        return False
    return True


@given(st.tuples(*(part(low, high) for _, low, high, _ in FIELDS)).map(" ".join))
def test_what_is_accepted_has_a_next_time(text):
    if cron_problem(text) is None:
        assert croniter_takes(text)


@given(st.integers(0, 59), st.integers(0, 23), st.integers(0, 7))
def test_a_time_of_a_weekday_is_accepted(minute, hour, weekday):
    assert cron_problem(f"{minute} {hour} * * {weekday}") is None


@pytest.mark.parametrize(
    "text", ["0 3 * * mon-fri", "*/15 0-6/2 1,15 jan,JUL *", "5/20 * * * *", *PRESETS]
)
def test_names_steps_and_presets_are_accepted(text):
    assert cron_problem(text) is None
    assert text.startswith("@") or croniter_takes(text)


@pytest.mark.parametrize(
    "text",
    ["", "daily", "@never", "0 0 * *", "0 0 * * * *", "60 0 * * *", "0 24 * * *", "0 0 0 * *",
     "0 0 31 2 *",
     "0 0 30 feb *", "5-1 * * * *", "*/0 * * * *", "a * * * *", "0 0 * * 8", "0 0 * 13 *",
     "0 0 * * ²", ", * * * *"],
)  # fmt: skip
def test_what_is_no_schedule_is_refused(text):
    assert cron_problem(text)
