"""Metrics against true probabilities.

What drawn clicks would give on average, so that only users and items are noise. Each impression
counts as a click with its true probability p and as none with 1 - p. The expected GAUC is the
chance that of two different impressions of a user, one clicked and one not, the clicked one has the
higher score.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ecdctr.evaluation.metrics import UserAuc, losses

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    judged: UserAuc, chances: NDArray[np.floating[Any]], scores: NDArray[np.floating[Any]]
) -> dict[str, float]:
    """Return expected GAUC and LogLoss (nats), and the sizes behind them.

    `judged` is the expected AUC per user of these `chances` and `scores` [n].
    """
    metrics = {
        "expected_impressions": float(len(scores)),
        "expected_gauc_users": float(len(judged.users)),
        "expected_gauc": judged.mean,
    }
    if len(scores) and scores.min() >= 0 and scores.max() <= 1:
        metrics["expected_log_loss"] = float(np.mean(losses(chances, scores)))
    return metrics
