"""Metrics against true probabilities.

What drawn clicks would give on average, so that only users and items are noise. Each impression
counts as a click with its true probability p and as none with 1 - p. The expected GAUC is the
chance that of two different impressions of a user, one clicked and one not, the clicked one has the
higher score.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from ecdctr.evaluation.compare import DETECTABLE, TWO_SIDED_95
from ecdctr.evaluation.metrics import UserAuc, losses

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ecdctr.evaluation.evaluate import Scored


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


def expected_user_auc(
    users: NDArray[np.int64], chances: NDArray[np.floating[Any]], scores: NDArray[np.floating[Any]]
) -> UserAuc:
    """Return the expected AUC per user, ties counted half.

    `users`, `chances` (true probabilities) and `scores` are [n].

    One sort and sums. Users with one impression are left out.
    """
    order = np.lexsort((scores, users))
    users, scores = users[order], scores[order]
    click = chances[order].astype(np.float64)
    if len(users) == 0:
        return UserAuc(users, np.empty(0), np.empty(0, np.int64))
    new_user = np.concatenate([[True], users[1:] != users[:-1]])
    ties = np.flatnonzero(new_user | np.concatenate([[True], scores[1:] != scores[:-1]]))
    starts = np.flatnonzero(new_user)
    impressions = np.diff(np.append(starts, len(users)))
    clicks, others = (np.add.reduceat(weight, ties) for weight in (click, 1 - click))
    owner = np.searchsorted(starts, ties, side="right") - 1
    below = np.cumsum(others) - others
    below -= below[np.searchsorted(ties, starts)][owner]
    ahead = np.bincount(owner, clicks * (below + others / 2), len(starts))
    itself = np.add.reduceat(click * (1 - click), starts)  # no pair of two impressions
    all_clicks, all_others = (np.add.reduceat(weight, starts) for weight in (click, 1 - click))
    pairs = all_clicks * all_others - itself
    both = (impressions > 1) & (pairs > 1e-12)
    auc = (ahead - itself / 2)[both] / pairs[both]
    return UserAuc(users[starts][both], auc, impressions[both])


def expected_metrics(
    users: NDArray[np.int64], chances: NDArray[np.floating[Any]], scores: NDArray[np.floating[Any]]
) -> dict[str, float]:
    """Return expected GAUC and LogLoss (nats), and the sizes behind them; all arrays are [n]."""
    judged = expected_user_auc(users, chances, scores)
    metrics = {
        "expected_impressions": float(len(users)),
        "expected_gauc_users": float(len(judged.users)),
        "expected_gauc": judged.mean,
    }
    if len(scores) and scores.min() >= 0 and scores.max() <= 1:
        metrics["expected_log_loss"] = float(np.mean(losses(chances, scores)))
    return metrics


def expected_users(scored: Scored) -> pa.Table:
    """Return the users behind the expected GAUC: user (raw id), impressions, auc."""
    judged = expected_user_auc(scored.users, scored.oracle, scored.scores)
    ids = scored.ids.take(pa.array(judged.users))
    return pa.table({"user": ids, "impressions": judged.impressions, "auc": judged.auc})


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
