"""The test behind the gate.

What it lets through, by simulation, and against formulas that it was not made from.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import scipy  # its parts are loaded by whoever asks for them

from ecdctr.evaluation.noninferiority import LEVEL, Paired, Result, noninferiority

MARGIN = 0.01


def traffic(
    rng: np.random.Generator, users: int, days: int = 1, drop: float = 0.0, rise: float = 0.0
) -> Paired:
    """Users of very different activity whose AUC and loss differ between two versions.

    Some for good. `drop` is how much worse the challenger truly is in GAUC, `rise` in LogLoss as a
    share.
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


@cache
def draws(samples: int, users: int) -> np.ndarray:
    """Return how often the test's own seed draws each user, [samples, users]."""
    return np.random.default_rng(1).poisson(1.0, (samples, users)).astype(np.float64)


@pytest.fixture
def drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the draws, which are the same for so many users; making them takes nearly all time."""

    def sums(of_users: np.ndarray, samples: int, _: np.random.Generator) -> np.ndarray:
        return draws(samples, len(of_users)) @ of_users

    monkeypatch.setattr("ecdctr.evaluation.noninferiority.drawn_sums", sums)


def test_draws_that_are_kept_are_those_of_the_test_itself(request: Any):
    pairs = [traffic(np.random.default_rng(seed), users) for seed in (1, 2) for users in (100, 150)]
    fresh = [judge(paired) for paired in pairs]
    request.getfixturevalue("drawn_once")
    assert [judge(paired) for paired in pairs] == fresh


@pytest.mark.usefixtures("drawn_once")
@pytest.mark.parametrize(("users", "days"), [(100, 1), (150, 5), (1500, 1)])
@pytest.mark.parametrize("worse", ["drop", "rise"])
def test_a_challenger_that_is_worse_by_the_margin_passes_in_one_of_twenty_cases_at_most(
    users, days, worse
):
    rng, runs = np.random.default_rng(17), 300
    passed = sum(judge(traffic(rng, users, days, **{worse: MARGIN})).holds for _ in range(runs))
    assert passed <= scipy.stats.binom(runs, LEVEL).ppf(0.99), f"{passed} of {runs}"


def worse_by_the_margin(harm: str, rng: np.random.Generator, users: int) -> Paired:
    """Return a LogLoss that is worse by the margin, which falls on users as `harm` says.

    And a GAUC that is equal.
    """
    seen = 1 + rng.poisson(rng.lognormal(1.5, 1.0, users))
    loss = 0.3 * seen * np.exp(rng.normal(0, 0.3, users))
    share = {
        "even": lambda: 1 + 10 * rng.uniform(-1, 1, users),
        "normal": lambda: 1 + 10 * rng.normal(0, 1, users),
        "lognormal": lambda: rng.lognormal(-(1.5**2) / 2, 1.5, users),
        "pareto": lambda: 1.1 * rng.pareto(2.1, users),
        "1 in 50": lambda: 50.0 * (rng.random(users) < 1 / 50),
        "1 in 200": lambda: 200.0 * (rng.random(users) < 1 / 200),
    }[harm]()
    return Paired(0.0 * loss, loss, loss * (1 + MARGIN * share), loss)


@pytest.mark.usefixtures("drawn_once")
@pytest.mark.parametrize(
    ("harm", "users", "passes"),  # as docs/operations.md says
    [
        ("even", 150, LEVEL),
        ("normal", 150, LEVEL),
        ("even", 1000, LEVEL),
        ("normal", 1000, LEVEL),
        ("lognormal", 150, 0.17),
        ("lognormal", 1000, 0.11),
        ("pareto", 150, 0.17),
        ("pareto", 1000, 0.11),
        ("1 in 50", 150, 0.07),
        ("1 in 50", 1000, LEVEL),
        ("1 in 200", 150, 0.49),
        ("1 in 200", 1000, LEVEL),
    ],
)
def test_how_often_harm_of_the_margin_passes_by_how_many_users_it_falls_on(harm, users, passes):
    rng, runs = np.random.default_rng(23), 300
    passed = sum(judge(worse_by_the_margin(harm, rng, users)).holds for _ in range(runs))
    assert passed <= scipy.stats.binom(runs, passes).ppf(0.99), f"{passed} of {runs}"


@pytest.mark.parametrize("users", [100, 1000])
def test_a_group_that_may_be_missing_from_the_sample_is_as_large_as_told(users):
    """With the share of `unseen`.

    Nobody of the group is among the users in one of twenty samples.
    """
    unseen = judge(worse_by_the_margin("even", np.random.default_rng(1), users), 50).unseen
    assert scipy.stats.binom(users, unseen).pmf(0) == pytest.approx(LEVEL, rel=0.2)
    assert unseen == pytest.approx(3 / users, rel=0.1), "the rule of three"


def test_versions_that_are_equal_to_the_last_digit_pass():
    """No difference at all, and one that is the same share of every user's loss.

    As rounding leaves it.
    """
    loss = np.random.default_rng(2).uniform(1, 9, 200)
    equal = noninferiority(Paired(loss * 0, loss, loss, loss), MARGIN, MARGIN, 0.8)
    assert (equal.gauc.low, equal.log_loss.low, equal.power) == (0.0, 0.0, 1.0)
    shifted = noninferiority(Paired(loss * 0.1, loss, loss * 1.001, loss), MARGIN, MARGIN, 0.8)
    assert shifted.holds
    assert shifted.gauc.low == pytest.approx(0.1)
    assert shifted.log_loss.low == pytest.approx(-0.001)


@pytest.mark.usefixtures("drawn_once")
def test_power_is_how_often_an_equal_challenger_passes():
    rng, runs = np.random.default_rng(5), 300
    results = [judge(traffic(rng, 1200)) for _ in range(runs)]
    told = np.mean([result.power for result in results])
    assert 0.2 < told < 0.95, "a traffic at which it matters"
    assert np.mean([result.holds for result in results]) == pytest.approx(told, abs=0.08)


@pytest.mark.usefixtures("drawn_once")
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
        bound = noninferiority(Paired(difference, ones, ones, ones), 1, 1, 0.8, 4000).gauc
        low, high = scipy.stats.t.interval(
            0.9, users - 1, difference.mean(), difference.std(ddof=1) / math.sqrt(users)
        )
        assert (bound.low, bound.high) == pytest.approx((low, high), abs=0.04 * (high - low))


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
    monkeypatch.setattr("ecdctr.evaluation.bootstrap.DRAWN_AT_ONCE", 250)
    result = judge(traffic(np.random.default_rng(9), 100), samples=97)
    assert result.gauc.low < result.gauc.value < result.gauc.high
