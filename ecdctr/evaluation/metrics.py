"""Metrics of click-through-rate models, each one vectorised pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class UserAuc(NamedTuple):
    """AUC within each user that has both a click and a non-click."""

    users: NDArray[np.int64]
    auc: NDArray[np.float64]
    impressions: NDArray[np.int64]

    @property
    def mean(self) -> float:
        """Return GAUC: the mean weighted by impressions; NaN without users."""
        if not len(self.auc):
            return float("nan")
        return float(np.average(self.auc, weights=self.impressions))


def user_auc(
    users: NDArray[np.int64], labels: NDArray[np.floating], scores: NDArray[np.floating]
) -> UserAuc:
    """Return exact AUC per user, ties counted half: one sort, then rank sums (Mann-Whitney).

    users [n] integer codes, labels [n] in {0, 1}, scores [n] → arrays over the users that have both
    labels.
    """
    order = np.lexsort((scores, users))
    users, labels, scores = users[order], labels[order].astype(np.float64), scores[order]
    n = len(users)
    if n == 0:
        return UserAuc(users, np.empty(0), np.empty(0, np.int64))
    new_user = np.concatenate([[True], users[1:] != users[:-1]])
    new_value = new_user | np.concatenate([[True], scores[1:] != scores[:-1]])
    # Positions 1..n; equal scores of one user share the mean position, so a tie counts one half.
    starts = np.flatnonzero(new_value)
    ends = np.append(starts[1:], n)
    rank = np.repeat((starts + 1 + ends) / 2.0, ends - starts)
    user_starts = np.flatnonzero(new_user)
    impressions = np.diff(np.append(user_starts, n))
    rank -= np.repeat(user_starts, impressions)
    positives = np.add.reduceat(labels, user_starts)
    negatives = impressions - positives
    rank_sum = np.add.reduceat(rank * labels, user_starts)
    both = (positives > 0) & (negatives > 0)
    auc = (rank_sum[both] - positives[both] * (positives[both] + 1) / 2) / (
        positives[both] * negatives[both]
    )
    return UserAuc(users[user_starts][both], auc, impressions[both])


def gauc(
    users: NDArray[np.int64], labels: NDArray[np.floating], scores: NDArray[np.floating]
) -> float:
    """Return AUC within users, weighted by their impressions; NaN if none. Arrays are [n].

    Zhu et al. 2017, "Optimized Cost per Click".
    """
    return user_auc(users, labels, scores).mean


def auc(labels: NDArray[np.floating], scores: NDArray[np.floating]) -> float:
    """Return area under the ROC curve over all impressions [n], ties counted half.

    NaN with one label only.
    """
    result = user_auc(np.zeros(len(labels), np.int64), labels, scores)
    return float(result.auc[0]) if len(result.auc) else float("nan")


def log_loss(labels: NDArray[np.floating], scores: NDArray[np.floating]) -> float:
    """Return mean negative log likelihood of [n] in nats; probabilities are clipped at 1e-7."""
    return float(np.mean(losses(labels, scores)))


def losses(labels: NDArray[np.floating], scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return negative log likelihood of each impression in nats [n].

    Probabilities are clipped at 1e-7.
    """
    p = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)
    result: NDArray[np.float64] = -(labels * np.log(p) + (1 - labels) * np.log(1 - p))
    return result


def all_metrics(
    users: NDArray[np.int64], labels: NDArray[np.floating], scores: NDArray[np.floating]
) -> dict[str, float]:
    """Return GAUC, AUC, LogLoss, normalized entropy, calibration and sizes. Arrays are [n].

    Entropy as He et al. 2014, calibration as predicted over observed CTR.

    `gauc_users` is the number of users behind GAUC, those with a click and a non-click: a GAUC of
    two users says nothing. A figure that the data cannot give (no clicks, say) is left out.
    """
    if len(labels) == 0:
        return {"impressions": 0.0, "gauc_users": 0.0}
    ctr = float(labels.mean())
    per_user = user_auc(users, labels, scores)
    metrics = {
        "impressions": float(len(labels)),
        "ctr": ctr,
        "gauc": per_user.mean,
        "gauc_users": float(len(per_user.auc)),
        "auc": auc(labels, scores),
        "log_loss": log_loss(labels, scores),
    }
    if 0 < ctr < 1:
        entropy = -(ctr * np.log(ctr) + (1 - ctr) * np.log(1 - ctr))
        metrics["normalized_entropy"] = metrics["log_loss"] / float(entropy)
        metrics["calibration"] = float(scores.mean()) / ctr
    return {name: value for name, value in metrics.items() if np.isfinite(value)}
