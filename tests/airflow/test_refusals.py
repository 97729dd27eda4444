"""Runs that cannot be: refused at once, in a sentence that says what to do."""

from __future__ import annotations

import datetime as dt
import logging
import shutil
from types import SimpleNamespace

import pytest
import structlog
from airflow.sdk.exceptions import AirflowFailException

from ecdctr.airflow import alerts
from ecdctr.airflow.awaited import Awaited, Patience
from ecdctr.airflow.dates import data_date
from ecdctr.airflow.operators import ProcessOperator
from ecdctr.airflow.pipeline import build_dag
from ecdctr.airflow.refusals import TEMPLATES, RefusedError, RunRefused, without_frames
from ecdctr.airflow.waiting import WaitForDay
from ecdctr.errors import ConfigError
from tests.make import write_config

NOW = dt.datetime(2026, 2, 1, 12, tzinfo=dt.UTC)


@pytest.fixture(autouse=True)
def settings(world, tmp_path, monkeypatch):
    monkeypatch.setenv("ECDCTR_CONFIG", str(write_config(tmp_path / "config.yaml", world)))
    monkeypatch.setenv("ECDCTR_STORE", str(tmp_path / "store"))


def backfill(conf):
    end = dt.datetime(2026, 1, 12, tzinfo=dt.UTC)
    return SimpleNamespace(run_type="backfill", conf=conf, data_interval_end=end)


def test_a_backfill_whose_form_sent_no_params_does_not_train_into_production():
    params = {"experiment": "production", "variant": "default"}
    with pytest.raises(ConfigError, match="tick 'Override parameters on existing runs'"):
        data_date(params, backfill({}))
    assert data_date(params, backfill({"experiment": "production"})) == "2026-01-11"


@pytest.mark.parametrize("level", ["tpm", "cpm", "actr"])
def test_what_a_template_refuses_fails_the_first_task_without_a_retry_or_frames(level, caplog):
    dag = build_dag(level)
    (first,) = dag.roots
    params = {"experiment": "production", "variant": "no_tpm", "data_date": "2026-01-11"}
    environment = dag.get_template_env()
    with caplog.at_level(logging.DEBUG):
        with pytest.raises(RunRefused, match=r"variant=no_tpm cannot run in 'production'"):
            first.render_template_fields({"params": params, "dag_run": None}, environment)
        assert not caplog.records, "Airflow logs the sentence once, when the task ends"
        with pytest.raises(AttributeError):
            first.render_template_fields({"params": {}, "dag_run": None}, environment)
    assert [record.name for record in caplog.records] == [TEMPLATES]


@pytest.mark.parametrize(("level", "both"), [("tpm", False), ("cpm", True), ("actr", True)])
def test_a_run_waits_for_the_domains_that_it_reads_and_is_judged_on(level, both):
    dag = build_dag(level)
    assert dag.get_task("wait_for_data").awaited.both is both
    assert dag.get_task("wait_for_next_day").awaited.both


def test_a_run_whose_other_domain_never_came_says_so(world, tmp_path):
    shutil.copytree(world, tmp_path / "world")
    shutil.rmtree(tmp_path / "world" / "domain=natural" / "date=2026-01-18")
    waits = wait_for(tmp_path / "world", "2026-01-18", both=True)
    words = r"its examples look at natural, of which no \.parquet file is there; deliver"
    with pytest.raises(RefusedError, match=words):
        waits.arrived({}, {"outcome": "timeout"})


def wait_for(world, date, both=False, **asked):
    awaited = Awaited(str(world), "ads", both=both)
    return WaitForDay(
        task_id="w", awaited=awaited, date=date, patience=Patience(1, wait_hours=36), **asked
    )


def test_a_day_that_is_awaited_says_what_is_there_and_until_when(world):
    said = wait_for(world, "2026-02-02").outlook(NOW)
    assert "delivered are 2026-01-01 to 2026-01-24" in said
    assert "The task fails at 2026-02-03 00:00 UTC" in said


@pytest.mark.parametrize("date", ["2025-12-31", "2026-02-04"])
def test_a_day_that_will_not_come_is_refused_at_once_with_the_range(world, date):
    with pytest.raises(RunRefused, match=rf"no ads .*{date}.*2026-01-01 to 2026-01-24.*Choose"):
        wait_for(world, date).outlook(NOW)


def test_the_alert_of_a_refused_run_gives_no_other_remedy(caplog):
    context = {
        "ti": SimpleNamespace(task_id="wait_for_data"),
        "dag": SimpleNamespace(dag_id="ecdctr_cpm"),
        "dag_run": None,
        "params": {"data_date": "2026-03-04", "experiment": "x"},
        "exception": RunRefused("There are no ads. Choose a data date in this range."),
    }
    with caplog.at_level(logging.ERROR):
        alerts.task_failed(context)
    said = [r.getMessage() for r in caplog.records if "ECDCTR ALERT" in r.getMessage()]
    assert said[0].endswith(
        "cpm 2026-03-04 in x: There are no ads. Choose a data date in this range."
    )
    assert "To do" not in said[0]


def test_a_refusal_stands_in_the_log_a_sentence_a_line_without_frames(tmp_path):
    """The window shows the beginning of a line; what to do stood at the end, under a traceback."""
    operator = ProcessOperator(
        task_id="t", arguments=["--store", str(tmp_path), "gate", "--version", "x", "--date", "y"]
    )
    with structlog.testing.capture_logs() as entries:
        try:
            operator.execute({"dag": SimpleNamespace(dag_id="d"), "run_id": "r"})
        except AirflowFailException:
            structlog.get_logger("task").exception("Task failed with exception")
    entry = entries[-1]
    first, *lines = entry["event"].splitlines()
    assert first == "Refused:"
    assert len(lines) > 1
    assert max(map(len, lines)) <= 100
    assert "exc_info" not in entry


def test_an_error_that_is_no_refusal_keeps_its_frames():
    event = {"event": "Task failed", "exc_info": RuntimeError("killed by signal 9")}
    assert without_frames(None, "error", dict(event)) == event


def look(world, level, variant="default"):
    made = wait_for(world, "2026-01-18", level=level, experiment="e", variant=variant)
    made.look_above(level)


@pytest.mark.parametrize(
    ("level", "variant", "words"),
    [
        (
            "cpm",
            "default",
            r'Trigger ecdctr_tpm with \{"data_date": "2026-01-\d\d", "experiment": "e"\}',
        ),
        (
            "actr",
            "no_tpm",
            r'Trigger ecdctr_cpm with .* "variant": "no_tpm"\}, then clear this run',
        ),
    ],
)
def test_a_level_without_the_one_above_is_refused_before_anything_is_prepared(
    world, monkeypatch, level, variant, words
):
    monkeypatch.setattr("ecdctr.airflow.waiting._runs_of", lambda dag_id: 0)
    with pytest.raises(RunRefused, match=words):
        look(world, level, variant)
    monkeypatch.setattr("ecdctr.airflow.waiting._runs_of", lambda dag_id: 1)
    look(world, level, variant)  # the other level runs just now: `train` will see


@pytest.mark.parametrize(
    ("level", "variant"), [("tpm", "default"), ("cpm", "no_tpm"), ("actr", "ads_only")]
)
def test_a_level_that_needs_no_other_is_not_held_up(world, monkeypatch, level, variant):
    monkeypatch.setattr("ecdctr.airflow.waiting._runs_of", lambda dag_id: 0)
    look(world, level, variant)
