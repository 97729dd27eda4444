"""Is one row of a study better than another? A paired bootstrap over users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ecdctr.evaluation.bootstrap import drawn_sums

TWO_SIDED_95 = 1.96  # standard errors
DETECTABLE = TWO_SIDED_95 + 0.84  # the same, to be found at 5 % with a power of 80 %
SAMPLES = 4000


class Comparison(NamedTuple):
    """Difference in GAUC with its 95 % interval, and the two-sided p-value of no difference."""

    difference: float
    low: float
    high: float
    p: float

    def __str__(self) -> str:
        smallest = 2 / (SAMPLES + 1)
        p = f"p < {smallest:.4f}" if self.p <= smallest else f"p = {self.p:.4f}"
        return f"{self.interval}, {p}"

    @property
    def interval(self) -> str:
        """Return the difference with its interval."""
        return f"{self.difference:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"

    @property
    def detectable(self) -> float:
        """The smallest true difference that shows at 5 % in four of five repetitions."""
        return DETECTABLE * (self.high - self.low) / (2 * TWO_SIDED_95)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values of a table's rows, adjusted so that 5 % bounds the chance of any false one.

    Step down from the smallest (Holm 1979, "A Simple Sequentially Rejective Multiple Test
    Procedure").
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def compare(
    users: list[dict[str, Any]], first: str, second: str, seed: int = 1, same_users: bool = False
) -> Comparison:
    """Return GAUC(first) - GAUC(second), the mean over a study's seeds, by a bootstrap over users.

    `users` has one record per seed, row, day and user with its AUC and impressions. A user is drawn
    with all of its days, since they are not independent; with `same_users` with all seeds, too,
    where these are seeds of the weights and not of worlds. The interval says what other users of
    these worlds would show, not what other worlds would: for that, look at the seeds one by one.
    """
    scores: dict[str, dict[tuple[Any, ...], tuple[float, int]]] = {first: {}, second: {}}
    for record in users:
        if record["row"] in scores:
            key = (record["seed"], record["date"], record["user"])
            scores[record["row"]][key] = (record["auc"], record["impressions"])
    per_seed: dict[int, dict[Any, tuple[float, int]]] = {}
    for key, (auc, impressions) in sorted(scores[first].items()):
        if key in scores[second]:
            of_users = per_seed.setdefault(0 if same_users else key[0], {})
            total, weight = of_users.get(key[2], (0.0, 0))
            gain = impressions * (auc - scores[second][key][0])
            of_users[key[2]] = (total + gain, weight + impressions)
    rng = np.random.default_rng(seed)
    values, differences = np.zeros(SAMPLES), []
    for of_users in per_seed.values():
        sums = np.array(list(of_users.values()), dtype=np.float64)  # gain and weight of each user
        gains, weights = drawn_sums(sums, SAMPLES, rng).T
        values += gains / np.maximum(weights, 1e-12) / len(per_seed)
        gain, weight = sums.sum(0)
        differences.append(gain / weight)
    low, high = np.quantile(values, [0.025, 0.975])
    tail = (min((values <= 0).sum(), (values >= 0).sum()) + 1) / (SAMPLES + 1)
    return Comparison(float(np.mean(differences)), float(low), float(high), min(1.0, 2 * tail))
