"""The ablation on the tiny world: rows, records, resuming, the page, speeds."""

from __future__ import annotations

import datetime as dt
import itertools
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from ecdctr.cli.studies import check_worlds
from ecdctr.config import Config, load_config
from ecdctr.config.studies import split_row
from ecdctr.errors import ConfigError, StoreError
from ecdctr.evaluation.compare import compare
from ecdctr.levels.request import Silent
from ecdctr.report.figures import save_png
from ecdctr.report.html import as_html
from ecdctr.studies.ablation.figure import quality_and_cost
from ecdctr.studies.ablation.page import Origin, results_page
from ecdctr.studies.ablation.plan import Study
from ecdctr.studies.ablation.records import mean_gauc, per_seed
from ecdctr.studies.ablation.speed import measure
from ecdctr.studies.ablation.study import refuse_other_impressions, run_study
from ecdctr.studies.floors import FLOORS
from ecdctr.studies.tuning import best, run_tuning, trial_settings, tuning_page
from ecdctr.worlds.named import load_world
from tests.conftest import REPOSITORY
from tests.make import forked, made_before

TINY = REPOSITORY / "configs" / "tiny.yaml"


@pytest.fixture(scope="module")
def finished(
    config: Config, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Study, tuple[list[dict], list[dict]]]:
    rows = ("ads_only", "full", "window", "window@2", "continue")
    study = Study(
        TINY, load_world("tiny"), (1,), rows, 2, tmp_path_factory.mktemp("study"), chain_days=2
    )
    made_before(study.folder(1), config)
    return study, run_study(study, 2, Silent())


def test_every_row_is_evaluated_on_every_next_day_with_the_oracle_once(finished):
    study, (records, users) = finished
    evaluated = [(r["row"], str(r["date"])) for r in records if r["cohort"] == "all"]
    dates = ["2026-01-22", "2026-01-23"]
    assert evaluated == [(row, date) for row in (*FLOORS, *study.rows, "oracle") for date in dates]
    assert {r["row"] for r in users} == {*FLOORS, *study.rows}
    assert pq.read_metadata(study.work / "ablation-tiny.parquet").num_rows == len(records)


def test_a_study_run_again_trains_nothing_and_says_the_same(finished):
    """Two processes made it, and one asks again."""
    study, results = finished
    store = study.store(1)
    before = {name: store.versions(name, "actr") for name in store.experiments()}
    assert run_study(study, 1, Silent()) == results
    assert {name: store.versions(name, "actr") for name in store.experiments()} == before


def test_rows_that_were_judged_on_other_deliveries_of_a_day_are_not_compared(finished):
    records = [dict(record) for record in finished[1][0]]
    judged = [record for record in records if record.get("judged_on")]
    assert {record["row"] for record in judged} > {"item_rate", finished[0].rows[0]}
    refuse_other_impressions(records)
    judged[-1]["judged_on"] = "another delivery"
    with pytest.raises(StoreError, match=r"Rows .* and .* were judged on other impressions of 2"):
        refuse_other_impressions(records)


def test_the_page_has_rows_differences_and_speeds(finished, warm, monkeypatch):
    """Trainings that are timed are processes of their own, here by a fork."""

    def run(command: list[str], **_: bool) -> subprocess.CompletedProcess[str]:
        assert command[:4] == [sys.executable, "-P", "-m", "ecdctr.cli"]
        return forked(warm, *command[4:])

    monkeypatch.setattr(subprocess, "run", run)
    study, (records, users) = finished
    page = results_page(records, users, Origin("tiny"), measure(study, 1, Silent()))
    for words in (
        "| full E-CDCTR |",
        "| ads only |",
        "samples a day",
        "train tpm",
        "prepare natural",
    ):
        assert words in page
    assert "nan" not in page


def test_the_page_as_html_has_its_picture_inside_and_shows_markup_as_text(finished, tmp_path: Path):
    _, (records, users) = finished
    save_png(quality_and_cost(records), tmp_path / "own.png")
    page = results_page(records, users, Origin("tiny", "<script>"), figure="own.png")
    html = as_html(page, tmp_path)
    assert 'src="data:image/png;base64,iVBOR' in html
    assert "<td>full E-CDCTR</td>" in html
    assert "<script>" not in html


def test_the_figure_shows_every_row_but_the_oracle_at_its_mean(finished):
    _, (records, _) = finished
    left, right = quality_and_cost(records).axes
    shown = [line.get_xdata()[0] for line in left.lines if line.get_marker() == "D"]
    rows = (*FLOORS, "ads_only", "full", "window", "window@2", "continue")
    assert shown == pytest.approx([mean_gauc(records)[row] for row in rows])
    daily = {r["row"]: r["daily_samples"] for r in records if r.get("daily_samples")}
    assert right.patches[0].get_width() == pytest.approx(daily["ads_only"])


