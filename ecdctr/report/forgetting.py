"""What a forgetting matrix says: transfer, forgetting, retention; with intervals from a bootstrap over users.

R[i, j] is the GAUC of the model after day i on held-out ads of day j, both counted from the study's first day.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SAMPLES = 500
Records = list[dict[str, Any]]
Array = NDArray[np.float64]


class Measure(NamedTuple):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def backward_transfer(r: Array) -> Array:
    """Mean over days j of R[T, j] - R[j, j] (Lopez-Paz and Ranzato 2017, arXiv 1706.08840): below 0 is forgetting."""
    last = r[..., -1, :-1]
    return (last - np.diagonal(r, axis1=-2, axis2=-1)[..., :-1]).mean(-1)


def forward_transfer(r: Array) -> Array:
    """Mean over days j of R[j - 1, j] - 0.5 (as above): what is known of a day before it came, over chance."""
    return (np.diagonal(r, offset=1, axis1=-2, axis2=-1) - 0.5).mean(-1)


def forgetting(r: Array) -> Array:
    """Mean over days j of max over j <= i < T of R[i, j], minus R[T, j] (Chaudhry et al. 2018, arXiv 1801.10112).

    A maximum over noisy cells is too high; compare variants with equal days only.
    """
    days = r.shape[-1]
    learned = np.tril(np.ones((days, days), dtype=bool))
    best = np.where(learned, r, -np.inf)[..., :-1, :-1].max(-2)
    return (best - r[..., -1, :-1]).mean(-1)


def recency_curve(r: Array) -> Array:
    """GAUC on days that lie k days back, the mean over all such cells: [..., T], k = 0 first."""
    return np.stack([np.diagonal(r, offset=-k, axis1=-2, axis2=-1).mean(-1) for k in range(r.shape[-1])], axis=-1)


def recency_area(r: Array, days: int | None = None) -> Array:
    """Mean of the recency curve over the first `days` (default: half of them, where each k has many cells)."""
    return recency_curve(r)[..., : days or max(r.shape[-1] // 2, 1)].mean(-1)


def retention(r: Array) -> Array:
    """Of what a day taught, the share that is left k days later: [..., T - 1].

    (R[j + k, j] - R[j - 1, j]) over (R[j, j] - R[j - 1, j]), numerator and denominator averaged over the same days j.
    """
    days = r.shape[-1]
    own = np.diagonal(r, axis1=-2, axis2=-1)
    before = np.diagonal(r, offset=1, axis1=-2, axis2=-1)  # R[j - 1, j] for j = 1 …
    shares = []
    for k in range(days - 1):
        later = np.diagonal(r, offset=-k, axis1=-2, axis2=-1)[..., 1:]
        count = later.shape[-1]
        gained = (own[..., 1 : count + 1] - before[..., :count]).mean(-1)
        shares.append((later - before[..., :count]).mean(-1) / np.where(np.abs(gained) < 1e-12, np.nan, gained))
    return np.stack(shares, axis=-1)


def half_life(r: Array) -> Array:
    """Days until retention first falls to one half, interpolated; infinite if it does not in half of the days."""
    share = retention(r)[..., : max(r.shape[-1] // 2, 2)]
    flat = share.reshape(-1, share.shape[-1])
    found = np.full(len(flat), np.inf)
    for n, curve in enumerate(flat):
        below = np.flatnonzero(curve <= 0.5)
        if len(below):
            k = below[0]
            step = 0.0 if k == 0 else (curve[k - 1] - 0.5) / (curve[k - 1] - curve[k])
            found[n] = 0.0 if k == 0 else k - 1 + step
    return found.reshape(share.shape[:-1])


MEASURES = {
    "forgetting": forgetting,
    "backward transfer": backward_transfer,
    "forward transfer": forward_transfer,
    "recency area": recency_area,
    "half-life, days": half_life,
}


def matrices(users: Records, samples: int = SAMPLES, seed: int = 1) -> tuple[list[Any], Array, Array]:
    """The days, R [T, T], and `samples` of it [samples, T, T] with the users of each day drawn anew.

    `users` has one record per model date, day and user of one variant and seed: its AUC and impressions.
    """
    days = sorted({record["day"] for record in users})
    position = {day: i for i, day in enumerate(days)}
    r = np.full((len(days), len(days)), np.nan)
    drawn = np.full((samples, len(days), len(days)), np.nan)
    rng = np.random.default_rng(seed)
    per_day: dict[Any, Records] = {day: [] for day in days}
    for record in users:
        per_day[record["day"]].append(record)
    for day, records in per_day.items():
        names = {user: n for n, user in enumerate(sorted({record["user"] for record in records}))}
        auc, weight = np.zeros((len(days), len(names))), np.zeros(len(names))
        for record in records:
            auc[position[record["model_date"]], names[record["user"]]] = record["auc"]
            weight[names[record["user"]]] = record["impressions"]
        r[:, position[day]] = auc @ weight / weight.sum()
        draws = rng.poisson(1.0, (samples, len(names))) * weight
        drawn[:, :, position[day]] = (draws @ auc.T) / np.maximum(draws.sum(1, keepdims=True), 1e-12)
    return days, r, drawn


def measure(r: Array, drawn: Array) -> dict[str, Measure]:
    """All measures of one matrix, or of the mean over seeds when both have a leading axis of seeds."""
    found = {}
    for name, function in MEASURES.items():
        value, samples = function(r), function(drawn)
        if r.ndim == 3:
            value, samples = value.mean(0), samples.mean(0)
        low, high = np.quantile(samples, [0.025, 0.975], method="nearest")
        found[name] = Measure(float(value), float(low), float(high))
    return found
