"""A study on a world with visits is judged by true probabilities too, and says what it can show."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pytest
import scipy  # its parts are loaded by whoever asks for them

from ecdctr.config import Visits
from ecdctr.evaluation.basis import basis_now
from ecdctr.evaluation.evaluate import score
from ecdctr.evaluation.gains import over_worlds
from ecdctr.evaluation.stored import load
from ecdctr.examples.held_out import prepare_held_out
from ecdctr.levels.request import Silent
from ecdctr.report.rows import NAMES
from ecdctr.studies.ablation.page import Origin, results_page
from ecdctr.studies.ablation.plan import Study
from ecdctr.studies.ablation.power import ahead, power_section, smallest
from ecdctr.studies.ablation.records import per_seed
from ecdctr.studies.ablation.study import run_study
from ecdctr.worlds.named import NamedWorld
from tests.conftest import REPOSITORY

TINY = REPOSITORY / "configs" / "tiny.yaml"
ROWS = ("ads_only", "full")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    sim = Visits(kind="visits", users=400, days=24, natural_items=200, ad_items=60,
                 visits_per_month=20.0, held_out_days=2)  # fmt: skip
    work: Path = tmp_path_factory.mktemp("study")
    return Study(TINY, NamedWorld("small", sim), (1,), ROWS, 2, work, chain_days=2)


@pytest.fixture(scope="module")
def results(study: Study):
    return run_study(study, 1, Silent())


def test_every_row_and_the_oracle_are_judged_by_true_probabilities(results):
    records, users = results
    expected = {r["row"]: r["expected_gauc"] for r in records if r.get("expected_gauc") is not None}
    assert set(expected) == {"item_rate", "counts", "gbm", "ads_only", "full", "oracle"}
    assert all(0.4 < expected[row] < expected["oracle"] for row in expected if row != "oracle")
    assert {u["row"] for u in users if u["measure"] == "expected"} == set(expected) - {"oracle"}


def test_an_evaluation_keeps_what_all_pairs_of_held_out_ads_say(study, results):
    store, date = study.store(1), study.dates(1)[-1]
    config, day = study.config(1, "full"), date + dt.timedelta(days=1)
    ref = store.newest(study.request(1, "full", "actr", date).experiment, "actr", date)
    kept = load(store, ref, day)
    assert kept.basis == basis_now(config, ref, day)
    assert kept.basis.held_out is not None
    scored = score(config, store, ref, "ads", day, prepare_held_out(config, day))
    ahead_of, pairs, weights = 0.0, 0.0, 0
    for user in range(len(scored.ids)):
        mine = scored.users == user
        chance, scores = scored.oracle[mine].astype(float), scored.scores[mine]
        clicked = np.outer(chance, 1 - chance) * (1 - np.eye(len(chance)))
        wins = (scores[:, None] > scores) + (scores[:, None] == scores) / 2
        ahead_of += len(chance) * (clicked * wins).sum() / clicked.sum()
        weights += len(chance)
        pairs += clicked.sum()
    assert pairs > 0
    assert kept.content["metrics"]["all"]["expected_gauc"] == pytest.approx(ahead_of / weights)
    assert kept.expected.num_rows == len(scored.ids)


def test_held_out_ads_show_smaller_differences_than_drawn_clicks(results):
    records, users = results
    one = ahead(users, "full", "ads_only")
    drawn = [{**u, "measure": "expected"} for u in users if u["measure"] == "drawn"]
    assert 0 < one.detectable < ahead(drawn, "full", "ads_only").detectable
    assert smallest([ahead(users, "full", "ads_only")]) == pytest.approx(one.detectable)
    page = results_page(records, users, Origin("small"))
    assert "The smallest difference to full" in page
    assert f"| {NAMES['ads_only']} |" in page.split("## Held-out ads")[1]


def test_over_worlds_is_students_t_with_a_world_as_the_unit():
    each = np.array([0.004, 0.007, -0.001, 0.006, np.nan, 0.003])
    one, reference = over_worlds(each), scipy.stats.ttest_1samp(each[np.isfinite(each)], 0.0)
    interval = reference.confidence_interval(0.95)
    assert one is not None
    assert (one.difference, one.p) == pytest.approx(
        (each[np.isfinite(each)].mean(), reference.pvalue)
    )
    assert (one.low, one.high) == pytest.approx((interval.low, interval.high))
    assert over_worlds(each[:2]) is None


def test_with_three_worlds_a_page_says_what_other_worlds_would_show(results):
    records, users = results
    gain = {1: 0.0, 2: 0.01, 3: -0.004}
    worlds = [
        {**r, "seed": seed, "expected_gauc": r["expected_gauc"] + more * (r["row"] == "full")}
        for seed, more in gain.items()
        for r in records
        if r.get("expected_gauc") is not None
    ]
    of_users = [{**u, "seed": seed} for seed in gain for u in users]
    section = "\n".join(power_section(worlds, of_users, NAMES))
    full, ads_only = (per_seed(worlds, row, "expected_gauc") for row in ROWS[::-1])
    line = next(x for x in section.splitlines() if x.startswith(f"| {NAMES['ads_only']} |"))
    assert over_worlds(full - ads_only).interval in line
    assert len({x.count("|") for x in section.splitlines() if x.startswith("|")}) == 1
    assert "other worlds" not in "\n".join(power_section(records, users, NAMES))
