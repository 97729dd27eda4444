"""The demo's table and figure: what is compared is compared on the same days."""

from __future__ import annotations

import datetime as dt
import io

import pytest
from rich.console import Console

from ecdctr.demo.floor import best_floor
from ecdctr.demo.page import Row, _gauc_plot, collect, mean_calibration, print_table
from ecdctr.errors import StoreError
from tests.conftest import DATE
from tests.make import evaluated, manifest

METRICS = {"log_loss": 0.3, "calibration": 1.0}


def row(experiment: str, date: str, gauc: float) -> Row:
    return Row(experiment, date, "v", {"all": METRICS | {"gauc": gauc}}, [])


ROWS = [
    row("ads_only", "2026-04-28", 0.5),
    row("ads_only", "2026-04-29", 0.7),
    row("production", "2026-04-29", 0.6),
]


def printed(rows: list[Row]) -> str:
    text = io.StringIO()
    print_table(rows, Console(file=text, width=100))
    return text.getvalue()


def test_means_are_over_the_days_that_all_experiments_have():
    lines = printed(ROWS).splitlines()
    mean = {" ".join(line.split()[:2]): line.split()[-3] for line in lines if "0.3000" in line}
    assert mean["ads only"] == "0.7000"  # not 0.6, the mean with a day of its own
    assert mean["full E-CDCTR"] == "0.6000"
    assert "Means are over the 1 days that all experiments have, of 2." in printed(ROWS)


def test_what_held_out_ads_say_is_shown_where_a_world_has_some():
    rows = [
        one._replace(metrics={"all": one.metrics["all"] | {"expected_gauc": 0.65 + k / 100}})
        for k, one in enumerate(ROWS)
    ]
    said = printed(rows)
    assert "expected" not in printed(ROWS)
    means = {line.split()[0]: line.split()[-1] for line in said.splitlines() if "0.3000" in line}
    assert means == {"ads": "0.6600", "full": "0.6700"}
    assert all(len(line) <= 80 for line in said.splitlines() if "│" not in line and "0." in line)
    assert "by the true probabilities of held-out ads" in said
    assert "<!-- expected GAUC -->" in _gauc_plot(rows)
    assert "<!-- GAUC -->" in _gauc_plot([*rows, ROWS[0]._replace(date="2026-04-30")])


@pytest.mark.parametrize("damage", ["{}", '{"metrics": null, "calibration_curve": null}'])
def test_a_damaged_evaluation_is_told_by_the_report(config, store, damage):
    with store.staging() as folder:
        (folder / "a").write_text("a")
        ref = store.publish(folder, manifest(DATE, "f", level="actr")).ref
    evaluated(config, store, ref)
    folder = store.evaluation(ref, DATE + dt.timedelta(days=1))
    (folder / "evaluation.json").write_text(damage)
    (folder / "digests.json").unlink()  # as in stores of before
    with pytest.raises(StoreError, match=r"is damaged \(it holds no metrics\); make it again"):
        collect(store, ["production"])


def test_experiments_without_a_common_day_have_no_mean():
    said = printed([ROWS[0], ROWS[2]])
    assert said.count("0.5000") == said.count("0.6000") == 1


def test_calibration_is_the_mean_over_the_days_that_all_experiments_have():
    distinct, shared = [[0.1, 0.9]] * 10, [[0.1, 0.2]] * 10
    curves = [distinct, shared, shared]
    rows = [one._replace(curve=curve) for one, curve in zip(ROWS, curves, strict=True)]
    means = mean_calibration(rows)
    assert means["ads_only"].tolist() == means["production"].tolist() == shared
    assert mean_calibration([rows[0], rows[2]]) == {}, "no day in common"
    short = rows[2]._replace(curve=shared[:9])
    assert mean_calibration([*rows[:2], short]) == {}, "another number of points"


@pytest.mark.parametrize("days", [1, 3, 30])
def test_the_days_of_the_figure_are_dates_in_their_order(days):
    rows = [row("production", f"2026-04-{day:02d}", 0.6) for day in range(1, days + 1)]
    svg = _gauc_plot(rows)
    assert "<svg" in svg
    labels = svg.count("<!-- 04-")
    assert 1 <= labels <= 10


def test_a_report_never_compares_experiments_on_different_deliveries_of_a_day(config, store):
    """The second experiment was evaluated after one user had come and another had gone."""
    refs = []
    for experiment in ("production", "no_tpm"):
        made = manifest(DATE, experiment, level="actr").model_copy(
            update={"experiment": experiment}
        )
        with store.staging() as folder:
            (folder / "a").write_text(experiment)
            refs.append(store.publish(folder, made).ref)
    first, second = refs
    evaluated(config, store, first)
    evaluated(config, store, second, 0.6)
    assert len(collect(store, ["production", "no_tpm"])) == 2
    evaluated(config, store, second, 0.6, users_from=1)
    with pytest.raises(
        StoreError, match=f"{first} and {second} were evaluated on other impressions"
    ):
        collect(store, ["production", "no_tpm"])
    assert len(collect(store, ["production"])) == 1


def test_a_floor_is_judged_by_the_impressions_of_the_experiments_or_refused(config, store):
    with store.staging() as folder:
        (folder / "a").write_text("a")
        ref = store.publish(folder, manifest(DATE, "a", level="actr")).ref
    evaluated(config, store, ref)
    with pytest.raises(
        StoreError, match=f"{ref} and the floor 'item_rate' were evaluated on other"
    ):
        best_floor(config, store, collect(store, ["production"]))
