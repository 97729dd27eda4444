"""Is a challenger no worse than the champion by more than a margin? A test that shows it, or does not.

Non-inferiority turns the burden of proof around: not "surely worse" refuses, but "not shown to be good enough". A
challenger that is truly worse by the margin passes in LEVEL of the cases at most (for the gate's simulations see
tests/evaluation/test_noninferiority.py). Users are drawn with all their days, since days of one user are not
independent (cluster bootstrap, Field and Welsh 2007). The bound is the estimate minus Student's quantile times the
bootstrap's standard deviation: the plain percentile passes too often when few users carry most of the weight.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05  # how often, at most, a challenger passes that is worse by the margin
DRAWN_AT_ONCE = 4_000_000  # cells of the matrix of draws: 32 MB
Array = NDArray[np.float64]


class Paired(NamedTuple):
    """What two versions did on the same impressions, summed over days: one entry per user [users].

    `auc_difference` is the sum over days of impressions times (challenger's AUC - champion's), `auc_weight` that of
    impressions, both over the days on which the user has a click and a non-click. Losses are in nats.
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
    """How far the challenger lies above (below 0: under) the champion, with its 90 % interval, and what is allowed."""

    value: float
    low: float
    high: float
    margin: float

    @property
    def holds(self) -> bool:
        """Whether the lower bound lies above the margin; never for what is not a number."""
        return self.low > -self.margin


class Result(NamedTuple):
    """Both metrics (larger is better in both: LogLoss as the share by which it falls), and the test's own quality."""

    gauc: Bound
    log_loss: Bound
    users: int
    power: float  # how surely an equal challenger passes with this traffic
    needed: float  # by how many times more traffic the asked-for power is reached

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

    Power is that of each metric's test for equal models by the normal approximation, and of both together at least
    1 minus the sum of what each misses (Bonferroni).
    """
    sums = np.stack(
        [paired.auc_difference, paired.auc_weight, paired.challenger_loss, paired.champion_loss], 1
    )
    drawn = _drawn_sums(sums, samples, seed)
    gauc = _bound(_gauc(sums.sum(0)), _gauc(drawn), paired.auc_weight, gauc_margin)
    loss = _bound(_log_loss(sums.sum(0)), _log_loss(drawn), paired.champion_loss, log_loss_margin)
    errors = [(bound.value - bound.low, bound.margin) for bound in (gauc, loss)]
    return Result(gauc, loss, paired.judges, _power(errors, 1.0), _needed(errors, power))


def _gauc(sums: Array) -> Array:
    return sums[..., 0] / np.maximum(sums[..., 1], 1e-12)


def _log_loss(sums: Array) -> Array:
    return 1 - sums[..., 2] / np.maximum(sums[..., 3], 1e-12)


def _drawn_sums(sums: Array, samples: int, seed: int) -> Array:
    """Sums over users [samples, 4] that are each drawn Poisson(1) times (the bootstrap of large samples)."""
    rng = np.random.default_rng(seed)
    step = max(DRAWN_AT_ONCE // max(len(sums), 1), 1)
    parts = [
        rng.poisson(1.0, (min(step, samples - start), len(sums))) @ sums
        for start in range(0, samples, step)
    ]
    return np.concatenate(parts)


def _bound(value: Array, drawn: Array, weight: Array, margin: float) -> Bound:
    effective = _effective(weight)
    if effective < 2:
        return Bound(math.nan, math.nan, math.nan, margin)
    half = (
        _student(effective - 1) * float(drawn.std(ddof=1)) * math.sqrt(effective / (effective - 1))
    )
    return Bound(float(value), float(value) - half, float(value) + half, margin)


def _effective(weight: Array) -> float:
    """How many users of equal weight say as much (Kish 1965)."""
    squares = float((weight**2).sum())
    return float(weight.sum()) ** 2 / squares if squares else 0.0


def _student(freedom: float) -> float:
    """The quantile 1 - LEVEL of Student's t, by the Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5)."""
    z = NormalDist().inv_cdf(1 - LEVEL)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2


def _power(errors: list[tuple[float, float]], traffic: float) -> float:
    """How surely an equal challenger passes with so many times the traffic: halves of intervals and margins given."""
    z, missed = NormalDist().inv_cdf(1 - LEVEL), 0.0
    for half, margin in errors:
        if not math.isfinite(half):
            return 0.0
        if half > 0:
            missed += NormalDist().cdf(z - z * margin / half * math.sqrt(traffic))
    return max(0.0, 1 - missed)


def _needed(errors: list[tuple[float, float]], power: float) -> float:
    """The multiple of the traffic with which the power is reached, found by halving; infinite beyond a million."""
    low, high = 0.0, 1e6
    if _power(errors, high) < power:
        return math.inf
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _power(errors, middle) >= power else (middle, high)
    return high
