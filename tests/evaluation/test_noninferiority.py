"""The test behind the gate: what it lets through, by simulation, and against formulas that it was not made from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ecdctr.evaluation.noninferiority import LEVEL, Paired, Result, noninferiority

MARGIN = 0.01


def traffic(
    rng: np.random.Generator, users: int, days: int = 1, drop: float = 0.0, rise: float = 0.0
) -> Paired:
    """Users of very different activity whose AUC and loss differ between two versions, some for good.

    `drop` is how much worse the challenger truly is in GAUC, `rise` in LogLoss as a share.
    """
    activity = rng.lognormal(1.5, 1.0, users)
    habit = rng.normal(0, 0.05, users)  # what a version does to a user on every day
    parts = np.zeros((4, users))
    for _ in range(days):
        seen = rng.poisson(activity)
        judged = seen >= 3
        auc = rng.normal(habit - drop, 0.25 / np.sqrt(np.maximum(seen, 1)))
        loss = 0.3 * seen * np.exp(rng.normal(0, 0.3, users))
        ours = loss * (1 + rise) + 0.05 * np.sqrt(seen) * rng.normal(0, 1, users)
        parts += [np.where(judged, seen * auc, 0), np.where(judged, seen, 0), ours, loss]
    return Paired(*parts)


def judge(paired: Paired, samples: int = 200) -> Result:
    return noninferiority(paired, MARGIN, MARGIN, 0.8, samples)


@pytest.mark.parametrize(("users", "days"), [(100, 1), (150, 5), (1500, 1)])
@pytest.mark.parametrize("worse", ["drop", "rise"])
def test_a_challenger_that_is_worse_by_the_margin_passes_in_one_of_twenty_cases_at_most(
    users, days, worse
):
    rng, runs = np.random.default_rng(17), 300
    passed = sum(judge(traffic(rng, users, days, **{worse: MARGIN})).holds for _ in range(runs))
    assert passed <= stats.binom(runs, LEVEL).ppf(0.99), f"{passed} of {runs}"


def test_power_is_how_often_an_equal_challenger_passes():
    rng, runs = np.random.default_rng(5), 300
    results = [judge(traffic(rng, 1200)) for _ in range(runs)]
    told = np.mean([result.power for result in results])
    assert 0.2 < told < 0.95, "a traffic at which it matters"
    assert np.mean([result.holds for result in results]) == pytest.approx(told, abs=0.08)


def test_so_many_times_the_traffic_has_the_power_that_is_asked_for():
    rng = np.random.default_rng(6)
    needed = float(np.median([judge(traffic(rng, 800)).needed for _ in range(30)]))
    assert needed > 1.2
    larger = [judge(traffic(rng, round(800 * needed))).power for _ in range(30)]
    assert np.median(larger) == pytest.approx(0.8, abs=0.06)


def test_bounds_equal_a_t_interval_where_all_users_weigh_the_same():
    rng = np.random.default_rng(7)
    for users in (30, 400):
        difference, ones = rng.normal(0.002, 0.1, users), np.ones(users)
        found = noninferiority(Paired(difference, ones, ones, ones), 1, 1, 0.8, 4000).gauc
        low, high = stats.t.interval(
            0.9, users - 1, difference.mean(), difference.std(ddof=1) / math.sqrt(users)
        )
        assert (found.low, found.high) == pytest.approx((low, high), rel=0.06)


def test_days_of_one_user_are_drawn_together():
    """Seven days of the same users with a lasting difference say little more than one."""
    rng = np.random.default_rng(8)
    habit, ones = rng.normal(0, 0.1, 300), np.ones(300)
    one = noninferiority(Paired(habit, ones, ones, ones), 1, 1, 0.8).gauc
    seven = noninferiority(Paired(7 * habit, 7 * ones, ones, ones), 1, 1, 0.8).gauc
    assert (seven.low, seven.high) == pytest.approx((one.low, one.high))


@pytest.mark.parametrize("users", [0, 1])
def test_nobody_to_judge_by_never_passes(users):
    weight = np.array([5.0] * users + [0.0] * 3)
    loss = np.ones(len(weight))
    result = noninferiority(Paired(weight * 0, weight, loss, loss), MARGIN, MARGIN, 0.8)
    assert not result.holds
    assert math.isnan(result.gauc.low)
    assert (result.users, result.power, result.needed) == (users, 0.0, math.inf)


def test_draws_in_pieces_are_as_many_as_asked_for(monkeypatch):
    monkeypatch.setattr("ecdctr.evaluation.noninferiority.DRAWN_AT_ONCE", 250)
    result = judge(traffic(np.random.default_rng(9), 100), samples=97)
    assert result.gauc.low < result.gauc.value < result.gauc.high