def test_rows_that_share_a_cpm_train_it_once(finished):
    study, _ = finished
    store = study.store(1)
    versions = [ref for name in store.experiments() for ref in store.versions(name, "cpm")]
    dates = sorted(str(ref.date) for ref in versions)
    # daily for window, every second day for window@2, all days of its chain for full, and up to the
    # first day of the ads model's chain for continue
    full = ["2026-01-20", "2026-01-21", "2026-01-22", "2026-01-23"]
    before = ["2026-01-18", "2026-01-19", "2026-01-20"]
    assert dates == sorted(["2026-01-22", "2026-01-23", "2026-01-22", *full, *before])


def test_a_cpm_that_goes_on_has_lived_before_its_first_evaluation_and_costs_a_day(finished):
    study, (records, _) = finished
    store = study.store(1)
    chain = store.versions(study.request(1, "full", "cpm", study.dates(1)[0]).experiment, "cpm")
    parents = [store.manifest(ref).parents.get("cpm") for ref in chain]
    assert parents == [None, *([str(ref)] for ref in chain[:-1])]
    cost = {
        r["row"]: r["daily_samples"]
        for r in records
        if r["cohort"] == "all" and "daily_samples" in r  # floors and the oracle train nothing
    }
    saved = (study.config(1).cpm.window_days - 1) * load_world("tiny").settings.natural_per_day
    assert cost["window"] - cost["full"] == pytest.approx(saved, rel=0.05)


def test_a_row_that_continues_has_its_days_in_order(finished):
    study, _ = finished
    store = study.store(1)
    experiment = study.request(1, "continue", "actr", study.dates(1)[0]).experiment
    chain = store.versions(experiment, "actr")
    assert [str(ref.date) for ref in chain] == [
        "2026-01-20",
        "2026-01-21",
        "2026-01-22",
        "2026-01-23",
    ]
    parents = [store.manifest(ref).parents for ref in chain]
    assert "cpm" in parents[0]
    assert [of_day.get("actr") for of_day in parents[1:]] == [[str(ref)] for ref in chain[:-1]]


def test_the_comparison_finds_a_difference_that_is_there_and_none_that_is_not():
    rng = np.random.default_rng(1)
    users = []
    for seed in (1, 2):
        for user in range(400):
            base = rng.uniform(0.3, 0.9)
            for row, shift in (
                ("low", 0.0),
                ("same", rng.normal(0, 0.1)),
                ("high", rng.normal(0.03, 0.1)),
            ):
                users.append(
                    {
                        "seed": seed,
                        "date": 1,
                        "row": row,
                        "user": user,
                        "auc": base + shift,
                        "impressions": 5,
                    }
                )
    better, same = compare(users, "high", "low"), compare(users, "same", "low")
    assert better.p < 0.01
    assert better.low < 0.03 < better.high
    assert same.p > 0.05
    assert same.low < 0 < same.high


def test_an_unknown_row_is_refused_before_anything_is_made(tmp_path: Path):
    study = Study(TINY, load_world("tiny"), (1,), ("magic",), 1, tmp_path / "work")
    with pytest.raises(ConfigError, match="known variants"):
        run_study(study, 1, Silent())
    assert not (tmp_path / "work").exists()


def test_rows_lie_on_top_of_the_base_which_full_then_is(tmp_path: Path):
    study = Study(TINY, load_world("tiny"), (1,), ("full", "no_tpm"), 1, tmp_path, base="window")
    assert [study.config(1, row).cpm.refresh for row in study.rows] == ["window", "window"]
    assert [study.config(1, row).snapshots.count for row in study.rows] == [2, 0]
    with pytest.raises(ConfigError, match="Unknown variant 'magic'"):
        Study(TINY, load_world("tiny"), (1,), ("full",), 1, tmp_path, base="magic").config(1)


def test_every_row_is_tried_with_as_many_settings_from_the_same_values():
    config = load_config(REPOSITORY / "configs" / "daily.yaml")
    tried = {
        row: trial_settings(config, row, "actr")
        for row in ("full", "ads_only", "ewc", "long_cpm@7")
    }
    assert {len(settings) for settings in tried.values()} == {config.tuning.trials}
    assert tried["full"][0] == {
        "actr.lr_embedding": 0.005,
        "actr.lr_dense": 0.0005,
        "actr.epochs": 2,
    }
    for settings in tried.values():
        assert len({str(one) for one in settings}) == len(settings)
        for one in settings[1:]:
            assert all(value in config.tuning.space.get(key, [value]) for key, value in one.items())
    assert {one["actr.ewc"] for one in tried["ewc"]} > {10.0}
    assert "actr.ewc" not in tried["full"][1]
    assert set(trial_settings(config, "full", "cpm")[0]) == {"cpm.lr_dense", "cpm.epochs"}


def test_tuning_says_which_settings_were_best_and_how_to_write_them(config: Config, tmp_path: Path):
    raw = yaml.safe_load(TINY.read_text())
    raw["tuning"] = {"trials": 2, "space": {"actr.epochs": [1, 2]}}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(raw))
    study = Study(path, load_world("tiny"), (1,), ("ads_only",), 1, tmp_path / "work")
    made_before(study.folder(1), config)
    trials = run_tuning(study, "actr", 1, Silent())
    assert [trial.settings["actr.epochs"] for trial in trials] == [1, 2]
    winner = best(trials)["ads_only"]
    assert winner.mean == max(trial.mean for trial in trials)
    page = tuning_page(trials, "ecdctr tune")
    written = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])
    assert written == {"ads_only": {"actr": {"epochs": winner.settings["actr.epochs"]}}}
    assert pq.read_table(tmp_path / "work" / "tuning-tiny.parquet").num_rows == 2


