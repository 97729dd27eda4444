"""Backfills through a real scheduler: as of their dates, and chains that keep their order."""

from __future__ import annotations

import datetime as dt
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ecdctr.airflow.awaited import Patience
from ecdctr.airflow.standalone import Airflow
from ecdctr.airflow.triggers import YesterdayTrigger
from ecdctr.airflow.waiting import _run_before
from ecdctr.config import DOMAINS, load_config
from ecdctr.errors import EcdctrError
from ecdctr.impressions.layout import day_folder
from ecdctr.levels.actr import train_actr
from ecdctr.levels.request import Request
from ecdctr.store.manifest import Ref
from ecdctr.store.store import Store
from ecdctr.studies.forgetting.form import Planned
from ecdctr.worlds.named import load_world
from tests.conftest import DATE, REPOSITORY
from tests.make import end_backfills, failed_logs, until

DAYS = [DATE + dt.timedelta(days=k) for k in (1, 2, 3)]
pytestmark = pytest.mark.airflow


def backfill(
    airflow: Airflow, level: str, days: list[dt.date], conf: dict[str, str], **options: Any
) -> dict[str, str]:
    """Create a backfill, wait for the runs of its days; returns the state of each day's run."""
    end_backfills(airflow, f"ecdctr_{level}")
    create(airflow, level, days, conf, reprocess_behavior="completed", **options)
    return wait(airflow, level, days)


def create(
    airflow: Airflow, level: str, days: list[dt.date], conf: dict[str, str], **options: Any
) -> None:
    asked = {"dag_id": f"ecdctr_{level}", "dag_run_conf": conf, "max_active_runs": 3}
    asked |= {"from_date": f"{days[0]}T00:00:00Z", "to_date": f"{days[-1]}T00:00:00Z"}
    airflow.api.call("POST", "/api/v2/backfills", asked | options)


def wait(airflow: Airflow, level: str, days: list[dt.date]) -> dict[str, str]:
    """Wait until the runs of the days have ended; returns their states."""
    return {
        str(day): airflow.wait_for_run(f"ecdctr_{level}", run_id(airflow, level, day))
        for day in days
    }


def run_id(airflow: Airflow, level: str, day: dt.date) -> str:
    runs = airflow.api.runs(f"ecdctr_{level}")
    return next(
        name for name, run in runs.items() if (run["logical_date"] or "").startswith(str(day))
    )


def log_of(airflow: Airflow, level: str, day: dt.date, task: str) -> str:
    folder = (
        airflow.home / "logs" / f"dag_id=ecdctr_{level}" / f"run_id={run_id(airflow, level, day)}"
    )
    return "".join(
        path.read_text() for path in sorted((folder / f"task_id={task}").glob("attempt=*.log"))
    )


def test_a_backfill_resolves_as_of_its_dates_and_tells_the_assets(live, versions):
    conf, days = {"experiment": "study"}, DAYS[:2]
    assert set(backfill(live, "cpm", days, conf).values()) == {"success"}
    assert set(backfill(live, "actr", days, conf).values()) == {"success"}
    for level in ("cpm", "actr"):
        assert [ref.date for ref in versions.versions("study", level)] == days
        names = [run_id(live, level, day) for day in days]
        assert names == [f"backfill__{day}T00:00:00+00:00" for day in days]
    for ref in versions.versions("study", "actr"):
        assert versions.manifest(ref).parents["cpm"] == [f"study/cpm/{ref.date}/v0001"]
        assert versions.manifest(ref).window_end == ref.date
    chained = versions.versions(
        "study", "cpm"
    )  # several runs at a time, and each waited for the day before
    parents = [versions.manifest(ref).parents.get("cpm") for ref in chained]
    assert parents == [None, [str(chained[0])]]
    events = live.api.all("/api/v2/assets/events", "asset_events")
    published = {event["extra"].get("version") for event in events}
    assert {str(ref) for ref in versions.versions("study", "actr")} <= published


def test_the_readmes_backfill_runs_as_printed(live, versions):
    """With days of this world, and on a running Airflow as ./run airflow finds it."""
    page = (REPOSITORY / "README.md").read_text()
    (printed,) = re.findall(r"^./run airflow (backfill create (?:.*\\\n)*.*)$", page, re.MULTILINE)
    first, last = re.findall(r"--(?:from|to)-date (\S+)", printed)
    days = [DATE - dt.timedelta(days=1), DATE]  # no other test backfills these
    command = printed.replace(first, str(days[0])).replace(last, str(days[1]))
    config, store = (Path(live.environment[f"ECDCTR_{name}"]) for name in ("CONFIG", "STORE"))
    typed = Airflow(live.home, config, store, live.port)
    end_backfills(live, "ecdctr_actr")
    with typed.database():
        assert typed.call(shlex.split(command.replace("\\\n", " "))) == 0
    assert set(wait(live, "actr", days).values()) == {"success"}
    assert [ref.date for ref in versions.versions("ads_only", "actr")] == days


