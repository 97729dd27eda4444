"""Is a challenger no worse than the champion by more than a margin?

A test that shows it, or does not.

Non-inferiority turns the burden of proof around: not "surely worse" refuses, but "not shown to be
good enough". A challenger that is truly worse by the margin passes in LEVEL of the cases where the
difference is spread over many users (tests/evaluation/test_noninferiority.py measures it, also
where it is not). Users are drawn with all their days, since days of one user are not independent
(cluster bootstrap, Field and Welsh 2007). The bounds are those of the studentised bootstrap (Hall
1988; the ratio's standard error by linearisation): where few users carry the harm, the symmetric
interval lets twice as many through. No test holds its level for every distribution (Bahadur and
Savage 1956): harm to so few users that none of them is in the sample is not seen, which `unseen`
puts a number to.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecdctr.evaluation.bootstrap import drawn_sums

LEVEL = 0.05  # how often, at most, a challenger passes that is worse by the margin
NOTHING = 1e-12  # of a difference, or of its standard error
Array = NDArray[np.float64]


class Paired(NamedTuple):
    """What two versions did on the same impressions, summed over days: one entry per user [users].

    `auc_difference` is the sum over days of impressions times (challenger's AUC - champion's),
    `auc_weight` that of impressions, both over the days on which the user has a click and a
    non-click. Losses are in nats.
    """

    auc_difference: Array
    auc_weight: Array
    challenger_loss: Array
    champion_loss: Array

    @property
    def judges(self) -> int:
        """Users with a click and a non-click on some day: those that GAUC knows."""
        return int(np.count_nonzero(self.auc_weight))


class Bound(NamedTuple):
    """How far the challenger lies above (below 0: under) the champion, and what is allowed.

    The interval is the 90 % one.
    """

    value: float
    low: float
    high: float
    margin: float

    @property
    def holds(self) -> bool:
        """Whether the lower bound lies above the margin; never for what is not a number."""
        return self.low > -self.margin


class Result(NamedTuple):
    """Both metrics and the test's own quality.

    Larger is better in both: LogLoss as the share by which it falls.
    """

    gauc: Bound
    log_loss: Bound
    users: int
    power: float  # how surely an equal challenger passes with this traffic
    needed: float  # by how many times more traffic the asked-for power is reached
    # Of a group with a smaller share of the users, perhaps (5 %) nobody is in the sample
    unseen: float

    @property
    def holds(self) -> bool:
        """Whether the challenger is shown to be good enough in both."""
        return self.gauc.holds and self.log_loss.holds


def noninferiority(
    paired: Paired,
    gauc_margin: float,
    log_loss_margin: float,
    power: float,
    samples: int = 500,
    seed: int = 1,
) -> Result:
    """Test both metrics; `power` in (LEVEL, 1) is what `needed` aims at.

    Power is that of each metric's test for equal models by the normal approximation, and of both
    together at least 1 minus the sum of what each misses (Bonferroni).
    """
    ratios = [
        Ratio(paired.auc_difference, paired.auc_weight),
        Ratio(paired.champion_loss - paired.challenger_loss, paired.champion_loss),
    ]
    columns = np.concatenate([ratio.columns for ratio in ratios], 1)
    drawn = drawn_sums(columns, samples, np.random.default_rng(seed))
    gauc = _bound(ratios[0], drawn[:, :5], gauc_margin)
    loss = _bound(ratios[1], drawn[:, 5:], log_loss_margin)
    errors = [(bound.value - bound.low, bound.margin) for bound in (gauc, loss)]
    users = int(np.count_nonzero(paired.champion_loss))
    unseen = 1 - LEVEL ** (1 / users) if users else 1.0
    return Result(gauc, loss, paired.judges, _power(errors, 1.0), _needed(errors, power), unseen)


class Ratio(NamedTuple):
    """A metric's difference as a ratio of sums over users.

    Sum of `gains` to sum of `weights` [users].
    """

    gains: Array
    weights: Array

    @property
    def columns(self) -> Array:
        """What a draw's ratio and its standard error are made of, [users, 5]."""
        g, w = self.gains, self.weights
        return np.stack([g, w, g * g, g * w, w * w], 1)


def _estimates(sums: Array) -> tuple[Array, Array]:
    """Return ratios and their errors [...], from sums over users of Ratio.columns [..., 5]."""
    gains, weights, squares, products, weights_squared = np.moveaxis(sums, -1, 0)
    weights = np.maximum(weights, 1e-12)
    value = gains / weights
    residual = squares - 2 * value * products + value**2 * weights_squared
    return value, np.sqrt(np.maximum(residual, 0.0)) / weights


def _bound(ratio: Ratio, drawn: Array, margin: float) -> Bound:
    if _effective(ratio.weights) < 2:
        return Bound(math.nan, math.nan, math.nan, margin)
    value, error = map(float, _estimates(ratio.columns.sum(0)))
    if error < NOTHING:
        return Bound(value, value, value, margin)
    values, errors = _estimates(drawn)
    off = values - value
    apart = np.where(np.abs(off) < NOTHING, 0.0, np.copysign(np.inf, off))  # nobody differs there
    measurable = errors >= NOTHING
    students = np.divide(off, errors, out=apart, where=measurable)
    above = float(np.quantile(students, 1 - LEVEL, method="higher"))
    below = float(np.quantile(students, LEVEL, method="lower"))
    return Bound(value, value - above * error, value - below * error, margin)


def _effective(weight: Array) -> float:
    """Return how many users of equal weight say as much (Kish 1965)."""
    squares = float((weight**2).sum())
    return float(weight.sum()) ** 2 / squares if squares else 0.0


def _power(errors: list[tuple[float, float]], traffic: float) -> float:
    """Return how surely an equal challenger passes with so many times the traffic.

    Halves of intervals and margins given.
    """
    z, missed = NormalDist().inv_cdf(1 - LEVEL), 0.0
    for half, margin in errors:
        if not math.isfinite(half):
            return 0.0
        if half > 0:
            missed += NormalDist().cdf(z - z * margin / half * math.sqrt(traffic))
    return max(0.0, 1 - missed)


def _needed(errors: list[tuple[float, float]], power: float) -> float:
    """Return the multiple of the traffic with which the power is reached, found by halving.

    Infinite beyond a million.
    """
    low, high = 0.0, 1e6
    if _power(errors, high) < power:
        return math.inf
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _power(errors, middle) >= power else (middle, high)
    return high
