"""Which day a run is about, and that no key of its conf is passed by."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pendulum
import pytest
from airflow.sdk.exceptions import AirflowFailException
from airflow.timetables.interval import CronDataIntervalTimetable

from ecdctr.airflow.dates import data_date, macros
from ecdctr.airflow.pipeline import build_dag
from ecdctr.config import LEVELS
from ecdctr.studies.ablation.dag import build_ablation_dag
from ecdctr.studies.forgetting.dag import build_forgetting_dag
from tests.make import write_config

BUILD = {level: partial(build_dag, level) for level in LEVELS}
BUILD |= {"ablation": build_ablation_dag, "forgetting": build_forgetting_dag}


@pytest.mark.parametrize(
    ("cron", "at", "expected"),
    [
        ("0 0 * * *", (2026, 1, 14, 0, 5), "2026-01-13"),
        ("0 3 * * *", (2026, 1, 14, 3, 5), "2026-01-13"),
        ("30 23 * * *", (2026, 1, 14, 23, 35), "2026-01-13"),
        ("0 6 * * 1", (2026, 1, 12, 6, 5), "2026-01-11"),
        ("0 */6 * * *", (2026, 1, 14, 18, 5), "2026-01-13"),
    ],
)
def test_a_run_of_any_schedule_reads_up_to_the_last_day_that_is_over(cron, at, expected):
    table = CronDataIntervalTimetable(cron, pendulum.timezone("UTC"))
    interval = table.infer_manual_data_interval(run_after=pendulum.datetime(*at))
    for zone in ("UTC", "Asia/Tokyo", "America/Los_Angeles"):
        run = SimpleNamespace(data_interval_end=interval.end.in_timezone(zone))
        assert data_date({}, run) == expected


def test_a_key_of_a_runs_conf_that_is_no_param_is_refused_with_those_that_are():
    rendered = macros(["data_date", "experiment"])
    params = {"data_date": "2026-03-01", "experiment": "x"}
    fine = SimpleNamespace(conf={"data_date": "2026-03-01"})
    assert rendered["next_day"](params, fine) == "2026-03-02"
    typo = SimpleNamespace(conf={"experimnt": "try", "data_date": "2026-03-01"})
    for name in ("data_date", "next_day"):
        with pytest.raises(AirflowFailException, match=r"'experimnt'.*data_date, experiment"):
            rendered[name](params, typo)


@pytest.mark.parametrize("name", BUILD)
def test_every_dag_refuses_an_unknown_key_before_anything_runs(name, world, tmp_path, monkeypatch):
    """What has no upstream is what runs first; each of these tasks says no."""
    monkeypatch.setenv("ECDCTR_CONFIG", str(write_config(tmp_path / "config.yaml", world)))
    monkeypatch.setenv("ECDCTR_STORE", str(tmp_path / "store"))
    dag = BUILD[name]()
    run = SimpleNamespace(conf={"hold_out_evry": 5}, data_interval_end=None)
    params = {key: param.value for key, param in dag.params.items()} | {"data_date": "2026-03-01"}
    context = {"params": params, "dag_run": run, "run_id": "r", **(dag.user_defined_macros or {})}
    for task in dag.roots:
        first = (
            partial(task.python_callable, params=params, dag_run=run)
            if hasattr(task, "python_callable")
            else partial(task.render_template_fields, context, dag.get_template_env())
        )
        with pytest.raises(AirflowFailException, match="'hold_out_evry', which is no param"):
            first()