def test_a_chain_keeps_its_order_with_several_active_runs_and_a_cleared_day_in_the_middle(
    live, versions
):
    conf, serving = (
        {"experiment": "chain", "variant": "continue"},
        versions.versions("production", "actr"),
    )
    assert set(backfill(live, "actr", DAYS, conf).values()) == {"success"}
    chained = versions.versions("chain", "actr")
    assert [ref.date for ref in chained] == DAYS
    parents = [versions.manifest(ref).parents.get("actr") for ref in chained]
    assert parents == [None, [str(chained[0])], [str(chained[1])]]
    run = run_id(live, "actr", DAYS[1])
    live.api.call("POST", f"/api/v2/dags/ecdctr_actr/dagRuns/{run}/clear", {"dry_run": False})
    assert set(wait(live, "actr", DAYS).values()) == {"success"}
    assert versions.versions("chain", "actr") == chained
    assert versions.versions("production", "actr") == serving, "an experiment stays out of it"


def test_a_chain_backfilled_backwards_is_refused_with_the_reason(live, versions):
    conf = {"experiment": "backwards", "variant": "continue"}
    states = backfill(live, "actr", DAYS[:2], conf, run_backwards=True, max_active_runs=1)
    assert states[str(DAYS[1])] == "failed"
    log = log_of(live, "actr", DAYS[1], "wait_for_yesterday")
    assert "This backfill runs backwards" in log
    assert '"frames"' not in log
    assert DAYS[1] not in [ref.date for ref in versions.versions("backwards", "actr")]


def test_a_chain_of_runs_started_in_any_order_waits_for_the_day_before(live, versions):
    chain = {"experiment": "by-hand", "variant": "continue", "chain_start": str(DAYS[0])}
    days = DAYS[:2]
    for date in reversed(days):
        live.api.trigger("ecdctr_actr", f"hand_{date}", chain | {"data_date": str(date)})
    assert {live.wait_for_run("ecdctr_actr", f"hand_{date}") for date in days} == {"success"}
    chained = versions.versions("by-hand", "actr")
    assert [ref.date for ref in chained] == days
    parents = [versions.manifest(ref).parents.get("actr") for ref in chained]
    assert parents == [None, [str(chained[0])]]


def test_a_day_that_arrives_late_is_reported_and_then_trained_on(live, versions):
    last = load_world("tiny").settings.start + dt.timedelta(
        days=load_world("tiny").settings.days - 1
    )
    late = last + dt.timedelta(days=1)
    conf = {"data_date": str(late), "experiment": "late"}
    live.api.trigger("ecdctr_actr", "late", conf)
    alert = f"ECDCTR ALERT actr {late} in late: not done"
    until(lambda: alert in live.log.read_text(), "nobody was told that the run is late", pause=1)
    root = load_config(Path(live.environment["ECDCTR_CONFIG"])).data.root
    for day in (late, late + dt.timedelta(days=1)):
        for domain in DOMAINS:
            shutil.copytree(day_folder(root, domain, last), day_folder(root, domain, day))
            for path in day_folder(root, domain, day).glob("*.parquet"):
                shift_days(path, (day - last).days)
    assert live.wait_for_run("ecdctr_actr", "late") == "success"
    assert [ref.date for ref in versions.versions("late", "actr")] == [late]


def shift_days(path: Path, days: int) -> None:
    table = pq.read_table(path, partitioning=None)
    for name, by in (
        ("ts", pa.scalar(dt.timedelta(days=days))),
        ("impression_id", pa.scalar(days * 10**12)),
    ):
        column = pc.add(table.column(name), by)
        table = table.set_column(
            table.schema.get_field_index(name), name, column.cast(table.schema.field(name).type)
        )
    pq.write_table(table, path)


def test_a_variant_that_does_not_validate_is_refused_when_the_backfill_is_created(live):
    end_backfills(live, "ecdctr_actr")
    with pytest.raises(EcdctrError, match="no_such_variant"):
        create(live, "actr", DAYS[:2], {"experiment": "x", "variant": "no_such_variant"})


