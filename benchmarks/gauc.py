"""GAUC of 10 M impressions of 1 M users.

One sort, against scikit-learn per user and FuxiCTR's way (pandas groupby). FuxiCTR's gAUC
(fuxictr/metrics.py, 2.3) groups a data frame by user and calls scikit-learn for each group, in a
pool of processes; here the same in one process and in a pool of all cores, whichever is faster
counts. Both get the users that have both labels only, and scikit-learn's time is measured on a
tenth of them and multiplied.
"""

from __future__ import annotations

import multiprocessing
import time

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from benchmarks.common import Row, Timing, alternate, report
from ecdctr.evaluation.metrics import gauc, user_auc

IMPRESSIONS, USERS, SHARE, REPEATS = 10_000_000, 1_000_000, 10, 5
Arrays = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]


def draw(impressions: int = IMPRESSIONS, users: int = USERS, seed: int = 1) -> Arrays:
    """Users by a long tail, scores that know a little, rounded so that ties occur."""
    rng = np.random.default_rng(seed)
    who = np.minimum((rng.pareto(1.5, impressions) * users / 8).astype(np.int64), users - 1)
    scores = rng.random(impressions, dtype=np.float32).round(4)
    labels = (rng.random(impressions, dtype=np.float32) < 0.3 * scores).astype(np.float32)
    return who, labels, scores


def of_group(group: pd.DataFrame) -> tuple[float, int]:
    """Return AUC and size of one user."""
    return roc_auc_score(group["label"], group["score"]), len(group)


def by_groupby(frame: pd.DataFrame, processes: int) -> float:
    """Return GAUC as FuxiCTR computes it."""
    groups = (group for _, group in frame.groupby("user"))
    if processes == 1:
        groups_auc = [of_group(group) for group in groups]
    else:
        with multiprocessing.Pool(processes) as pool:
            groups_auc = pool.map(of_group, list(groups))
    auc, weight = np.array(groups_auc).T
    return float(np.average(auc, weights=weight))


def by_sklearn(
    users: NDArray[np.int64], labels: NDArray[np.float32], scores: NDArray[np.float32]
) -> float:
    """Return one call of scikit-learn for each user of arrays that are sorted by user."""
    starts = np.flatnonzero(np.concatenate([[True], users[1:] != users[:-1]]))
    ends = np.append(starts[1:], len(users))
    auc = [roc_auc_score(labels[a:b], scores[a:b]) for a, b in zip(starts, ends, strict=True)]
    return float(np.average(auc, weights=ends - starts))


def main() -> None:
    """Measure, check that all agree, print."""
    users, labels, scores = draw()
    ours = alternate({"ours": lambda: gauc(users, labels, scores)}, REPEATS)["ours"]

    judged = user_auc(users, labels, scores).users  # those with both labels
    part = np.isin(users, judged[::SHARE])
    order = np.argsort(users[part], kind="stable")
    few = [column[part][order] for column in (users, labels, scores)]
    frame = pd.DataFrame(dict(zip(("user", "label", "score"), few, strict=True)))
    exact = gauc(*few)
    peers = {
        "scikit-learn per user": lambda: by_sklearn(*few),
        "FuxiCTR's groupby": lambda: by_groupby(frame, 1),
        "FuxiCTR's groupby, 2 processes": lambda: by_groupby(frame, 2),
    }
    rows = []
    for name, function in peers.items():
        began = time.perf_counter()
        result = function()
        seconds = (time.perf_counter() - began) * SHARE
        if abs(result - exact) > 1e-12:
            raise SystemExit(
                f"{name} gives {result!r}, we give {exact!r}: the comparison is not fair"
            )
        rows.append(
            Row(
                "GAUC, 10 M impressions",
                name,
                str(ours),
                str(Timing([seconds])),
                seconds / ours.median,
                50,
            )
        )
    report("gauc", rows)


if __name__ == "__main__":
    main()