def test_a_value_that_a_row_cannot_have_is_refused_before_anything_is_trained(tmp_path: Path):
    raw = yaml.safe_load(TINY.read_text())
    raw["tuning"] = {"space": {"actr.epochs": [1, 0]}}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match=r"tuning.space, actr.epochs: 0 is not valid"):
        run_tuning(
            Study(path, load_world("tiny"), (1,), ("full",), 1, tmp_path / "work"),
            "actr",
            1,
            Silent(),
        )
    assert not (tmp_path / "work").exists()


def test_a_measure_of_zero_counts():
    """A GAUC of 0 is one, as every small cohort shows; what was not measured is left out."""
    seeds = [{"gauc": 0.0}, {"gauc": 0.5}, {}]
    records = [{"seed": n, "row": "full", "cohort": "all", **one} for n, one in enumerate(seeds)]
    assert per_seed(records, "full", "gauc").tolist()[:2] == [0.0, 0.5]
    assert np.isnan(per_seed(records, "full", "gauc")[2])


def test_tpm_stays_weekly_up_to_the_last_evaluated_day_and_cpm_daily_between_sparse_ones(
    config: Config, tmp_path: Path
):
    one = Study(
        TINY,
        load_world("tiny"),
        (1,),
        ("window", "full"),
        2,
        tmp_path,
        chain_days=1,
        eval_every=8,
    )
    made_before(one.folder(1), config)
    first, last = one.dates(1)
    assert (last - first).days == 8
    weeks = one.tpm_dates(1, "window")
    assert {(b - a).days for a, b in itertools.pairwise(weeks)} == {7}
    assert first - dt.timedelta(days=1) in weeks
    assert 0 < (last - weeks[-1]).days <= 7
    daily = one.cpm_dates(1, "full")
    assert (daily[-1] - daily[0]).days + 1 == len(daily) == 10
    assert one.cpm_dates(1, "window") == [first, last]


def test_a_chain_longer_than_the_log_begins_when_the_first_snapshot_is_known(
    config: Config, tmp_path: Path
):
    study = Study(TINY, load_world("tiny"), (1,), ("full", "no_tpm"), 1, tmp_path / "work")
    made_before(study.folder(1), config)
    snapshot, *_ = study.tpm_dates(1, "full")
    first, *_ = study.cpm_dates(1, "full")
    assert first == snapshot + dt.timedelta(days=1)
    assert study.cpm_dates(1, "no_tpm")[0] < first


@pytest.mark.parametrize(
    ("left", "sentence"),
    [
        ("ads", r"No day of natural content in \S+, which CPM and TPM learn from"),
        ("natural", r"9 evaluation days, each 8 apart were asked for; the ads in \S+ have 0 that"),
        ("both", r"9 evaluation days, each 8 apart were asked for; the ads in \S+ have [1-8] that"),
    ],
)
def test_a_log_with_too_few_days_is_refused_before_anything_is_trained(
    config: Config, tmp_path: Path, left: str, sentence: str
):
    days = 1 if left == "ads" else 9
    log = tmp_path / "log"
    made_before(tmp_path / "world", config)
    for domain in ("ads", "natural"):
        if left in (domain, "both"):
            name = f"domain={domain}"
            shutil.copytree(tmp_path / "world" / "data" / name, log / name)
    place = tmp_path / "config.yaml"
    raw = yaml.safe_load(TINY.read_text("utf-8"))
    raw["data"] |= {"root": str(log), "prepared": str(tmp_path / "prepared")}
    place.write_text(yaml.safe_dump(raw), "utf-8")
    study = Study(
        place, load_world("tiny"), (1,), ("full",), days, tmp_path / "work", own_data=True,
        eval_every=8,
    )  # fmt: skip
    with pytest.raises(ConfigError, match=sentence):
        run_study(study, 1, Silent())
    assert not list((tmp_path / "work").rglob("manifest.json"))
    if left != "ads":
        with pytest.raises(ConfigError, match=r"fewer days \(--days\)"):  # as its command calls it
            replace(study, hold_out_every=5).dates(1)


@pytest.mark.parametrize("row", ["full@", "full@0", "full@07", "full@1e3", "full@²", "full@99999"])
def test_a_row_whose_days_are_no_whole_number_is_refused(row: str):
    with pytest.raises(ConfigError, match="expected NAME or NAME@DAYS"):
        split_row(row)


def test_a_world_with_too_few_days_is_refused_before_it_is_made(tmp_path: Path):
    study = Study(TINY, load_world("tiny"), (1,), ("full",), 400, tmp_path / "work")
    days = study.world.settings.days - 1
    with pytest.raises(ConfigError, match=rf"400 evaluation days were .* 'tiny' has {days} that"):
        check_worlds(study)
    assert not study.work.exists()
    check_worlds(replace(study, eval_days=days))