def test_a_backfill_survives_the_kill_of_airflow_and_all_its_tasks(live, kept, versions):
    end_backfills(live, "ecdctr_actr")
    conf = {"experiment": "killed", "variant": "continue"}
    create(live, "actr", DAYS, conf, reprocess_behavior="completed")
    until(lambda: versions.versions("killed", "actr"), "no day was trained", pause=0.2)
    live.kill()
    done = versions.versions("killed", "actr")
    kept.close()
    kept.enter_context(live.running())
    assert len(done) < 3, "it was killed too late to prove anything"
    states = wait(live, "actr", DAYS)
    for day, state in states.items():
        if state != "success":
            run = run_id(live, "actr", dt.date.fromisoformat(day))
            pytest.fail(f"{day} {state}:\n" + failed_logs(live, "ecdctr_actr", run))
    trained = versions.versions("killed", "actr")
    assert [ref.date for ref in trained] == DAYS
    assert [versions.manifest(ref).parents.get("actr") for ref in trained[1:]] == [
        [str(ref)] for ref in trained[:2]
    ]
    assert versions.verify() == []


@pytest.mark.parametrize(
    ("runs", "trained", "version", "must_exist", "expected"),
    [
        # a cleared day is trained again: its old version does not count
        ({"running": 1}, False, True, False, "waiting"),
        ({"running": 1}, True, True, False, "ready"),  # it evaluates still, and waits for data
        ({}, True, True, True, "ready"),
        ({"failed": 1}, True, True, True, "ready"),  # trained, but a later step of its run failed
        ({"failed": 1}, False, False, True, "failed"),
        ({}, False, False, True, "waiting"),
        ({}, False, False, False, "ready"),  # nobody ran that day: the chain begins here
    ],
)
def test_what_the_day_before_means_for_a_chain(
    monkeypatch, runs, trained, version, must_exist, expected
):
    trigger = YesterdayTrigger(
        "store",
        "actr",
        "x",
        "2026-01-17",
        "d",
        must_exist,
        run_id="r",
        patience=Patience(1, wait_hours=1),
    )
    monkeypatch.setattr(trigger, "runs", lambda *states: sum(runs.get(s, 0) for s in states))
    monkeypatch.setattr(trigger, "trained", lambda: trained)
    monkeypatch.setattr(trigger, "has_version", lambda: version)
    assert trigger.look() == expected


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (None, True),  # it may come yet
        ({"experiment": "mine"}, True),
        ({"experiment": "mine", "data_date": str(DATE - dt.timedelta(days=1))}, True),
        ({"experiment": "other"}, False),
        ({}, False),  # a schedule's, in production
        (
            {"experiment": "mine", "data_date": "2026-01-02"},
            False,
        ),  # of that logical date, about another day
    ],
)
def test_only_a_run_of_the_own_experiment_is_the_one_of_the_day_before(before, expected):
    logical = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)
    then = logical - dt.timedelta(days=1)
    previous = None if before is None else SimpleNamespace(logical_date=then, conf=before)
    context = {
        "dag_run": SimpleNamespace(logical_date=logical, run_id="backfill__x"),
        "params": {"data_date": None},
        "ti": SimpleNamespace(get_previous_dagrun=lambda: previous),
    }
    named = _run_before(context, str(DATE - dt.timedelta(days=1)), "mine")
    assert named == ({"logical_date": then.isoformat()} if expected else {})


def test_an_earlier_run_than_that_of_the_day_before_says_nothing():
    logical = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)
    last_week = SimpleNamespace(logical_date=logical - dt.timedelta(days=7), conf={})
    context = {
        "dag_run": SimpleNamespace(logical_date=logical, run_id="scheduled__x"),
        "params": {"data_date": None},
        "ti": SimpleNamespace(get_previous_dagrun=lambda: last_week),
    }
    named = _run_before(context, "2026-03-01", "mine")
    assert named == {"logical_date": (logical - dt.timedelta(days=1)).isoformat()}


@pytest.mark.parametrize("logical", [None, dt.datetime(2026, 3, 2, tzinfo=dt.UTC)])
def test_with_a_data_date_the_run_of_the_day_before_is_the_one_that_a_study_names(config, logical):
    """Whatever this run is called: a date in its name means nothing."""
    day, before = dt.date(2026, 3, 2), dt.date(2026, 3, 1)
    model = Planned("actr", "s", "continue", 1, before, config)
    context = {
        "dag_run": SimpleNamespace(logical_date=logical, run_id=f"{day}_of_{day}"),
        "params": {"data_date": str(day)},
    }
    named = _run_before(context, str(before), model.experiment)
    assert named == {"run_id": model.run(5, before)["trigger_run_id"]}


def test_a_chain_continues_from_the_version_of_the_day_before_only(config, parents, tmp_path):
    store = Store(shutil.copytree(parents, tmp_path / "store"))
    experiment = "chain"
    continuing = config.with_variant("continue")
    first = train_actr(Request(continuing, store, DATE, experiment, "continue")).manifest.ref
    second = train_actr(Request(continuing, store, DAYS[0], experiment, "continue")).manifest
    assert second.parents["actr"] == [str(first)]
    assert first == Ref(experiment, "actr", DATE, "v0001")
