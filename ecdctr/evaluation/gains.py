"""What one model has ahead of another by expected GAUC, and how sure that is.

Over users of the same days, or over worlds.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ecdctr.evaluation.compare import DETECTABLE, TWO_SIDED_95, holm

if TYPE_CHECKING:
    from numpy.typing import NDArray

SURE, POWER = 0.975, 0.8  # quantiles of t: of a 95 % interval, of four repetitions in five
WORLDS = 3  # fewer say nothing of worlds


class Gains(NamedTuple):
    """What one model has ahead of another.

    The difference, its standard error, the smallest one that shows.
    """

    difference: float
    error: float

    @property
    def margin(self) -> float:
        """Half of the 95 % interval around the difference."""
        return TWO_SIDED_95 * self.error

    @property
    def sure(self) -> bool:
        """Whether 0 lies outside of the 95 % interval."""
        return abs(self.difference) > self.margin

    @property
    def detectable(self) -> float:
        """The smallest true difference that shows at 5 % in four of five repetitions."""
        return DETECTABLE * self.error


def gains(first: dict[Any, tuple[float, int]], second: dict[Any, tuple[float, int]]) -> Gains:
    """Return GAUC of the first minus the second, with an error over users.

    Each is user: (sum of AUC x impressions, impressions). A user stands for all of its days: they
    are not independent. The error is that of a ratio of sums (linearised).
    """
    common = sorted(set(first) & set(second))
    if len(common) < 2:
        return Gains(math.nan, math.nan)
    ahead = np.array([first[user][0] - second[user][0] for user in common])
    weight = np.array([first[user][1] for user in common], dtype=np.float64)
    difference = ahead.sum() / weight.sum()
    residual = ahead - difference * weight
    return Gains(float(difference), float(np.sqrt((residual**2).sum()) / weight.sum()))


class OverWorlds(NamedTuple):
    """The mean of one difference per world, as sure as other worlds would repeat it."""

    difference: float
    low: float
    high: float
    p: float
    detectable: float  # the smallest true difference that shows in four of five repetitions

    @property
    def interval(self) -> str:
        """Return the difference with its 95 % interval."""
        return f"{self.difference:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def over_worlds(each: NDArray[np.float64]) -> OverWorlds | None:
    """Compare by Student's t over worlds [worlds]; None of fewer than three.

    A world, with the weights drawn for it, is the unit: its users share both.
    """
    from scipy import stats

    each = each[np.isfinite(each)]
    if len(each) < WORLDS:
        return None
    free = len(each) - 1
    error = float(each.std(ddof=1)) / math.sqrt(len(each))
    margin, power = stats.t.ppf(SURE, free) * error, stats.t.ppf(POWER, free) * error
    mean = float(each.mean())
    p = float(2 * stats.t.sf(abs(mean) / error, free)) if error else float(mean == 0)
    return OverWorlds(mean, mean - float(margin), mean + float(margin), p, float(margin + power))


def rows_over_worlds(
    each: dict[str, NDArray[np.float64]],
) -> dict[str, tuple[OverWorlds, float]]:
    """Compare the rows of a table, each by its differences [worlds].

    Returns each with its p-value by Holm; without rows of fewer than three worlds.
    """
    compared = {
        row: one for row, values in each.items() if (one := over_worlds(values)) is not None
    }
    adjusted = holm([one.p for one in compared.values()])
    return {row: (one, p) for (row, one), p in zip(compared.items(), adjusted, strict=True)}
