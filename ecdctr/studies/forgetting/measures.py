"""What a forgetting matrix says: transfer, forgetting, retention.

Intervals come from a bootstrap over users. R[i, j] is the GAUC of the model after day i on held-out
ads of day j, both counted from the study's first day.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecdctr.errors import EcdctrError

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLES = 500
Array = NDArray[np.float64]


class Measure(NamedTuple):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


class Matrix(NamedTuple):
    """R [..., T, T] of one variant, and `samples` of it [..., samples, T, T] with users drawn anew.

    `halves` [..., 2, T, T] and `drawn_halves` are the same for each half of the users, nan where a
    half has nobody. One seed's matrix has no leading axis; several seeds are stacked along the
    first.
    """

    r: Array
    drawn: Array
    halves: Array
    drawn_halves: Array

    @classmethod
    def of_rows(
        cls, rows: list[pa.Table], days: list[Any], samples: int = SAMPLES, seed: int = 1
    ) -> Matrix:
        """Make a matrix from its rows, first model first.

        Each has the columns day, user, impressions and auc.

        Raises EcdctrError for a day on which no user has both a click and a non-click, and for rows
        that are not of the same users, days and impressions.

        A user is drawn with all days, since days of one user are not independent (bootstrap over
        clusters). The same seed and users give the same draws, so that variants are compared on the
        same users.
        """
        of = [row.select(["day", "user", "impressions"]) for row in rows]
        if not all(other.equals(of[0]) for other in of):
            raise EcdctrError(
                "The rows of the matrix are not of the same held-out ads: days, users and "
                "impressions differ; evaluate them again (ecdctr matrix row, or start the study "
                "again)."
            )
        of_first = rows[0].column("day").to_pylist()
        lacking = [str(date) for date in days if date not in set(of_first)]
        if lacking:
            raise EcdctrError(
                "No user has both a click and a non-click among the held-out ads of "
                f"{', '.join(lacking[:5])}; hold out more of them (a smaller hold_out_every)."
            )
        position = {date: i for i, date in enumerate(days)}
        day = np.array([position[date] for date in of_first])
        encoded = rows[0].column("user").combine_chunks().dictionary_encode()
        user, users = encoded.indices.to_numpy(), len(encoded.dictionary)
        weight = rows[0].column("impressions").to_numpy().astype(np.float64)
        auc = np.stack([row.column("auc").to_numpy() for row in rows])
        rng = np.random.default_rng(seed)
        draws = rng.poisson(1.0, (samples, users)).astype(np.float64)
        draws[0] = 1.0  # the first "sample" is everybody: R itself
        half = rng.permutation(users) % 2
        parts = np.full((3, samples, len(rows), len(days)), np.nan)
        for j in range(len(days)):
            for part, chosen in enumerate(
                (day == j, (day == j) & (half[user] == 0), (day == j) & (half[user] == 1))
            ):
                sampled = draws[:, user[chosen]] * weight[chosen]
                total = sampled.sum(1, keepdims=True)
                mean = (sampled @ auc[:, chosen].T) / np.where(total > 0, total, np.nan)
                parts[part, :, :, j] = mean
        whole, halves = parts[0], np.moveaxis(parts[1:], 0, 1)
        return cls(whole[0], whole[1:], halves[0], halves[1:])

    @classmethod
    def stack(cls, seeds: list[Matrix]) -> Matrix:
        """Return several seeds as one, along a new first axis."""
        return cls(*(np.stack(field) for field in zip(*seeds, strict=True)))


def backward_transfer(r: Array) -> Array:
    """Return the mean over days j of R[T, j] - R[j, j]: below 0 is forgetting.

    Lopez-Paz and Ranzato 2017, arXiv 1706.08840.
    """
    last = r[..., -1, :-1]
    change: Array = (last - np.diagonal(r, axis1=-2, axis2=-1)[..., :-1]).mean(-1)
    return change


def next_day(r: Array) -> Array:
    """Return the mean over days j of R[j - 1, j] [..., T, T] → [...]: what users would have seen.

    Minus 0.5 it is the forward transfer (as above).
    """
    mean: Array = np.diagonal(r, offset=1, axis1=-2, axis2=-1).mean(-1)
    return mean


def forward_transfer(r: Array) -> Array:
    """Return the mean over days j of R[j - 1, j] - 0.5 [..., T, T] → [...] (as above).

    What is known of a day before it came, over chance.
    """
    return next_day(r) - 0.5


def largest_drop(r: Array) -> Array:
    """Return the mean over days j of max over j <= i < T of R[i, j], minus R[T, j].

    Chaudhry et al. 2018, arXiv 1801.10112.

    The maximum over noisy cells picks noise: models that forget nothing have a large one, too. See
    `forgetting`.
    """
    days = r.shape[-1]
    learned = np.tril(np.ones((days, days), dtype=bool))
    best = np.where(learned, r, -np.inf)[..., :-1, :-1].max(-2)
    drop: Array = (best - r[..., -1, :-1]).mean(-1)
    return drop


def forgetting(halves: Array) -> Array:
    """Return the same quantity without the noise of its maximum: halves [..., 2, T, T] → [...].

    Half of the users choose the best earlier model of each day, the other half say how much better
    it is than the last one, and the other way round (cross-fitting, as for any maximum over
    estimates). 0 where nothing is forgotten.
    """
    days = halves.shape[-1]
    learned = np.tril(np.ones((days, days), dtype=bool))[:-1, :-1]
    earlier, last = halves[..., :-1, :-1], halves[..., -1, :-1]
    choice = np.where(learned & np.isfinite(earlier), earlier, -np.inf).argmax(-2)[..., ::-1, :]
    chosen = np.take_along_axis(earlier, choice[..., None, :], axis=-2)[..., 0, :]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a draw without users on any day
        drop: Array = np.nanmean(chosen - last, axis=(-2, -1))
    return drop


def recency_curve(r: Array) -> Array:
    """Return GAUC on days that lie k days back, the mean over all such cells.

    [..., T], k = 0 first.
    """
    return np.stack(
        [np.diagonal(r, offset=-k, axis1=-2, axis2=-1).mean(-1) for k in range(r.shape[-1])],
        axis=-1,
    )


def recency_area(r: Array, days: int | None = None) -> Array:
    """Return the mean of the recency curve over the first `days`.

    By default these are half of them, where each k has many cells.
    """
    area: Array = recency_curve(r)[..., : days or max(r.shape[-1] // 2, 1)].mean(-1)
    return area


def retention(r: Array) -> Array:
    """Return the share that is left k days later of what a day taught: [..., T - 1].

    (R[j + k, j] - R[j - 1, j]) over (R[j, j] - R[j - 1, j]), numerator and denominator averaged
    over the same days j.
    """
    days = r.shape[-1]
    same_day = np.diagonal(r, axis1=-2, axis2=-1)
    before = np.diagonal(r, offset=1, axis1=-2, axis2=-1)  # R[j - 1, j] for j = 1 …
    shares = []
    for k in range(days - 1):
        later = np.diagonal(r, offset=-k, axis1=-2, axis2=-1)[..., 1:]
        count = later.shape[-1]
        gained = (same_day[..., 1 : count + 1] - before[..., :count]).mean(-1)
        shares.append(
            (later - before[..., :count]).mean(-1)
            / np.where(np.abs(gained) < 1e-12, np.nan, gained)
        )
    return np.stack(shares, axis=-1)


def half_life(r: Array) -> Array:
    """Return days [...] until retention of r [..., models, days] first falls to one half.

    Interpolated between days; infinite if it does not in half of the days.
    """
    share = retention(r)[..., : max(r.shape[-1] // 2, 2)]
    flat = share.reshape(-1, share.shape[-1])
    half_lives = np.full(len(flat), np.inf)
    for n, curve in enumerate(flat):
        below = np.flatnonzero(curve <= 0.5)
        if len(below):
            k = below[0]
            step = 0.0 if k == 0 else (curve[k - 1] - 0.5) / (curve[k - 1] - curve[k])
            half_lives[n] = 0.0 if k == 0 else k - 1 + step
    return half_lives.reshape(share.shape[:-1])


MEASURES: dict[str, Callable[[Array], Array]] = {
    "next-day GAUC": next_day,
    "forgetting": forgetting,
    "largest drop": largest_drop,
    "backward transfer": backward_transfer,
    "forward transfer": forward_transfer,
    "recency area": recency_area,
    "half-life, days": half_life,
}


def measure(matrix: Matrix) -> dict[str, Measure]:
    """Return all measures of the mean over seeds, with intervals."""
    return {name: _measure(*values_of(name, matrix)) for name in MEASURES}


def values_of(name: str, matrix: Matrix) -> tuple[Array, Array]:
    """Return a measure of each seed, and of each draw of users."""
    function = MEASURES[name]
    if function is forgetting:
        return function(matrix.halves), function(matrix.drawn_halves)
    return function(matrix.r), function(matrix.drawn)


def difference(name: str, ours: Matrix, theirs: Matrix) -> Measure:
    """Return a measure of one variant minus that of another, on the same draws of users."""
    (value, drawn), (other, other_drawn) = values_of(name, ours), values_of(name, theirs)
    return _measure(value - other, drawn - other_drawn)


def forgets_less(ours: Matrix, theirs: Matrix) -> Measure:
    """Return by which share one variant's forgetting lies below another's.

    The means over seeds are compared. The other must forget something.
    """
    (value, drawn), (other, base) = values_of("forgetting", ours), values_of("forgetting", theirs)
    low, high = np.nanquantile(1 - drawn.mean(0) / base.mean(0), [0.025, 0.975])
    return Measure(float(1 - value.mean() / other.mean()), float(low), float(high))


def recommend(variants: dict[str, Matrix]) -> str:
    """Return which variant to deploy, or that this cannot be told.

    The best on the next day; of those that cannot be told apart from it there, the one that surely
    forgets less than each of them. Where there is none nothing is recommended but not to take those
    that surely forget more.
    """
    if len(variants) == 1:
        return "One variant alone: there is nothing to compare it with."
    best = max(variants, key=lambda name: next_day(variants[name].r).mean())
    leads = {name: difference("next-day GAUC", variants[best], variants[name]) for name in variants}
    equal = [name for name in variants if name == best or not leads[name].low > 0]
    choice = min(equal, key=lambda name: forgetting(variants[name].halves).mean())
    rivals = [name for name in equal if name != choice]
    less = {n: difference("forgetting", variants[choice], variants[n]) for n in rivals}
    alike = [name for name in equal if name == choice or not less[name].high < 0]
    if len(alike) > 1:
        return _no_advice(variants, alike, [name for name in equal if name not in alike])
    measured = measure(variants[choice])
    text = (
        f"Deploy {choice}: next-day GAUC {measured['next-day GAUC']}, forgetting "
        f"{measured['forgetting']}."
    )
    if rivals:
        text += (
            f" On the next day it cannot be told apart from {', '.join(rivals)}; it surely "
            "forgets less."
        )
    for name, matrix in variants.items():
        if name not in equal:
            ahead = difference("next-day GAUC", variants[choice], matrix)
            text += (
                f" It is {ahead.value:+.4f} [{ahead.low:+.4f}, {ahead.high:+.4f}] ahead of {name}."
            )
    return text


def _no_advice(variants: dict[str, Matrix], alike: list[str], forget_more: list[str]) -> str:
    """Return what cannot be told, and how much more would have to be looked at.

    An interval narrows with the root of what it rests on, so that a difference that lies half as
    far from zero as its interval reaches needs four times as much.
    """
    best = max(alike, key=lambda name: next_day(variants[name].r).mean())
    leads = {
        name: difference("next-day GAUC", variants[best], variants[name])
        for name in alike
        if name != best
    }
    widest = max(leads, key=lambda name: leads[name].value)
    lead = leads[widest]
    seeds, days = variants[best].r.shape[:2]
    text = (
        f"No advice: {', '.join(alike)} can be told apart neither on the next day ({best} is "
        f"{lead.value:+.4f} [{lead.low:+.4f}, {lead.high:+.4f}] ahead of {widest}) nor surely by "
        f"what they forget, from {days} days and {seeds} {'seed' if seeds == 1 else 'seeds'}."
    )
    reach = lead.value - lead.low
    if lead.value > 0 and reach > 0:
        more = max((reach / lead.value) ** 2, 2.0)
        text += (
            f" For a difference of this size some {more:.0f} times as many held-out ads are needed:"
        )
    else:
        text += " What would help:"
    text += " more days, more of each day's ads held out; and more seeds."
    if forget_more:
        text += f" Surely forgets more, and is no better on the next day: {', '.join(forget_more)}."
    behind = [name for name in variants if name not in alike and name not in forget_more]
    return text + (f" Surely behind on the next day: {', '.join(behind)}." if behind else "")


def _measure(values: Array, drawn: Array) -> Measure:
    low, high = np.nanquantile(drawn.mean(0), [0.025, 0.975], method="nearest")
    return Measure(float(values.mean()), float(low), float(high))
