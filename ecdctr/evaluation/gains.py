"""What one model has ahead of another by expected GAUC, and how sure that is over users."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ecdctr.evaluation.compare import DETECTABLE, TWO_SIDED_95


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
